//! Create, commit, import, adopt, tag, find, tree, history.

use super::*;
use crate::{ErrorKind, ImageId, NameInUse};
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;

fn with_base() -> (Folder, Places, Store) {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    import(&store, &places, "base", 1);
    (folder, places, store)
}

#[test]
fn a_committed_container_goes_on_and_its_image_stays_as_it_was() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    let api = commit(&store, &leaf, "api");
    let bytes = std::fs::read(&api.file).unwrap();
    assert_eq!((read(&store, &leaf), read(&store, &api.file)), (2, 2));
    write(&store, &leaf, 3);
    assert_eq!((read(&store, &leaf), read(&store, &api.file)), (3, 2));
    assert!(bytes == std::fs::read(&api.file).unwrap());
    assert_eq!(std::fs::metadata(&api.file).unwrap().permissions().mode() & 0o777, 0o444);

    let second = container(&store, &places, "api", "c2", 4);
    assert_eq!(read(&store, &second), 4);
    assert_eq!(store.chain(&second).unwrap().len(), 4);
    let parent = store.parent_of(&leaf).unwrap().unwrap();
    assert_eq!((parent.image, parent.depth), (Some(api.id), 4));
}

#[test]
fn a_new_image_takes_a_name_in_use_only_where_that_is_asked_for() {
    let (_folder, places, store) = with_base();
    let taken = import(&store, &places, "taken", 2);
    let begin = || {
        let ground = store.image_ground(&taken.id).unwrap();
        store.begin_layer(&ground, "made").unwrap()
    };
    let new = || new_image(Some("taken"));
    let before = picture(&store, &places);
    let refused = store.publish_over(begin(), &taken.id, new(), NameInUse::Stays).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let said = format!("the name taken:latest is in use by image {}", taken.id.short());
    assert_eq!(refused.to_string(), said);
    assert_eq!(store.check_unused(&named("TAKEN")).unwrap_err().to_string(), said);
    assert_eq!(picture(&store, &places), before);
    let made = store.publish_over(begin(), &taken.id, new(), NameInUse::Moves).unwrap();
    assert_eq!(store.find("taken").unwrap().id, made.id);
}

#[test]
fn everything_is_there_after_a_restart() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    let api = commit(&store, &leaf, "me/api:1");
    let before = picture(&store, &places);
    drop(store);
    let store = places.open();
    assert_eq!(picture(&store, &places), before);
    let again = store.find("me/api:1").unwrap();
    assert_eq!((again.id, again.guid, again.created), (api.id, api.guid, api.created));
    assert_eq!(again.config, api.config);
}

#[test]
fn a_new_scratch_disk_takes_less_than_a_mebibyte() {
    let (_folder, places, store) = with_base();
    std::fs::create_dir_all(places.container("c")).unwrap();
    let image = store.find("base").unwrap().id;
    let leaf = store.create_scratch(&image, &places.container("c")).unwrap();
    assert_eq!(leaf.file_name().unwrap(), "base.vhdx");
    assert!(std::fs::metadata(&leaf).unwrap().blocks() * 512 < 1 << 20);
    let link = vhdx::info(&leaf).unwrap().parent.unwrap();
    let file = store.find("base").unwrap().file;
    let name = file.file_name().unwrap().to_str().unwrap();
    assert_eq!(link.relative_path.unwrap(), format!(r"..\..\images\{name}"));
}

#[test]
fn layers_in_images_name_their_parent_as_a_sibling() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    let api = commit(&store, &leaf, "api");
    for file in [&api.file, &store.find("base").unwrap().file] {
        let path = vhdx::info(file).unwrap().parent.unwrap().relative_path.unwrap();
        let parent = path.strip_prefix(r".\").unwrap();
        assert!(places.root.join("images").join(parent).exists(), "{path}");
        assert!(!vhdx::info(file).unwrap().dirty_log);
    }
}

#[test]
fn a_scratch_disk_is_only_made_in_a_containers_folder() {
    let (_folder, places, store) = with_base();
    let image = store.find("base").unwrap().id;
    let error = store.create_scratch(&image, &places.root).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadInput);
    let nobody: ImageId = "0".repeat(64).parse().unwrap();
    std::fs::create_dir_all(places.container("c")).unwrap();
    let error = store.create_scratch(&nobody, &places.container("c")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(std::fs::read_dir(places.container("c")).unwrap().next().is_none());
}

