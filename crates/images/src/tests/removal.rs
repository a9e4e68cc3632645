//! Removing images and what is left of them.

use super::*;
use crate::{ErrorKind, Removed};

struct Fixture {
    _folder: Folder,
    places: Places,
    store: Store,
}

fn with_base() -> Fixture {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    import(&store, &places, "base", 1);
    Fixture { _folder: folder, places, store }
}

#[track_caller]
fn check_refused(
    store: &Store,
    reference: &str,
    force: bool,
    users: &[ImageUser],
    message: &str,
    named: &str,
) {
    let error = store.remove(reference, force, users).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let id = store.find(reference).unwrap().id.short();
    assert_eq!(error.to_string(), message.replace("ID", &id));
    let whole = format!("{error} {}", error.remedy().unwrap_or_default());
    assert!(whole.contains(named), "{whole:?} names {named}");
}

#[test]
fn the_last_image_takes_every_file_with_it() {
    let Fixture { places, store, .. } = &with_base();
    let id = store.find("base").unwrap().id;
    let removed = store.remove("base", false, &[]).unwrap();
    assert_eq!(removed, [Removed::Untagged(named("base:latest")), Removed::Deleted(id)]);
    assert_eq!(picture(store, places).files, 0);
    let error = store.remove("base", false, &[]).unwrap_err();
    assert_eq!(error.to_string(), "No such image: base:latest");
}

#[test]
fn one_of_several_names_is_only_untagged() {
    let Fixture { store, .. } = &with_base();
    let id = store.find("base").unwrap().id;
    store.tag(&id, &named("other:1")).unwrap();
    let users = [user(store, "base", "a", true)];
    let removed = store.remove("other:1", false, &users).unwrap();
    assert_eq!(removed, [Removed::Untagged(named("other:1"))]);
    assert_eq!(store.find("base").unwrap().id, id);
}

#[test]
fn several_names_protect_an_image_from_removal_by_id() {
    let Fixture { store, .. } = &with_base();
    let id = store.find("base").unwrap().id;
    store.tag(&id, &named("other:1")).unwrap();
    check_refused(
        store,
        &id.hex(),
        false,
        &[],
        "conflict: unable to delete ID (must be forced) - image is referenced in multiple repositories",
        "other:1",
    );
    let removed = store.remove(&id.hex(), true, &[]).unwrap();
    assert_eq!(removed.len(), 3);
}

#[test]
fn containers_made_from_an_image_are_named() {
    let Fixture { store, .. } = &with_base();
    let id = store.find("base").unwrap().id;
    let (stopped, running) = (user(store, "base", "a", false), user(store, "base", "b", true));
    for users in [[stopped.clone()], [running.clone()]] {
        check_refused(
            store,
            "base",
            false,
            &users,
            &format!(
                "conflict: unable to remove repository reference \"base\" (must force) - \
                 container {} is using its referenced image ID",
                &users[0].id[..12]
            ),
            &users[0].name,
        );
    }
    let stopped_only = [stopped];
    check_refused(
        store,
        &id.short(),
        false,
        &stopped_only,
        "conflict: unable to delete ID (must be forced) - \
         image is being used by stopped container aaaaaaaaaaaa",
        "name-of-a",
    );
    for force in [false, true] {
        check_refused(
            store,
            &id.short(),
            force,
            std::slice::from_ref(&running),
            "conflict: unable to delete ID (cannot be forced) - \
             image is being used by running container bbbbbbbbbbbb",
            "name-of-b",
        );
    }
    let removed = store.remove("base", true, &[running]).unwrap();
    assert_eq!(removed, [Removed::Untagged(named("base:latest"))]);
    assert_eq!(store.find(&id.hex()).unwrap().id, id);
}

#[test]
fn images_that_stand_on_an_image_are_named() {
    let Fixture { places, store, .. } = &with_base();
    let leaf = container(store, places, "base", "c", 2);
    commit(store, &leaf, "web");
    let id = store.find("base").unwrap().id;
    for reference in ["base", &id.hex()] {
        check_refused(
            store,
            reference,
            false,
            &[],
            "conflict: unable to delete ID (cannot be forced) - \
             image has dependent child images: web:latest",
            "web:latest",
        );
    }
    assert_eq!(store.remove("base", true, &[]).unwrap().len(), 1);
    assert!(store.find(&id.hex()).unwrap().names.is_empty());
}

#[test]
fn a_container_keeps_what_it_stands_on_when_its_image_is_forced_away() {
    let Fixture { places, store, .. } = &with_base();
    let leaf = container(store, places, "base", "c", 2);
    let users = [user(store, "base", "a", false)];
    assert_eq!(store.remove("base", true, &users).unwrap().len(), 2);
    assert!(store.list().is_empty());
    assert_eq!(read(store, &leaf), 2);
    // A commit of it still knows the whole history.
    let web = commit(store, &leaf, "web");
    assert_eq!(store.history(&web.id).unwrap().len(), 2);
    assert_eq!(web.parent_image, None);
}

#[test]
fn an_image_goes_though_the_container_it_was_committed_from_stands_on_it() {
    let Fixture { places, store, .. } = &with_base();
    let leaf = container(store, places, "base", "c", 2);
    let web = commit(store, &leaf, "web");
    write(store, &leaf, 3);
    let users = [user(store, "base", "a", true)];
    let removed = store.remove("web", false, &users).unwrap();
    assert_eq!(removed.last(), Some(&Removed::Deleted(web.id)));
    assert_eq!(read(store, &leaf), 3);
    assert!(web.file.exists());
    // With the container its last user goes.
    std::fs::remove_dir_all(places.container("c")).unwrap();
    assert_eq!(store.collect(), [web.guid]);
    assert!(!web.file.exists());
    assert_eq!(picture(store, places).files, 2);
}

#[test]
fn nothing_is_swept_while_a_containers_disk_cannot_be_read() {
    let Fixture { places, store, .. } = &with_base();
    let leaf = container(store, places, "base", "c", 2);
    let web = commit(store, &leaf, "web");
    std::fs::write(&leaf, "truncated").unwrap();
    store.remove("web", false, &[]).unwrap();
    assert!(web.file.exists());
    std::fs::remove_dir_all(places.container("c")).unwrap();
    assert_eq!(store.collect(), [web.guid]);
}

#[test]
fn a_layer_under_a_commit_that_is_under_way_stays() {
    let Fixture { places, store, .. } = &with_base();
    let leaf = container(store, places, "base", "c", 2);
    let pending = store.begin_commit(&leaf, &[], new_image(Some("web"))).unwrap();
    // Between the two renames of a freeze the container has no disk at its usual place.
    store.freeze_stopped(&pending).unwrap();
    store.remove("base", true, &[]).unwrap();
    let web = store.publish_commit(pending).unwrap();
    assert_eq!((read(store, &leaf), read(store, &web.file)), (2, 2));
}
