//! Removing an image with all that stand on it.

use super::*;
use crate::{Doomed, ErrorKind, Removed};

/// `base` with `web` and `api` on it, `web` with `top`; a container of each.
fn with_tree() -> (Folder, Places, Store) {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    import(&store, &places, "base", 1);
    for (image, new, mark) in [("base", "web", 2), ("base", "api", 3), ("web", "top", 4)] {
        let leaf = container(&store, &places, image, new, mark);
        commit(&store, &leaf, new);
    }
    (folder, places, store)
}

fn names(images: &[Doomed]) -> Vec<String> {
    images.iter().map(|doomed| doomed.image.names[0].familiar()).collect()
}

#[test]
fn a_tree_goes_leaves_first_and_nothing_else_does() {
    let (_folder, places, store) = with_tree();
    let shown = store.doomed_tree("web", &[]).unwrap();
    let seen: Vec<_> =
        shown.images.iter().map(|one| (one.image.names[0].familiar(), one.level)).collect();
    assert_eq!(seen, [("top:latest".to_owned(), 1), ("web:latest".to_owned(), 0)]);
    assert_eq!(store.list().len(), 4, "showing changes nothing");
    let removed = store.remove_tree("web", &[]).unwrap();
    assert_eq!(names(&removed), ["top:latest", "web:latest"]);
    let left: Vec<_> =
        picture(&store, &places).images.into_iter().map(|(names, ..)| names).collect();
    assert_eq!(left, [["api:latest"], ["base:latest"]]);
    assert_eq!(store.remove_tree("web", &[]).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn containers_made_from_any_of_the_images_stop_all_of_it() {
    let (_folder, places, store) = with_tree();
    let before = picture(&store, &places);
    for made_from in ["base", "web", "api", "top"] {
        let users = [user(&store, made_from, "a", false)];
        assert_eq!(store.doomed_tree("base", &users).unwrap().users.len(), 1);
        let error = store.remove_tree("base", &users).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(&format!("name-of-a (from {made_from}:latest)")));
        assert_eq!(picture(&store, &places), before);
    }
    let elsewhere = [user(&store, "api", "a", true)];
    assert_eq!(store.remove_tree("web", &elsewhere).unwrap().len(), 2);
}

#[test]
fn a_container_that_an_image_was_committed_from_is_no_user_and_keeps_its_bytes() {
    let (_folder, places, store) = with_tree();
    let users = [user(&store, "base", "a", true)];
    let leaf = places.container("web").join("base.vhdx");
    write(&store, &leaf, 9);
    store.remove_tree("web", &users).unwrap();
    assert_eq!(read(&store, &leaf), 9);
    assert_eq!(read(&store, &places.container("api").join("base.vhdx")), 3);
    drop(store);
    let store = places.open();
    assert_eq!(read(&store, &leaf), 9);
    picture(&store, &places);
}

#[test]
fn an_image_goes_with_all_its_names() {
    let (_folder, _places, store) = with_tree();
    store.tag(&store.find("top").unwrap().id, &named("other:1")).unwrap();
    store.remove_tree("other:1", &[]).unwrap();
    for name in ["top", "other:1"] {
        assert_eq!(store.find(name).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[test]
fn what_a_removal_would_do_is_told_and_not_done() {
    let (_folder, places, store) = with_tree();
    let before = picture(&store, &places);
    let id = store.find("top").unwrap().id;
    let told = store.would_remove("top", false, &[]).unwrap();
    assert_eq!(told, [Removed::Untagged(named("top:latest")), Removed::Deleted(id)]);
    let error = store.would_remove("web", false, &[]).unwrap_err();
    assert_eq!(error.to_string(), store.remove("web", false, &[]).unwrap_err().to_string());
    assert_eq!(picture(&store, &places), before);
    assert_eq!(store.remove("top", false, &[]).unwrap(), told);
}
