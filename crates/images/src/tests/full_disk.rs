//! A full disk at any moment leaves the store as it was.

use super::*;
use crate::step::test::full_from;
use crate::{Error, ErrorKind, FoldExtent, Removed};
use ireko_disk::vhdx::ChildOptions;
use std::process::Command;

/// Runs a verb on a disk that fills up at its first write, its second, … until it succeeds.
#[track_caller]
fn check(verb: impl Fn(&Store, &Places) -> Result<(), Error>) {
    check_after(|_, _| (), verb);
}

/// The same after what `prepare` does with much space.
#[track_caller]
fn check_after(
    prepare: impl Fn(&Store, &Places),
    verb: impl Fn(&Store, &Places) -> Result<(), Error>,
) {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    import(&store, &places, "base", 1);
    container(&store, &places, "base", "c", 2);
    store.copy_out(&store.find("base").unwrap().id, &places.cache.join("base.vhdx")).unwrap();
    prepare(&store, &places);
    let before = picture(&store, &places);
    for writes in 0.. {
        assert!(writes < 100, "the verb never succeeds");
        match full_from(writes, || verb(&store, &places)) {
            Ok(()) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
        }
        let after = picture(&store, &places);
        assert_eq!(
            (&after.images, &after.data, &after.containers),
            (&before.images, &before.data, &before.containers)
        );
    }
    assert_ne!(picture(&store, &places), before);
    drop(store);
    picture(&places.open(), &places);
}

#[test]
fn while_committing() {
    check(|store, places| {
        let leaf = places.container("c").join("base.vhdx");
        let pending = store.begin_commit(&leaf, &[], new_image(Some("web")))?;
        if let Err(error) = store.freeze_stopped(&pending) {
            store.abort_commit(pending)?;
            return Err(error);
        }
        store.publish_commit(pending).map(drop)
    });
}

#[test]
fn while_committing_all_disks() {
    let prepare = |store: &Store, places: &Places| drop(data_disk(store, places, "base", "c", 3));
    check_after(prepare, |store, places| {
        let (leaf, data) = disks_of(places, "c", "base");
        commit_all(store, &leaf, &data, "web").map(drop)
    });
}

#[test]
fn while_creating_data_disks() {
    let prepare = |store: &Store, places: &Places| {
        let data = [data_disk(store, places, "base", "c", 3)];
        let leaf = places.container("c").join("base.vhdx");
        commit_all(store, &leaf, &data, "web").unwrap();
        std::fs::create_dir_all(places.container("d")).unwrap();
    };
    check_after(prepare, |store, places| data_children(store, places, "web", "d").map(drop));
    check_after(prepare, |store, places| {
        let (web, name) = (store.find("web")?.id, "more".parse()?);
        store.create_blank_disk(&web, &places.container("d"), &name, 64 << 20).map(drop)
    });
    check_after(prepare, |store, places| {
        let file = places.cache.join("base.vhdx");
        let mut pending = store.begin_data_disk(&file, crate::recognise(&file, None)?)?;
        store.fill_data_disk(&mut pending, &())?;
        let (web, name) = (store.find("web")?.id, "more".parse()?);
        store.place_data_disk(pending, &web, &places.container("d"), &name).map(drop)
    });
}

#[test]
fn while_importing() {
    check(|store, places| {
        let pending = store.begin_app_layer(&places.common_root(), "web")?;
        store.publish_app_layer(pending, new_image(Some("web"))).map(drop)
    });
}

#[test]
fn while_importing_a_disk() {
    check(|store, places| {
        let file = places.cache.join("web.vhdx");
        if !file.exists() {
            let base = store.find("base").unwrap().file;
            vhdx::create_child(&file, &base, r".\base.vhdx", &ChildOptions::default()).unwrap();
        }
        super::imports::import_disk(store, &file, None).map(drop)
    });
}

#[test]
fn while_importing_an_archive_of_several_disks() {
    let prepare = |store: &Store, places: &Places| super::crash::prepare_disks(store, places);
    check_after(prepare, |store, places| {
        let file = places.cache.join(super::crash::PACKED);
        super::imports::import_disk(store, &file, Some("packed")).map(drop)
    });
}