#[test]
fn an_image_is_found_by_name_id_and_unique_prefix() {
    let (_folder, _places, store) = with_base();
    let id = store.find("base").unwrap().id;
    for text in [
        "base:latest",
        "library/base",
        "docker.io/library/base:latest",
        &id.to_string(),
        &id.hex(),
        &id.short(),
        &format!("sha256:{}", id.short()),
    ] {
        assert_eq!(store.find(text).unwrap().id, id, "{text}");
    }
    for (text, kind, message) in [
        ("nothing", ErrorKind::NotFound, "No such image: nothing:latest"),
        ("base:2", ErrorKind::NotFound, "No such image: base:2"),
        ("", ErrorKind::BadInput, "invalid reference format"),
        ("Base:2", ErrorKind::NotFound, "No such image: Base:2"),
        ("(", ErrorKind::BadInput, "invalid reference format"),
    ] {
        let error = store.find(text).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, message));
    }
}

#[test]
fn a_prefix_of_several_ids_is_refused() {
    let (_folder, places, store) = with_base();
    for n in 0..16 {
        import(&store, &places, &format!("x{n}"), n);
    }
    // Seventeen ids, sixteen first digits.
    let ambiguous = "0123456789abcdef".chars().any(|digit| {
        store.find(&digit.to_string()).is_err_and(|error| {
            error.to_string() == format!("multiple IDs found with provided prefix: {digit}")
        })
    });
    assert!(ambiguous);
}

#[test]
fn a_tag_moves_to_the_image_that_got_it_last() {
    let (_folder, places, store) = with_base();
    let old = store.find("base").unwrap().id;
    let leaf = container(&store, &places, "base", "c1", 2);
    let new = commit(&store, &leaf, "base");
    assert_eq!(store.find("base").unwrap().id, new.id);
    assert!(store.find(&old.hex()).unwrap().names.is_empty());
    store.tag(&old, &named("localhost:5000/old")).unwrap();
    assert_eq!(store.find("localhost:5000/old:latest").unwrap().id, old);
}

#[test]
fn a_name_is_found_and_shown_as_it_was_given() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    let image = commit(&store, &leaf, "Win2016_Hyper-V");
    let file = image.file.file_name().unwrap().to_str().unwrap();
    assert!(file.starts_with("Win2016_Hyper-V_"), "{file}");
    for spelling in ["Win2016_Hyper-V", "win2016_hyper-v", "WIN2016_HYPER-V:latest"] {
        assert_eq!(store.find(spelling).unwrap().id, image.id, "{spelling}");
    }
    store.tag(&image.id, &named("日本語")).unwrap();
    drop(store);
    let store = places.open();
    let again = store.find("日本語").unwrap();
    assert_eq!(again.id, store.find("xn--wgv71a119e").unwrap().id);
    let names: Vec<_> = again.names.iter().map(Name::familiar).collect();
    assert_eq!(names, ["Win2016_Hyper-V:latest", "日本語:latest"]);
}

#[test]
fn another_spelling_of_a_name_that_is_taken_is_refused() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    let before = picture(&store, &places);
    let base = store.find("base").unwrap().id;
    assert_eq!(store.tag(&base, &named("BASE")).unwrap_err().kind(), ErrorKind::Conflict);
    let error = store.begin_commit(&leaf, &[], new_image(Some("Base"))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Base and base are one name to docker, and an image is called base:latest"
    );
    assert_eq!(picture(&store, &places), before);
}

