//! Repairing links: after files were renamed, among twins, and what is refused.

use super::*;
use crate::{ErrorKind, ParentCheck};
use ireko_disk::vhdx::ChildOptions;
use std::os::unix::fs::MetadataExt;

/// app-root ◄─ base ◄─ web; `c` was made from base and stands on web's file, `d` on base.
fn with_chain() -> (Folder, Places, Store) {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    import(&store, &places, "base", 1);
    let leaf = container(&store, &places, "base", "c", 2);
    commit(&store, &leaf, "web");
    container(&store, &places, "base", "d", 3);
    (folder, places, store)
}

/// Renames an image's disk file, not its sidecar, behind the store's back; the key stays.
pub(super) fn rename(file: &Path, slug: &str) -> PathBuf {
    let name = file.file_name().unwrap().to_str().unwrap();
    let (_, guid) = crate::names::parse_disk_file(name).unwrap();
    let renamed = file.with_file_name(format!("{slug}_{guid}.vhdx"));
    std::fs::rename(file, &renamed).unwrap();
    renamed
}

fn linked(store: &Store) -> Vec<String> {
    let repaired = store.repair().unwrap();
    assert_eq!(repaired.broken, []);
    repaired.linked.into_iter().map(|one| one.disk).collect()
}

#[test]
fn images_and_containers_follow_a_file_that_was_renamed() {
    let (_folder, places, store) = with_chain();
    let before = picture(&store, &places);
    assert!(linked(&store).is_empty());
    let (base, web) = (store.find("base").unwrap(), store.find("web").unwrap());
    let renamed = rename(&base.file, "日本語");
    // In a daemon that runs, and in one that starts.
    let disks = linked(&store);
    let file = |path: &Path| format!("images/{}", path.file_name().unwrap().to_str().unwrap());
    assert_eq!(disks, [file(&web.file), "containers/d/base.vhdx".to_owned()]);
    assert_eq!(picture(&store, &places), before);
    assert_eq!(store.find("base").unwrap().file, renamed);
    assert_eq!(store.find("base").unwrap().id, base.id, "its sidecar was found again");
    assert_eq!(std::fs::metadata(&web.file).unwrap().mode() & 0o777, 0o444);
    drop(store);
    rename(&renamed, "other");
    let store = places.open();
    assert!(store.find("web").unwrap().damage.is_some());
    assert_eq!(linked(&store).len(), 2);
    assert_eq!(picture(&store, &places), before);
}

#[test]
fn among_twins_the_key_in_the_name_decides() {
    let (_folder, places, store) = with_chain();
    let base = store.find("base").unwrap();
    drop(store);
    let twin = base.file.with_file_name("copy_2dc27766-f623-4200-9d64-115e9bfd4a08.vhdx");
    std::fs::copy(&base.file, &twin).unwrap();
    rename(&base.file, "moved");
    let store = places.open();
    assert_eq!(linked(&store).len(), 2);
    assert_eq!(store.find("web").unwrap().parent, Some(base.guid));
}

#[test]
fn among_twins_of_other_names_people_say_which() {
    let (_folder, places, store) = with_chain();
    let base = store.find("base").unwrap();
    drop(store);
    for name in [
        "a_2dc27766-f623-4200-9d64-115e9bfd4a08.vhdx",
        "b_3dc27766-f623-4200-9d64-115e9bfd4a08.vhdx",
    ] {
        std::fs::copy(&base.file, base.file.with_file_name(name)).unwrap();
    }
    std::fs::remove_file(&base.file).unwrap();
    let store = places.open();
    let broken = store.repair().unwrap().broken;
    assert_eq!(broken.len(), 2);
    assert!(broken[0].reason.contains("several files may be its parent: a_2dc"), "{broken:?}");
    store.repair_image("web", "b", ParentCheck::Required).unwrap();
    let web = store.find("web").unwrap();
    assert_eq!(web.parent_image, Some(store.find("b").unwrap().id));
    assert_eq!(read(&store, &web.file), 2);
}

