//! Files of other hands, and damaged ones.

use super::*;
use crate::ErrorKind;
use crate::Kind;
use ireko_disk::vhdx::ChildOptions;

const GUIDS: [&str; 3] = [
    "2DC27766-F623-4200-9D64-115E9BFD4A08",
    "3dc27766-f623-4200-9d64-115e9bfd4a08",
    "4dc27766-f623-4200-9d64-115e9bfd4a08",
];

/// Makes the images folder of another program: a base and a child, with upper-case GUIDs.
fn foreign_root(places: &Places) -> (PathBuf, PathBuf) {
    let images = places.root.join("images");
    std::fs::create_dir_all(&images).unwrap();
    let base = images.join(format!("Win2016_Hyper-V_{}.vhdx", GUIDS[0]));
    let child = images.join(format!("日本語_{}.vhdx", GUIDS[1]));
    vhdx::create(&base, &CreateOptions::new(64 << 20)).unwrap();
    let locator = format!(r".\{}", base.file_name().unwrap().to_str().unwrap());
    vhdx::create_child(&child, &base, &locator, &ChildOptions::default()).unwrap();
    (base, child)
}

#[test]
fn files_without_a_sidecar_become_machine_images() {
    let folder = folder();
    let places = Places::make(folder.path());
    let (base, child) = foreign_root(&places);
    std::fs::write(places.root.join("images/readme.txt"), "not ours").unwrap();
    let store = places.open();
    let image = store.find("win2016_hyper-v").unwrap();
    assert_eq!((image.kind, image.name.as_str()), (Kind::Machine, "Win2016_Hyper-V"));
    assert_eq!((&image.file, image.guid.to_string()), (&base, GUIDS[0].to_lowercase()));
    let list = store.list();
    let upper = list.iter().find(|image| image.file == child).unwrap();
    assert_eq!(upper.names[0].familiar(), "日本語:latest");
    assert_eq!((upper.name.as_str(), upper.parent_image), ("日本語", Some(image.id)));
    drop(store);
    assert_eq!(places.open().find("win2016_hyper-v").unwrap().id, image.id);
}

#[test]
fn a_second_foreign_file_of_one_name_gets_no_tag() {
    let folder = folder();
    let places = Places::make(folder.path());
    foreign_root(&places);
    let twin = places.root.join(format!("images/win2016_hyper-v_{}.vhdx", GUIDS[2]));
    vhdx::create(&twin, &CreateOptions::new(64 << 20)).unwrap();
    let store = places.open();
    assert_eq!(store.list().len(), 3);
    assert_eq!(store.find("win2016_hyper-v").unwrap().name, "Win2016_Hyper-V");
}

#[test]
fn damage_is_reported_by_use_and_stops_nothing_else() {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    let (bad, good) = (import(&store, &places, "bad", 1), import(&store, &places, "good", 2));
    drop(store);
    std::fs::remove_file(&bad.file).unwrap();
    std::fs::write(&bad.file, "vhdxfile, but no more").unwrap();
    let store = places.open();
    assert!(store.find("bad").unwrap().damage.is_some());
    std::fs::create_dir_all(places.container("c")).unwrap();
    let error = store.create_scratch(&bad.id, &places.container("c")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(bad.file.file_name().unwrap().to_str().unwrap()));
    store.create_scratch(&good.id, &places.container("c")).unwrap();
    store.remove("bad", false, &[]).unwrap();
}

#[test]
fn a_missing_parent_is_named_with_the_cure() {
    let folder = folder();
    let places = Places::make(folder.path());
    let (base, child) = foreign_root(&places);
    std::fs::remove_file(&base).unwrap();
    let store = places.open();
    let image = store.list().remove(0);
    assert_eq!(image.file, child);
    std::fs::create_dir_all(places.container("c")).unwrap();
    let error = store.create_scratch(&image.id, &places.container("c")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let name = base.file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(name) && error.remedy().unwrap().contains(name));
}

#[test]
fn a_parent_that_is_not_the_right_one_is_refused_when_a_commit_is_published() {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    let base = import(&store, &places, "base", 1);
    let leaf = container(&store, &places, "base", "c", 2);
    let pending = store.begin_commit(&leaf, &[], new_image(Some("web"))).unwrap();
    store.freeze_stopped(&pending).unwrap();
    // Another disk takes the parent's name.
    std::fs::remove_file(&base.file).unwrap();
    let root = store.chain(&leaf).unwrap().pop().unwrap();
    let locator = format!(r".\{}", root.file_name().unwrap().to_str().unwrap());
    vhdx::create_child(&base.file, &root, &locator, &ChildOptions::default()).unwrap();
    let error = store.publish_commit(pending).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(store.find("web").is_err());
}

#[test]
fn a_cycle_of_parents_is_an_error_and_not_the_end() {
    let folder = folder();
    let places = Places::make(folder.path());
    let (base, child) = foreign_root(&places);
    std::fs::remove_file(&base).unwrap();
    let locator = format!(r".\{}", child.file_name().unwrap().to_str().unwrap());
    vhdx::create_child(&base, &child, &locator, &ChildOptions::default()).unwrap();
    let store = places.open();
    assert_eq!(store.list().len(), 2);
    assert!(store.list().iter().all(|image| image.damage.is_some()));
    assert!(store.chain(&child).is_err());
    store.tree();
    store.collect();
    store.remove(&store.list()[0].id.hex(), true, &[]).unwrap_err();
}

#[test]
fn damaged_tags_stop_the_store_with_the_cure() {
    let folder = folder();
    let places = Places::make(folder.path());
    drop(places.open());
    std::fs::write(places.root.join("tags.json"), "{").unwrap();
    let error = Store::open(&places.root).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("tags.json") && error.remedy().is_some());
}
