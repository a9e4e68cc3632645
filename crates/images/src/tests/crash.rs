//! `kill -9` before any step of any verb, and again during the recovery.
//!
//! The verb runs in a process of its own: this test binary, told by the environment to run
//! [`child`] and to abort before the n-th change it makes. Afterwards the store holds the old tree or
//! the new one, whole, and nothing else.

use super::*;
use crate::step::test::abort_at;
use crate::{ExportFormat, FoldExtent, Layers, copy};
use ireko_disk::vhdx::ChildOptions;
use std::process::Command;

const VERB: &str = "IREKO_TEST_VERB";
const FOLDER: &str = "IREKO_TEST_FOLDER";
const STEP: &str = "IREKO_TEST_STEP";

/// Runs one verb, as the environment says; by itself it tests nothing.
#[test]
fn child() {
    let Ok(verb) = std::env::var(VERB) else { return };
    let places = Places::under(Path::new(&std::env::var(FOLDER).unwrap()));
    let step = std::env::var(STEP).unwrap().parse().unwrap();
    if verb == "open" {
        abort_at(step);
        places.open();
        return;
    }
    let store = places.open();
    abort_at(step);
    run(&verb, &store, &places);
}

fn run(verb: &str, store: &Store, places: &Places) {
    let leaf = places.container("c").join("base.vhdx");
    match verb {
        "create" => {
            let image = store.find("base").unwrap().id;
            store.create_scratch(&image, &places.container("new")).map(drop).unwrap();
        }
        "commit" => drop(commit(store, &leaf, "base")),
        "commit all" => {
            let (leaf, data) = disks_of(places, "f", "mid");
            drop(commit_all(store, &leaf, &data, "all").unwrap());
        }
        "create data" => drop(data_children(store, places, "api", "new").unwrap()),
        "import" => drop(import(store, places, "web", 9)),
        "import disk" => {
            let file = places.cache.join(DISK);
            super::imports::import_disk(store, &file, Some("disk")).map(drop).unwrap();
        }
        "import packed" => {
            let file = places.cache.join(PACKED);
            super::imports::import_disk(store, &file, Some("packed")).map(drop).unwrap();
        }
        "tag" => {
            let image = store.find("base").unwrap().id;
            store.tag(&image, &named("other")).unwrap();
        }
        "rename" => drop(store.rename(&named("base"), &named("other")).unwrap()),
        "remove" => drop(store.remove("single", false, &[]).unwrap()),
        "demote" => drop(store.remove("base", true, &[]).unwrap()),
        "repair" => assert!(store.repair().unwrap().broken.is_empty()),
        "remove tree" => drop(store.remove_tree("mid", &[]).unwrap()),
        "merge" => drop(merge(store, "api", "flat", MergeFiles::Top(2), Sources::Keep).unwrap()),
        "merge all" => drop(merge(store, "api", "flat", MergeFiles::All, Sources::Keep).unwrap()),
        "merge delete" => {
            drop(merge(store, "api", "flat", MergeFiles::Top(2), Sources::Delete).unwrap());
        }
        "fold" => {
            let folded = store.fold(FoldExtent::Whole, &()).unwrap();
            assert_eq!((folded.folds.len(), folded.kept.len()), (1, 0));
        }
        "adopt" => {
            let files = [places.common_root(), places.cache.join("kept.vhdx")];
            store.adopt(&files, &named("kept")).map(drop).unwrap();
        }
        "adopt back" => {
            let files = [places.common_root(), places.cache.join("layer.vhdx")];
            store.adopt(&files, &named("layer")).map(drop).unwrap();
        }
        "import zip" => {
            store.import_zip(&places.cache.join("top.zip"), None, &()).map(drop).unwrap();
        }
        "export" | "export qcow2" => {
            let id = store.find("base").unwrap().id;
            let run = |command: &mut Command| assert!(output(command).unwrap().status.success());
            export(store, &id, &export_to(places, verb), &(), run).map(drop).unwrap();
        }
        other => panic!("no verb {other}"),
    }
}

/// A child of the image `base`, in a file with a GUID, and a disk in an archive.
pub(super) const DISK: &str = "disk_5dc27766-f623-4200-9d64-115e9bfd4a08.vhdx";
pub(super) const PACKED: &str = "packed.ova";