#[test]
fn a_parent_whose_data_changed_is_refused_unless_forced() {
    let (_folder, places, store) = with_chain();
    import(&store, &places, "other", 7);
    let before = picture(&store, &places);
    let error = store.repair_image("web", "other", ParentCheck::Required).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.remedy().unwrap().contains("may be garbage"));
    assert_eq!(picture(&store, &places), before);
    store.repair_image("web", "other", ParentCheck::Forced).unwrap();
    let web = store.find("web").unwrap();
    assert_eq!(web.parent_image, Some(store.find("other").unwrap().id));
    assert_eq!(read(&store, &web.file), 2);
    // And back: base is not what it is linked to now.
    store.repair_image("web", "base", ParentCheck::Required).unwrap_err();
    store.repair_image("web", "base", ParentCheck::Forced).unwrap();
    assert_eq!(picture(&store, &places), before);
}

#[test]
fn a_parent_whose_data_changed_is_named_and_nothing_is_linked() {
    let (_folder, places, store) = with_chain();
    let base = store.find("base").unwrap();
    let chain = Chain::open(&store.chain(&base.file).unwrap(), Access::ReadWrite).unwrap();
    chain.write_at(0, &[9; 512]).unwrap();
    chain.close().unwrap();
    let repaired = store.repair().unwrap();
    assert_eq!((repaired.linked.len(), repaired.broken.len()), (0, 2));
    for broken in &repaired.broken {
        assert!(broken.reason.contains("its data changed since"), "{broken:?}");
        assert!(broken.reason.contains("may be garbage"), "{broken:?}");
    }
    // Containers' disks, too, are linked to what people say.
    let d = places.container("d").join("base.vhdx");
    let error = store.repair_disk(&d, "base", ParentCheck::Required).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    store.repair_disk(&d, "base", ParentCheck::Forced).unwrap();
    assert_eq!(read(&store, &d), 3);
}

#[test]
fn a_container_with_a_checkpoint_is_linked_below_it() {
    let (_folder, places, store) = with_chain();
    let base = store.find("base").unwrap();
    let twin = base.file.with_file_name("twin_2dc27766-f623-4200-9d64-115e9bfd4a08.vhdx");
    std::fs::copy(&base.file, &twin).unwrap();
    let d = places.container("d").join("base.vhdx");
    let checkpoint = places.container("d").join("base_1.avhdx");
    vhdx::create_child(&checkpoint, &d, r".\base.vhdx", &ChildOptions::default()).unwrap();
    let linked = store.repair_disk(&checkpoint, "twin", ParentCheck::Required).unwrap();
    assert_eq!(linked.disk, "containers/d/base.vhdx");
    let chain = store.chain(&checkpoint).unwrap();
    assert_eq!((chain.len(), &chain[2]), (4, &twin));
    assert_eq!(read(&store, &checkpoint), 3);
}

#[test]
fn letters_with_marks_are_found_however_they_came() {
    let folder = folder();
    let places = Places::make(folder.path());
    std::fs::create_dir_all(places.root.join("images")).unwrap();
    let guids = ["2dc27766-f623-4200-9d64-115e9bfd4a08", "3dc27766-f623-4200-9d64-115e9bfd4a08"];
    let file = |name: &str, guid: &str| places.root.join(format!("images/{name}_{guid}.vhdx"));
    // As a Mac writes が: in two.
    let (base, child) = (file("か\u{3099}", guids[0]), file("child", guids[1]));
    vhdx::create(&base, &CreateOptions::new(64 << 20)).unwrap();
    let locator = format!(r".\が_{}.vhdx", guids[0]);
    vhdx::create_child(&child, &base, &locator, &ChildOptions::default()).unwrap();
    let store = places.open();
    let child = store.find("child").unwrap();
    assert_eq!((child.damage, child.parent_image), (None, Some(store.find("が").unwrap().id)));
    assert!(linked(&store).is_empty());
}

