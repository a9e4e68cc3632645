//! Verifying images: damage is found, wherever it is.

use super::*;
use crate::{Depth, ErrorKind, Watch};
use std::os::unix::fs::FileExt;

fn with_chain() -> (Folder, Places, Store) {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    import(&store, &places, "base", 1);
    let leaf = container(&store, &places, "base", "c", 2);
    commit(&store, &leaf, "web");
    (folder, places, store)
}

#[track_caller]
fn problems(store: &Store, images: &[&str]) -> Vec<(String, String)> {
    let images: Vec<_> = images.iter().map(|name| (*name).to_owned()).collect();
    let verified = store.verify(&images, Depth::Data, &()).unwrap();
    assert!(verified.problems.iter().all(|problem| !problem.is_warning));
    verified.problems.into_iter().map(|problem| (problem.object, problem.message)).collect()
}

/// Changes a file behind the store's back.
fn change(path: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn sound_images_have_no_problems_and_each_file_is_read_once() {
    let (_folder, places, store) = with_chain();
    let before = picture(&store, &places);
    let verified = store.verify(&[], Depth::Data, &()).unwrap();
    assert_eq!((verified.images, verified.files, verified.problems.len()), (2, 3, 0));
    assert_eq!(verified.read_bytes, 2 * 4096);
    let verified = store.verify(&["base".into()], Depth::Metadata, &()).unwrap();
    assert_eq!((verified.images, verified.files, verified.read_bytes), (1, 2, 0));
    assert_eq!(picture(&store, &places), before);
    let error = store.verify(&["nosuch".into()], Depth::Metadata, &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_parent_that_was_written_to_is_found() {
    let (_folder, _places, store) = with_chain();
    let base = store.find("base").unwrap();
    // As another program would: the file gets a new identity.
    let chain = Chain::open(&store.chain(&base.file).unwrap(), Access::ReadWrite).unwrap();
    chain.write_at(0, &[9; 512]).unwrap();
    chain.close().unwrap();
    let found = problems(&store, &["web"]);
    let file = store.find("web").unwrap().file.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(found[0].0, file);
    assert_eq!(found[1].0, "web:latest");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(problems(&store, &["base"]).is_empty());
}

#[test]
fn damaged_tables_and_files_that_are_cut_off_are_found() {
    let (_folder, _places, store) = with_chain();
    let web = store.find("web").unwrap().file;
    change(&web, 192 << 10, &[0xff; 4096]);
    change(&web, 256 << 10, &[0xff; 4096]);
    assert!(!problems(&store, &[]).is_empty());
    let base = store.find("base").unwrap().file;
    let length = std::fs::metadata(&base).unwrap().len();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&base)
        .unwrap()
        .set_len(length - (1 << 20))
        .unwrap();
    let found = problems(&store, &["base"]);
    assert!(found.iter().any(|(object, _)| base.ends_with(object)), "{found:?}");
}

#[test]
fn files_that_are_missing_or_have_no_readable_sidecar_are_found() {
    let (_folder, places, store) = with_chain();
    let base = store.find("base").unwrap().file;
    drop(store);
    let elsewhere = places.root.join("elsewhere");
    std::fs::rename(&base, &elsewhere).unwrap();
    let store = places.open();
    let found = problems(&store, &[]);
    assert!(
        found.iter().any(|(object, message)| {
            object == "web:latest" && message.contains("is not there")
        })
    );
    assert!(found.iter().any(|(object, _)| object == "base:latest"), "its name leads nowhere");
    drop(store);
    std::fs::rename(&elsewhere, &base).unwrap();
    std::fs::write(base.with_extension("json"), "{").unwrap();
    let found = problems(&places.open(), &[]);
    assert!(found.iter().any(|(object, _)| base.ends_with(object)), "{found:?}");
}

/// Wants no more from the first byte on.
struct Impatient;

impl Watch for Impatient {
    fn advanced(&self, _: u64, _: u64) {}

    fn cancelled(&self) -> bool {
        true
    }
}

#[test]
fn disk_files_that_no_image_can_be_are_told_of() {
    let (_folder, places, store) = with_chain();
    let base = store.find("base").unwrap().file;
    let twin = base.file_name().unwrap().to_str().unwrap().replace("base_", "twin_");
    for name in ["plain.VHDX", &twin, "notes.txt"] {
        std::fs::copy(&base, base.with_file_name(name)).unwrap();
    }
    let verified = store.verify(&[], Depth::Metadata, &()).unwrap();
    let found: Vec<_> =
        verified.problems.iter().map(|one| (one.object.as_str(), one.is_warning)).collect();
    assert_eq!(found, [("plain.VHDX", true), (&*twin, true)]);
    assert!(verified.problems[1].message.contains("base_"), "{found:?}");
    drop(store);
    assert!(places.open().find("plain").is_err());
}

#[test]
fn reading_can_be_cancelled() {
    let (_folder, _places, store) = with_chain();
    let error = store.verify(&[], Depth::Data, &Impatient).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}