/// Makes the disks that are imported.
pub(super) fn prepare_disks(store: &Store, places: &Places) {
    let base = store.find("base").unwrap().file;
    let disk = places.cache.join(DISK);
    vhdx::create_child(&disk, &base, r".\base.vhdx", &ChildOptions::default()).unwrap();
    let mut packed = tar::Builder::new(Vec::new());
    let inner = places.cache.join("inner.vhdx");
    vhdx::create(&inner, &CreateOptions::new(64 << 20)).unwrap();
    let disk = std::fs::read(&inner).unwrap();
    let description = ovf(&["system.vhdx", "data.vhdx"]).into_bytes();
    let members = [("vm.ovf", description), ("data.vhdx", disk.clone()), ("system.vhdx", disk)];
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        packed.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    std::fs::write(places.cache.join(PACKED), packed.into_inner().unwrap()).unwrap();
}

fn export_to(places: &Places, verb: &str) -> ExportTo {
    let format = match verb {
        "export" => ExportFormat::Zip(Layers::Tree),
        _ => ExportFormat::Qcow2,
    };
    ExportTo { file: places.cache.join("exported"), format, replace: true, disk: None }
}

/// A store with something for every verb to do.
pub(super) fn prepare(folder: &Path) {
    let places = Places::make(folder);
    let store = places.open();
    import(&store, &places, "base", 1);
    prepare_disks(&store, &places);
    container(&store, &places, "base", "c", 2);
    std::fs::create_dir_all(places.container("new")).unwrap();
    import(&store, &places, "lone", 3);
    import(&store, &places, "single", 3);
    for (name, mark) in [("kept", 4), ("layer", 5)] {
        let image = import(&store, &places, name, mark);
        store.copy_out(&image.id, &places.cache.join(format!("{name}.vhdx"))).unwrap();
    }
    // A zip of an image over one that will be a mere layer here.
    let leaf = container(&store, &places, "layer", "e", 7);
    let top = commit(&store, &leaf, "top");
    let (file, format) = (places.cache.join("top.zip"), ExportFormat::Zip(Layers::Tree));
    export(
        &store,
        &top.id,
        &ExportTo { file, format, replace: false, disk: None },
        &(),
        no_program,
    )
    .unwrap();
    std::fs::remove_dir_all(places.container("e")).unwrap();
    store.remove("top", false, &[]).unwrap();
    store.remove("kept", false, &[]).unwrap();
    container(&store, &places, "layer", "d", 6);
    store.remove("layer", true, &[]).unwrap();
    // app-root ◄─ lone ◄─ mid ◄─ api ◄─ top, with containers on mid and api; api has a data disk.
    for (image, id, mark) in [("lone", "e", 7), ("mid", "f", 8), ("api", "g", 9)] {
        let leaf = container(&store, &places, image, id, mark);
        let data: Vec<_> =
            (id == "f").then(|| data_disk(&store, &places, image, id, 10)).into_iter().collect();
        commit_all(&store, &leaf, &data, ["mid", "api", "top"][usize::from(mark) - 7]).unwrap();
    }
    std::fs::remove_dir_all(places.container("g")).unwrap();
    // app-root ◄─ row ◄─ x ◄─ y ◄─ z ◄─ a container, the last three being no images any more.
    import(&store, &places, "row", 1);
    let leaf = container(&store, &places, "row", "r", 2);
    for image in ["x", "y", "z"] {
        commit(&store, &leaf, image);
        store.remove(image, true, &[]).unwrap();
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in durable::names_in(from).unwrap() {
        let (from, to) = (from.join(&name), to.join(&name));
        match from.is_dir() {
            true => copy_folder(&from, &to),
            false => copy::copy(&from, &to).unwrap(),
        }
    }
}

/// Runs a verb in its own process, killed before step `step`; tells whether it came to its end.
fn run_child(verb: &str, folder: &Path, step: u32) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "tests::crash::child", "--nocapture"]);
    command.env(VERB, verb).env(FOLDER, folder).env(STEP, step.to_string());
    let output = output(&mut command).unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let aborted = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(6);
    assert!(output.status.success() || aborted, "{verb} failed: {told}");
    output.status.success()
}

/// Kills a verb before each of its steps.
#[track_caller]
fn check(verb: &str) {
    check_with(verb, |seen| seen);
}

