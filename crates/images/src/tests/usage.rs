//! What images and containers take, and what nothing needs.

use super::*;
use crate::{ErrorKind, Usage};

/// app-root ◄─ base ◄─ web, api; `c` was made from base, web was committed from it.
fn with_tree() -> (Folder, Places, Store, [PathBuf; 2]) {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    import(&store, &places, "base", 1);
    let c = container(&store, &places, "base", "c", 2);
    commit(&store, &c, "web");
    let d = container(&store, &places, "base", "d", 3);
    commit(&store, &d, "api");
    (folder, places, store, [c, d])
}

fn of<'a>(usage: &'a Usage, name: &str) -> &'a crate::ImageUsage {
    let named = |one: &&crate::ImageUsage| one.image.names.contains(&named(name));
    usage.images.iter().find(named).unwrap()
}

fn size(store: &Store, name: &str) -> u64 {
    crate::layer_file::allocated(&store.find(name).unwrap().file)
}

#[test]
fn bytes_are_shared_by_images_that_stand_on_the_same_file() {
    let (_folder, places, store, [c, d]) = with_tree();
    let (web, base) = (size(&store, "web"), size(&store, "base"));
    let root = store.find("base").unwrap().total_bytes - base;
    let usage = store.usage(&[c.clone(), d.clone()]).unwrap();
    assert_eq!(of(&usage, "web").shared_bytes, base + root);
    assert_eq!(of(&usage, "web").image.total_bytes, base + root + web);
    assert_eq!(of(&usage, "base").shared_bytes, base + root);
    assert!(usage.images.iter().all(|image| image.reclaimable_bytes == 0));
    assert_eq!(usage.layer_bytes, root + base + web + size(&store, "api"));
    assert_eq!((usage.unused_image_bytes, usage.garbage_bytes), (0, 0));

    // c stands on web's layer alone once web is gone.
    store.remove("web", false, &[]).unwrap();
    let usage = store.usage(&[c.clone(), d.clone()]).unwrap();
    assert_eq!(usage.disks[0].layer_bytes, web);
    assert_eq!(usage.disks[0].own_bytes, crate::layer_file::allocated(&c));
    assert_eq!(usage.disks[1].layer_bytes, 0);

    std::fs::remove_dir_all(places.container("d")).unwrap();
    let usage = store.usage(&[c]).unwrap();
    assert_eq!(of(&usage, "api").reclaimable_bytes, size(&store, "api"));
    assert_eq!(usage.unused_image_bytes, size(&store, "api"));
}

#[test]
fn garbage_is_shown_then_removed() {
    let (_folder, places, store, [c, _]) = with_tree();
    let web = store.find("web").unwrap();
    assert!(store.garbage().unwrap().is_empty());
    store.remove("web", false, &[]).unwrap();
    assert!(store.garbage().unwrap().is_empty(), "c stands on it");
    std::fs::remove_dir_all(c.parent().unwrap()).unwrap();
    std::fs::write(places.root.join("images/.x.json.new"), "half").unwrap();
    let garbage = store.garbage().unwrap();
    let seen: Vec<_> = garbage.iter().map(|one| one.layer).collect();
    assert_eq!(seen, [Some(web.guid), None]);
    assert!(garbage.iter().all(|one| one.own_bytes > 0));
    assert!(web.file.exists());
    assert_eq!(store.usage(&[]).unwrap().garbage_bytes, garbage[0].own_bytes);
    assert_eq!(store.collect_garbage().unwrap(), garbage);
    assert!(!web.file.exists());
    assert!(store.collect_garbage().unwrap().is_empty());
    picture(&store, &places);
}

#[test]
fn nothing_is_garbage_while_a_file_cannot_be_read() {
    let (_folder, places, store, [c, _]) = with_tree();
    store.remove("web", false, &[]).unwrap();
    std::fs::remove_dir_all(c.parent().unwrap()).unwrap();
    let d = places.container("d").join("base.vhdx");
    std::fs::write(&d, "truncated").unwrap();
    let error = store.collect_garbage().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("containers/d/base.vhdx"), "{error}");
}