#[test]
fn an_image_can_be_renamed_but_not_to_anothers_name() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    let web = commit(&store, &leaf, "web").id;
    let error = store.rename(&named("web"), &named("base")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    store.rename(&named("web"), &named("Web")).unwrap();
    assert_eq!(store.find("web").unwrap().names[0].familiar(), "Web:latest");
    assert_eq!(store.rename(&named("web"), &named("api:2")).unwrap(), web);
    assert_eq!(store.find("api:2").unwrap().id, web);
    assert_eq!(store.find("web").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn equal_commits_differ_in_id() {
    let (_folder, places, store) = with_base();
    let (one, two) =
        (container(&store, &places, "base", "c1", 2), container(&store, &places, "base", "c2", 2));
    let new = new_image(None);
    let commit = |leaf: &Path| {
        let pending = store.begin_commit(leaf, &[], new.clone()).unwrap();
        store.freeze_stopped(&pending).unwrap();
        store.publish_commit(pending).unwrap()
    };
    assert_ne!(commit(&one).id, commit(&two).id);
}

#[test]
fn history_and_tree_show_how_images_came_about() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    let web = commit(&store, &leaf, "web");
    let api = commit(&store, &leaf, "api");
    let base = store.find("base").unwrap();
    let steps = store.history(&api.id).unwrap();
    let made: Vec<_> = steps.iter().map(|step| step.image.unwrap()).collect();
    assert_eq!(made, [api.id, web.id, base.id]);
    assert!(steps.iter().all(|step| step.own_bytes > 0));
    let tree = store.tree();
    assert_eq!(tree.roots, [base.id]);
    assert_eq!(tree.nodes[&base.id].children, [web.id]);
    assert_eq!(tree.nodes[&web.id].children, [api.id]);
    assert_eq!(api.parent_image, Some(web.id));
    assert_eq!(api.depth, 4);
    assert!(api.total_bytes > api.own_bytes);
}

#[test]
fn one_disk_has_one_commit_at_a_time() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    let before = picture(&store, &places);
    let pending = store.begin_commit(&leaf, &[], new_image(None)).unwrap();
    let error = store.begin_commit(&leaf, &[], new_image(None)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    store.abort_commit(pending).unwrap();
    assert_eq!(picture(&store, &places), before);
    commit(&store, &leaf, "api");
}

#[test]
fn a_commit_that_fails_after_the_freeze_leaves_a_layer_the_container_stands_on() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    let before = picture(&store, &places);
    let pending = store.begin_commit(&leaf, &[], new_image(Some("api"))).unwrap();
    store.freeze_stopped(&pending).unwrap();
    store.abort_commit(pending).unwrap();
    let after = picture(&store, &places);
    assert_eq!((&after.images, &after.containers), (&before.images, &before.containers));
    assert_eq!(after.files, before.files + 1);
    // The next image continues its history, and the layer goes with its last user.
    let web = commit(&store, &leaf, "web");
    assert_eq!(web.parent_image, Some(store.find("base").unwrap().id));
    assert_eq!(store.history(&web.id).unwrap().len(), 3);
    drop(store);
    let store = places.open();
    assert_eq!(picture(&store, &places).files, before.files + 2);
}

#[test]
fn a_disk_that_is_in_use_is_not_frozen_behind_its_users_back() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    let running = Chain::open(&store.chain(&leaf).unwrap(), Access::ReadWrite).unwrap();
    let pending = store.begin_commit(&leaf, &[], new_image(None)).unwrap();
    assert_eq!(store.freeze_stopped(&pending).unwrap_err().kind(), ErrorKind::InUse);
    store.abort_commit(pending).unwrap();
    running.flush().unwrap();
    running.close().unwrap();
    assert_eq!(read(&store, &leaf), 2);
}

#[test]
fn a_commit_begun_before_a_restart_is_left_to_the_living_shim_and_then_settled() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    let mut shim = Chain::open(&store.chain(&leaf).unwrap(), Access::ReadWrite).unwrap();
    let pending = store.begin_commit(&leaf, &[], new_image(Some("api"))).unwrap();
    let plan = ireko_disk::FreezePlan {
        frozen: pending.own.frozen.clone(),
        frozen_parent: pending.own.frozen_parent.clone(),
        next_parent: pending.own.next_parent.clone(),
    };
    drop(store);

    let store = places.open();
    assert!(store.find("api").is_err());
    let error = store.begin_commit(&leaf, &[], new_image(None)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    shim.freeze(&plan).unwrap();
    let images = store.settle_commits(&leaf).unwrap();
    assert_eq!(images[0].id, store.find("api").unwrap().id);
    assert!(store.settle_commits(&leaf).unwrap().is_empty());
    shim.close().unwrap();
    picture(&store, &places);
}

#[test]
fn a_commit_that_a_living_shim_never_began_is_forgotten_when_settled() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    let before = picture(&store, &places);
    let shim = Chain::open(&store.chain(&leaf).unwrap(), Access::ReadWrite).unwrap();
    let _lost = store.begin_commit(&leaf, &[], new_image(Some("api"))).unwrap();
    drop(store);
    let store = places.open();
    assert!(store.settle_commits(&leaf).unwrap().is_empty());
    shim.close().unwrap();
    assert_eq!(picture(&store, &places), before);
}

#[test]
fn a_commit_that_was_dropped_is_settled_by_the_next() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    drop(store.begin_commit(&leaf, &[], new_image(Some("never"))).unwrap());
    let dropped = store.begin_commit(&leaf, &[], new_image(Some("frozen"))).unwrap();
    store.freeze_stopped(&dropped).unwrap();
    drop(dropped);
    assert_eq!(store.parent_of(&leaf).unwrap().unwrap().depth, 4);
    let web = commit(&store, &leaf, "web");
    assert!(store.find("never").is_err());
    assert_eq!(web.parent_image, Some(store.find("frozen").unwrap().id));
    picture(&store, &places);
}