/// The same where only a part of the picture tells the old tree from the new.
#[track_caller]
fn check_with(verb: &str, part: impl Fn(Picture) -> Picture) {
    let folder = temporary();
    let (template, whole) = (folder.path().join("template"), folder.path().join("whole"));
    {
        let _nobody = nobody_forks();
        prepare(&template);
        copy_folder(&template, &whole);
    }
    let look = |folder: &Path| {
        let _nobody = nobody_forks();
        let places = Places::under(folder);
        part(picture(&places.open(), &places))
    };
    let old = look(&whole);
    assert!(run_child(verb, &whole, u32::MAX));
    let new = look(&whole);
    assert_ne!(old, new, "{verb} does something");
    let (mut olds, mut news) = (0, 0);
    for step in 0.. {
        assert!(step < 200, "{verb} never ends");
        let copy = folder.path().join(step.to_string());
        copy_folder(&template, &copy);
        if run_child(verb, &copy, step) {
            break;
        }
        // The recovery is killed as well, each time at another of its steps.
        run_child("open", &copy, step % 9);
        let seen = look(&copy);
        match (seen == old, seen == new) {
            (true, _) => olds += 1,
            (_, true) => news += 1,
            _ => panic!("{verb} killed before step {step}: {seen:#?}\nold {old:#?}\nnew {new:#?}"),
        }
        assert_eq!(look(&copy), seen, "a second start changes nothing");
        std::fs::remove_dir_all(&copy).unwrap();
    }
    println!("{verb}: {olds} times old, {news} times new");
    assert!(olds > 0);
}

#[test]
fn create_leaves_the_old_tree_or_the_new() {
    check("create");
}

#[test]
fn commit_leaves_the_old_tree_or_the_new() {
    check("commit");
}

/// Where only data disks were frozen the images are the old ones, and every disk reads as before.
#[test]
fn a_commit_of_all_disks_leaves_the_old_images_or_the_new() {
    check_with("commit all", |seen| Picture { files: 0, ..seen });
}

#[test]
fn creating_data_disks_leaves_the_old_tree_or_the_new() {
    check("create data");
}

#[test]
fn import_leaves_the_old_tree_or_the_new() {
    check("import");
}

#[test]
fn importing_a_disk_leaves_the_old_tree_or_the_new() {
    check("import disk");
}

#[test]
fn importing_a_packed_disk_leaves_the_old_tree_or_the_new() {
    check("import packed");
}

#[test]
fn tag_leaves_the_old_tree_or_the_new() {
    check("tag");
}

#[test]
fn rename_leaves_the_old_tree_or_the_new() {
    check("rename");
}

#[test]
fn remove_leaves_the_old_tree_or_the_new() {
    check("remove");
}

#[test]
fn removing_what_a_container_stands_on_leaves_the_old_tree_or_the_new() {
    check("demote");
}

#[test]
fn removing_a_tree_leaves_the_old_tree_or_the_new() {
    check("remove tree");
}

#[test]
fn merge_leaves_the_old_tree_or_the_new() {
    check("merge");
}

#[test]
fn a_merge_of_all_files_leaves_the_old_tree_or_the_new() {
    check("merge all");
}

#[test]
fn a_merge_that_replaces_its_sources_leaves_the_old_tree_or_the_new() {
    check("merge delete");
}

#[test]
fn folding_leaves_the_old_layers_or_the_new() {
    check("fold");
}

#[test]
fn adopt_leaves_the_old_tree_or_the_new() {
    check("adopt");
}

#[test]
fn adopting_back_leaves_the_old_tree_or_the_new() {
    check("adopt back");
}

/// Here the old tree cannot be read, so the pictures are of what is broken.
#[test]
fn repair_mends_everything_or_nothing() {
    let folder = temporary();
    let template = folder.path().join("template");
    {
        let _nobody = nobody_forks();
        prepare(&template);
        let places = Places::under(&template);
        let lone = places.open().find("lone").unwrap();
        super::repair::rename(&lone.file, "renamed");
        drop(places.open());
    }
    let broken = |folder: &Path| {
        let _nobody = nobody_forks();
        let places = Places::under(folder);
        let store = places.open();
        let images = store.list().iter().filter(|image| image.damage.is_some()).count();
        let e = store.chain(&places.container("e").join("lone.vhdx"));
        (images, e.is_err())
    };
    assert_eq!(broken(&template), (3, true));
    let mut seen = std::collections::BTreeSet::new();
    for step in 0.. {
        assert!(step < 100, "repair never ends");
        let copy = folder.path().join(step.to_string());
        copy_folder(&template, &copy);
        if run_child("repair", &copy, step) {
            assert_eq!(broken(&copy), (0, false));
            break;
        }
        run_child("open", &copy, step % 9);
        seen.insert(broken(&copy));
        std::fs::remove_dir_all(&copy).unwrap();
    }
    assert!(seen.iter().all(|one| [(3, true), (0, false)].contains(one)), "{seen:?}");
    assert_eq!(seen.len(), 2);
}

#[test]
fn importing_a_chain_leaves_the_old_tree_or_the_new() {
    check("import zip");
}