#[test]
fn no_image_becomes_its_own_ancestor_and_no_base_gets_a_parent() {
    let (_folder, places, store) = with_chain();
    let alone = merge(&store, "base", "alone", MergeFiles::All, Sources::Keep).unwrap().image;
    let before = picture(&store, &places);
    for (child, parent, kind) in [
        ("base", "web", ErrorKind::Conflict),
        ("web", "web", ErrorKind::Conflict),
        ("alone", "web", ErrorKind::BadInput),
        ("nosuch", "web", ErrorKind::NotFound),
    ] {
        let error = store.repair_image(child, parent, ParentCheck::Forced).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(picture(&store, &places), before);
    }
    assert_eq!(store.find("alone").unwrap().id, alone.id);
}

#[test]
fn a_parent_that_is_gone_is_named_and_the_others_are_repaired() {
    let (_folder, places, store) = with_chain();
    let other = import(&store, &places, "other", 7);
    let child = container(&store, &places, "other", "o", 8);
    drop(store);
    let base = places.open().find("base").unwrap();
    let aside = places.root.join("aside");
    std::fs::rename(&base.file, &aside).unwrap();
    rename(&other.file, "renamed");
    let store = places.open();
    let repaired = store.repair().unwrap();
    assert_eq!(repaired.linked.len(), 1);
    assert_eq!(repaired.broken.len(), 2);
    let name = base.file.file_name().unwrap().to_str().unwrap();
    assert!(repaired.broken[0].reason.contains(name), "{:?}", repaired.broken);
    assert_eq!(read(&store, &child), 8);
    std::fs::rename(&aside, &base.file).unwrap();
    assert!(linked(&store).is_empty());
    picture(&store, &places);
}

#[test]
fn a_disk_that_is_in_use_is_left_alone() {
    let (_folder, places, store) = with_chain();
    let d = places.container("d").join("base.vhdx");
    let running = Chain::open(&store.chain(&d).unwrap(), Access::ReadWrite).unwrap();
    rename(&store.find("base").unwrap().file, "moved");
    let repaired = store.repair().unwrap();
    assert_eq!((repaired.linked.len(), repaired.broken.len()), (1, 1));
    assert_eq!(repaired.broken[0].disk, "containers/d/base.vhdx");
    running.close().unwrap();
    assert_eq!(linked(&store), ["containers/d/base.vhdx"]);
    assert_eq!(read(&store, &d), 3);
}

#[test]
fn a_whole_root_of_another_program_is_repaired() {
    let folder = folder();
    let places = Places::make(folder.path());
    let images = places.root.join("Images");
    std::fs::create_dir_all(&images).unwrap();
    let guids = ["2DC27766-F623-4200-9D64-115E9BFD4A08", "3DC27766-F623-4200-9D64-115E9BFD4A08"];
    let (base, child) = (
        images.join(format!("Old_{}.vhdx", guids[0])),
        images.join(format!("IIS_{}.vhdx", guids[1])),
    );
    vhdx::create(&base, &CreateOptions::new(64 << 20)).unwrap();
    let options = ChildOptions {
        absolute_path: Some(format!(r"D:\Old\Old_{}.vhdx", guids[0])),
        ..ChildOptions::default()
    };
    vhdx::create_child(&child, &base, &format!(r".\Old_{}.vhdx", guids[0]), &options).unwrap();
    std::fs::rename(&base, images.join(format!("New_{}.vhdx", guids[0]))).unwrap();
    let store = places.open();
    assert_eq!(linked(&store), [format!("Images/IIS_{}.vhdx", guids[1])]);
    let (iis, new) = (store.find("IIS").unwrap(), store.find("New").unwrap());
    assert_eq!((iis.damage, iis.parent_image), (None, Some(new.id)));
}