#[test]
fn an_independent_reader_sees_every_image_of_a_chain() {
    let folder = temporary();
    let places = Places::make(folder.path());
    let files = {
        let _nobody = nobody_forks();
        let store = places.open();
        let base = import(&store, &places, "base", 1);
        let leaf = container(&store, &places, "base", "c", 2);
        let web = commit(&store, &leaf, "web");
        write(&store, &leaf, 3);
        let api = commit(&store, &leaf, "api");
        [(base.file, 1), (web.file, 2), (api.file, 3)]
    };
    for (file, mark) in files {
        let mut command = Command::new("7zz");
        let Ok(seen) = output(command.args(["e", "-tvhdx", "-so"]).arg(&file)) else {
            return eprintln!("skipped: 7zz is not installed");
        };
        assert_eq!(seen.stdout.len(), 64 << 20, "{}", String::from_utf8_lossy(&seen.stderr));
        let (before, after) = seen.stdout.split_at(MARK as usize);
        assert!(before.iter().chain(&after[4096..]).all(|byte| *byte == 0));
        assert!(after[..4096].iter().all(|byte| *byte == mark));
    }
}

#[test]
fn a_chain_of_250_files_is_not_committed_again() {
    let (_folder, places, store) = with_base();
    let leaf = container(&store, &places, "base", "c1", 2);
    loop {
        // The leaf itself would become one of the files.
        if store.chain(&leaf).unwrap().len() > crate::MAX_DEPTH {
            break;
        }
        let pending = store.begin_commit(&leaf, &[], new_image(None)).unwrap();
        store.freeze_stopped(&pending).unwrap();
        store.publish_commit(pending).unwrap();
    }
    let error = store.begin_commit(&leaf, &[], new_image(None)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(store.tree().nodes.len(), crate::MAX_DEPTH - 1);
}

#[test]
fn an_image_goes_through_the_cache_into_another_root_unchanged() {
    let (folder, places, store) = with_base();
    let base = store.find("base").unwrap();
    let cached = places.cache.join("base.vhdx");
    store.copy_out(&base.id, &cached).unwrap();

    let other = Places { root: folder.path().join("other"), cache: places.cache.clone() };
    let second = other.open();
    let files = [other.common_root(), cached];
    for _ in 0..2 {
        let adopted = second.adopt(&files, &named("base")).unwrap();
        assert_eq!((adopted.id, adopted.guid), (base.id, base.guid));
        assert_eq!(adopted.file.file_name(), base.file.file_name());
    }
    assert_eq!(picture(&second, &other), picture(&store, &places));
}

#[test]
fn an_image_that_became_a_layer_is_adopted_back() {
    let (_folder, places, store) = with_base();
    let base = store.find("base").unwrap();
    let cached = places.cache.join("base.vhdx");
    store.copy_out(&base.id, &cached).unwrap();
    container(&store, &places, "base", "c1", 2);
    let before = picture(&store, &places);
    store.remove("base", true, &[]).unwrap();
    assert!(store.list().is_empty());
    store.adopt(&[places.common_root(), cached], &named("base")).unwrap();
    assert_eq!(picture(&store, &places), before);
}

#[test]
fn a_cache_whose_files_do_not_fit_together_is_refused_and_leaves_nothing() {
    let (folder, places, store) = with_base();
    let cached = places.cache.join("base.vhdx");
    store.copy_out(&store.find("base").unwrap().id, &cached).unwrap();
    std::fs::remove_file(places.common_root()).unwrap();
    vhdx::create(&places.common_root(), &CreateOptions::new(64 << 20)).unwrap();

    let other = Places { root: folder.path().join("other"), cache: places.cache.clone() };
    let second = other.open();
    let error = second.adopt(&[other.common_root(), cached], &named("base")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(second.list().is_empty());
    second.collect();
    assert_eq!(picture(&second, &other).files, 0);
}

#[test]
fn an_import_that_is_given_up_leaves_nothing() {
    let (_folder, places, store) = with_base();
    let before = picture(&store, &places);
    let pending = begin_import(&store, &places, "web", 7);
    std::fs::write(pending.work_dir.join("tar"), "x").unwrap();
    store.abort_app_layer(pending).unwrap();
    assert_eq!(picture(&store, &places), before);
    drop(begin_import(&store, &places, "web", 7));
    assert_eq!(picture(&store, &places), before);
}

#[test]
fn many_threads_may_use_the_store_at_once() {
    let (_folder, places, store) = with_base();
    std::thread::scope(|scope| {
        for n in 0..4_u8 {
            let (store, places) = (&store, &places);
            scope.spawn(move || {
                let name = format!("t{n}");
                let leaf = container(store, places, "base", &name, n + 10);
                commit(store, &leaf, &name);
                import(store, places, &format!("i{n}"), n + 20);
                store.collect();
                assert_eq!(read(store, &leaf), n + 10);
            });
        }
    });
    assert_eq!(store.list().len(), 9);
    picture(&store, &places);
}