#[test]
fn an_export_that_is_killed_leaves_the_whole_file_or_none_and_the_store_as_it_was() {
    let folder = temporary();
    let template = folder.path().join("template");
    {
        let _nobody = nobody_forks();
        prepare(&template);
    }
    for verb in ["export", "export qcow2"] {
        let (mut whole, mut none) = (None, 0);
        for step in 0.. {
            assert!(step < 200, "{verb} never ends");
            let copy = folder.path().join(format!("{verb}-{step}"));
            copy_folder(&template, &copy);
            let places = Places::under(&copy);
            let before = {
                let _nobody = nobody_forks();
                picture(&places.open(), &places)
            };
            let is_done = run_child(verb, &copy, step);
            let _nobody = nobody_forks();
            assert_eq!(picture(&places.open(), &places), before);
            let there = durable::names_in(&places.cache).unwrap();
            assert!(there.iter().all(|name| !name.starts_with('.')), "{there:?}");
            match std::fs::read(export_to(&places, verb).file) {
                Ok(bytes) => assert!(*whole.get_or_insert_with(|| bytes.clone()) == bytes),
                Err(_) => none += 1,
            }
            if is_done {
                break;
            }
            std::fs::remove_dir_all(&copy).unwrap();
        }
        assert!(whole.is_some() && none > 3);
    }
}

#[test]
fn a_freeze_cut_between_its_renames_goes_forward() {
    let folder = folder();
    prepare(folder.path());
    let places = Places::under(folder.path());
    let leaf = places.container("c").join("base.vhdx");
    let store = places.open();
    let pending = store.begin_commit(&leaf, &[], new_image(Some("web"))).unwrap();
    store.freeze_stopped(&pending).unwrap();
    drop(store);
    std::fs::rename(&leaf, leaf.with_file_name("base.vhdx.next")).unwrap();
    let store = places.open();
    let web = store.find("web").unwrap();
    assert_eq!((read(&store, &web.file), read(&store, &leaf)), (2, 2));
    picture(&store, &places);
}

#[test]
fn a_freeze_cut_before_its_renames_goes_back() {
    let folder = folder();
    prepare(folder.path());
    let places = Places::under(folder.path());
    let leaf = places.container("c").join("base.vhdx");
    let store = places.open();
    let before = picture(&store, &places);
    let _lost = store.begin_commit(&leaf, &[], new_image(Some("web"))).unwrap();
    drop(store);
    std::fs::copy(&leaf, leaf.with_file_name("base.vhdx.next")).unwrap();
    assert_eq!(picture(&places.open(), &places), before);
}

#[test]
fn a_frozen_disk_whose_container_is_gone_becomes_an_image() {
    let folder = folder();
    prepare(folder.path());
    let places = Places::under(folder.path());
    let leaf = places.container("c").join("base.vhdx");
    let store = places.open();
    let pending = store.begin_commit(&leaf, &[], new_image(Some("web"))).unwrap();
    store.freeze_stopped(&pending).unwrap();
    drop(store);
    std::fs::remove_dir_all(places.container("c")).unwrap();
    let store = places.open();
    assert_eq!(read(&store, &store.find("web").unwrap().file), 2);
    picture(&store, &places);
}

#[test]
fn a_verb_that_cannot_be_settled_stays_and_the_store_opens() {
    let folder = folder();
    prepare(folder.path());
    let places = Places::under(folder.path());
    let leaf = places.container("c").join("base.vhdx");
    let store = places.open();
    let pending = store.begin_commit(&leaf, &[], new_image(Some("web"))).unwrap();
    store.freeze_stopped(&pending).unwrap();
    let sidecar = store.journal.entries().unwrap()[0].0.path(crate::journal::IMAGE);
    drop(store);
    let hidden = sidecar.with_file_name("hidden");
    std::fs::rename(&sidecar, &hidden).unwrap();

    let store = places.open();
    assert!(store.find("web").is_err());
    assert!(store.find("base").is_ok());
    assert!(store.collect().is_empty());
    drop(store);

    std::fs::rename(&hidden, &sidecar).unwrap();
    let store = places.open();
    assert_eq!(read(&store, &store.find("web").unwrap().file), 2);
    picture(&store, &places);
}

#[test]
fn debris_of_earlier_lives_is_swept() {
    let folder = folder();
    prepare(folder.path());
    let places = Places::under(folder.path());
    let before = picture(&places.open(), &places);
    std::fs::write(places.root.join("images/.x.json.new"), "half").unwrap();
    std::fs::create_dir_all(places.root.join("journal/.half/made")).unwrap();
    assert_eq!(picture(&places.open(), &places), before);
}