#[test]
fn while_creating() {
    check(|store, places| {
        std::fs::create_dir_all(places.container("d")).unwrap();
        let image = store.find("base")?.id;
        store.create_scratch(&image, &places.container("d")).map(drop)
    });
}

#[test]
fn while_tagging() {
    check(|store, _| store.tag(&store.find("base")?.id, &named("other")));
}

#[test]
fn while_renaming() {
    check(|store, _| store.rename(&named("base"), &named("other")).map(drop));
}

#[test]
fn while_removing() {
    check(|store, _| store.remove("base", true, &[]).map(drop));
}

#[test]
fn while_removing_a_tree() {
    check(|store, _| store.remove_tree("base", &[]).map(drop));
}

fn commit_web(store: &Store, places: &Places) {
    commit(store, &places.container("c").join("base.vhdx"), "web");
}

#[test]
fn while_merging() {
    check_after(commit_web, |store, _| {
        merge(store, "web", "flat", MergeFiles::Top(2), Sources::Keep).map(drop)
    });
}

#[test]
fn while_merging_in_place_of_the_sources() {
    check_after(commit_web, |store, _| {
        merge(store, "web", "flat", MergeFiles::Top(2), Sources::Delete).map(drop)
    });
}

#[test]
fn while_folding() {
    let prepare = |store: &Store, places: &Places| {
        for image in ["x", "y"] {
            commit(store, &places.container("c").join("base.vhdx"), image);
            store.remove(image, true, &[]).unwrap();
        }
    };
    check_after(prepare, |store, _| store.fold(FoldExtent::Whole, &()).map(drop));
}

#[test]
fn while_repairing() {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    import(&store, &places, "base", 1);
    let leaf = container(&store, &places, "base", "c", 2);
    let before = picture(&store, &places);
    super::repair::rename(&store.find("base").unwrap().file, "renamed");
    let mut failures = 0;
    for writes in 0.. {
        match full_from(writes, || store.repair()) {
            Ok(repaired) if repaired.broken.is_empty() => break,
            Ok(repaired) => assert_eq!(repaired.broken.len(), 1),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
        }
        failures += 1;
        assert!(store.chain(&leaf).is_err());
    }
    assert!(failures > 1);
    assert_eq!(picture(&store, &places), before);
}

#[test]
fn while_adopting() {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    import(&store, &places, "base", 1);
    let cached = places.cache.join("base.vhdx");
    store.copy_out(&store.find("base").unwrap().id, &cached).unwrap();
    store.remove("base", false, &[]).unwrap();
    let files = [places.common_root(), cached];
    for writes in 0.. {
        match full_from(writes, || store.adopt(&files, &named("base"))) {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
        }
        store.collect();
        assert_eq!(picture(&store, &places).files, 0);
    }
    assert_eq!(picture(&store, &places).files, 2);
}

/// A small file system in memory, gone with the value.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Option<Tmpfs> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(at);
        let mount = output(&mut command).is_ok_and(|output| output.status.success());
        mount.then(|| Tmpfs(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = output(Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn on_a_real_file_system_that_is_full_images_can_still_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_tmpfs) = Tmpfs::mount(folder.path()) else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let nobody = nobody_forks();
    let places = Places::make(folder.path());
    let store = places.open();
    import(&store, &places, "base", 1);
    let leaf = container(&store, &places, "base", "c", 2);
    let before = picture(&store, &places);

    let filler = folder.path().join("filler");
    let file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut &file, &[1; 4096]).is_ok() {}
    drop(file);
    for verb in [
        store.begin_commit(&leaf, &[], new_image(None)).map(drop),
        store.tag(&store.find("base").unwrap().id, &named("other")),
        store.begin_app_layer(&places.common_root(), "web").map(drop),
    ] {
        let error = verb.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert!(error.remedy().is_some());
    }
    assert_eq!(picture(&store, &places), before);
    drop(store);
    let store = places.open();
    assert_eq!(picture(&store, &places), before);
    let removed = store.remove("base", true, &[]).unwrap();
    assert!(matches!(removed.last(), Some(Removed::Deleted(_))));
    std::fs::remove_dir_all(places.container("c")).unwrap();
    assert_eq!(store.collect().len(), 2);
    drop(store);
    assert_eq!(picture(&places.open(), &places).files, 0);
    drop(nobody);
}
