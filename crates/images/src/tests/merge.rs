//! Merging images: the bytes, the tree, what may not be lost.

use super::*;
use crate::{ErrorKind, Removed, Watch};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where only `web` writes.
const WEBS_OWN: u64 = 40 << 20;

/// app-root ◄─ base ◄─ web ◄─ api ◄─ top; the containers they were committed from are `b`, `w`, `a`.
fn with_chain() -> (Folder, Places, Store) {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    import(&store, &places, "base", 1);
    for (image, id, mark, new) in
        [("base", "b", 2, "web"), ("web", "w", 3, "api"), ("api", "a", 4, "top")]
    {
        let leaf = container(&store, &places, image, id, mark);
        if new == "web" {
            let chain = Chain::open(&store.chain(&leaf).unwrap(), Access::ReadWrite).unwrap();
            chain.write_at(WEBS_OWN, &[7; 4096]).unwrap();
            chain.close().unwrap();
        }
        commit(&store, &leaf, new);
    }
    (folder, places, store)
}

fn webs_own(store: &Store, leaf: &Path) -> u8 {
    let chain = Chain::open(&store.chain(leaf).unwrap(), Access::ReadOnly).unwrap();
    let mut bytes = [0; 4096];
    chain.read_at(WEBS_OWN, &mut bytes).unwrap();
    bytes[0]
}

#[test]
fn a_merge_makes_a_new_image_and_leaves_every_source_byte_identical() {
    let (_folder, places, store) = with_chain();
    let files = || -> Vec<_> {
        ["base", "web", "api"]
            .map(|name| std::fs::read(store.find(name).unwrap().file).unwrap())
            .into()
    };
    let before = files();
    let merged = merge(&store, "api", "flat", MergeFiles::Top(2), Sources::Keep).unwrap();
    assert!(files() == before);
    assert_eq!((merged.files, merged.removed.len()), (2, 0));
    let flat = store.find("flat").unwrap();
    assert_eq!(flat.id, merged.image.id);
    assert_eq!(flat.parent_image, Some(store.find("base").unwrap().id));
    assert_eq!((flat.depth, store.find("api").unwrap().depth), (3, 4));
    assert_eq!((read(&store, &flat.file), webs_own(&store, &flat.file)), (3, 7));
    assert_eq!(std::fs::metadata(&flat.file).unwrap().mode() & 0o777, 0o444);
    let leaf = container(&store, &places, "flat", "new", 9);
    assert_eq!((read(&store, &leaf), webs_own(&store, &leaf)), (9, 7));
    let (ours, theirs) = (flat.config.document(), store.find("api").unwrap());
    assert_eq!(ours.config, theirs.config.document().config);
    let steps = store.history(&flat.id).unwrap();
    assert_eq!(steps.iter().filter(|step| step.image.is_some()).count(), 2);
    assert_eq!(steps[0].comment, "merged api:latest, web:latest");
    drop(store);
    picture(&places.open(), &places);
}

#[test]
fn a_merge_of_all_files_stands_on_nothing() {
    let (_folder, places, store) = with_chain();
    let before = picture(&store, &places);
    let flat = merge(&store, "api", "flat", MergeFiles::All, Sources::Keep).unwrap();
    assert_eq!(flat.files, 4);
    let flat = flat.image;
    assert_eq!((flat.depth, flat.parent), (1, None));
    assert_eq!((read(&store, &flat.file), webs_own(&store, &flat.file)), (3, 7));
    assert_eq!(picture(&store, &places).files, before.files + 1);
    let error = merge(&store, "flat", "x", MergeFiles::All, Sources::Keep).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::BadInput, "flat:latest is made of one file: it stands on nothing")
    );
}

#[test]
fn the_common_root_is_merged_only_with_all() {
    let (_folder, _places, store) = with_chain();
    for (image, files, message) in [
        (
            "base",
            2,
            "base:latest is made of one file over the common root of app images: 2 cannot be merged",
        ),
        (
            "api",
            4,
            "api:latest is made of 3 files over the common root of app images: 4 cannot be merged",
        ),
        ("api", 1, "fewer than two files cannot be merged"),
    ] {
        let error = merge(&store, image, "x", MergeFiles::Top(files), Sources::Keep).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::BadInput, message));
    }
    merge(&store, "api", "x", MergeFiles::Top(3), Sources::Keep).unwrap();
    merge(&store, "base", "alone", MergeFiles::All, Sources::Keep).unwrap();
}

#[test]
fn a_name_that_is_in_use_is_never_taken() {
    let (_folder, places, store) = with_chain();
    let before = picture(&store, &places);
    for (name, sources) in [
        ("web", Sources::Keep),
        ("api", Sources::Keep),
        ("base", Sources::Delete),
        ("web", Sources::Delete),
    ] {
        let error = merge(&store, "api", name, MergeFiles::Top(2), sources).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(&format!("the name {name}:latest is in use")));
        assert_eq!(picture(&store, &places), before);
    }
}

#[test]
fn deleting_the_sources_orphans_nothing_that_stands_on_them() {
    let (_folder, places, store) = with_chain();
    let old = ["web", "api"].map(|name| store.find(name).unwrap());
    let merged = merge(&store, "api", "flat", MergeFiles::Top(2), Sources::Delete).unwrap();
    assert_eq!(merged.kept, Vec::<String>::new());
    let gone = [&old[1], &old[0]]
        .map(|image| [Removed::Untagged(image.names[0].clone()), Removed::Deleted(image.id)]);
    assert_eq!(merged.removed, gone.concat());
    let (flat, top) = (store.find("flat").unwrap(), store.find("top").unwrap());
    assert_eq!(top.parent_image, Some(flat.id));
    assert_eq!((flat.depth, top.depth), (3, 4));
    assert_eq!((read(&store, &flat.file), webs_own(&store, &flat.file)), (3, 7));
    assert_eq!((read(&store, &top.file), webs_own(&store, &top.file)), (4, 7));
    for (container, mark) in [("w", 3), ("a", 4)] {
        let image = if container == "w" { "web" } else { "api" };
        let leaf = places.container(container).join(format!("{image}.vhdx"));
        assert_eq!((read(&store, &leaf), webs_own(&store, &leaf)), (mark, 7), "{container}");
    }
    // The container that web was committed from stands on web's layer: that stays for it alone.
    let layer = places.container("b").join("base.vhdx");
    assert_eq!(read(&store, &layer), 2);
    assert!(old[0].file.exists());
    std::fs::remove_dir_all(places.container("b")).unwrap();
    assert_eq!(store.collect(), [old[0].guid]);
    drop(store);
    let store = places.open();
    assert_eq!(store.find("top").unwrap().parent_image, Some(flat.id));
    picture(&store, &places);
}

#[test]
fn an_image_may_keep_its_name_when_its_sources_go() {
    let (_folder, _places, store) = with_chain();
    let id = store.find("api").unwrap().id;
    let merged = merge(&store, "api", "api", MergeFiles::Top(2), Sources::Delete).unwrap();
    assert!(!merged.removed.contains(&Removed::Untagged(named("api:latest"))));
    assert_ne!(store.find("api").unwrap().id, id);
    assert!(store.find("web").is_err());
}

#[test]
fn sources_that_somebody_else_uses_stay_and_are_named() {
    let (_folder, places, store) = with_chain();
    let leaf = container(&store, &places, "web", "x", 5);
    commit(&store, &leaf, "sibling");
    let merged = merge(&store, "api", "flat", MergeFiles::Top(3), Sources::Delete).unwrap();
    assert_eq!(
        merged.kept,
        [
            "web:latest: image sibling:latest stands on it",
            "base:latest: image web:latest stands on it"
        ]
    );
    assert_eq!(read(&store, &store.find("sibling").unwrap().file), 5);
    assert_eq!(read(&store, &store.find("web").unwrap().file), 2);
    picture(&store, &places);
}

#[test]
fn an_image_that_containers_were_made_from_is_not_deleted() {
    let (_folder, places, store) = with_chain();
    let before = picture(&store, &places);
    let request = MergeRequest {
        image: "api".into(),
        name: named("flat"),
        files: MergeFiles::Top(2),
        sources: Sources::Delete,
    };
    let made = || vec![user(&store, "api", "a", true)];
    let users = made();
    let error = store.merge(&request, &|| users.clone(), &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().ends_with("containers were made from it: name-of-a"), "{error}");
    // Nor one that was made while the files were merged.
    let calls = AtomicU64::new(0);
    let late = || match calls.fetch_add(1, Ordering::Relaxed) {
        0 => Vec::new(),
        _ => users.clone(),
    };
    let error = store.merge(&request, &late, &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(picture(&store, &places), before);
}

#[test]
fn a_disk_that_is_in_use_goes_on_while_what_it_stands_on_is_replaced() {
    let (_folder, places, store) = with_chain();
    let leaf = places.container("a").join("api.vhdx");
    let running = Chain::open(&store.chain(&leaf).unwrap(), Access::ReadWrite).unwrap();
    std::fs::remove_dir_all(places.container("b")).unwrap();
    merge(&store, "api", "flat", MergeFiles::Top(2), Sources::Delete).unwrap();
    let mut bytes = [0; 4096];
    running.read_at(WEBS_OWN, &mut bytes).unwrap();
    assert_eq!(bytes[0], 7);
    running.write_at(MARK, &[8; 4096]).unwrap();
    running.close().unwrap();
    assert_eq!((read(&store, &leaf), webs_own(&store, &leaf)), (8, 7));
}

/// Cancels after so many calls.
struct Impatient(AtomicU64);

impl Watch for Impatient {
    fn advanced(&self, _: u64, _: u64) {}

    fn cancelled(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) >= 2
    }
}

#[test]
fn a_merge_that_is_cancelled_leaves_nothing() {
    let (_folder, places, store) = with_chain();
    let before = picture(&store, &places);
    for sources in [Sources::Keep, Sources::Delete] {
        let request = MergeRequest {
            image: "api".into(),
            name: named("flat"),
            files: MergeFiles::Top(2),
            sources,
        };
        let error = store.merge(&request, &Vec::new, &Impatient(AtomicU64::new(0))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(picture(&store, &places), before);
    }
}

#[test]
fn of_two_merges_under_one_name_one_is_refused() {
    let (_folder, places, store) = with_chain();
    for sources in [Sources::Keep, Sources::Delete] {
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let race = || merge(&store, "api", "flat", MergeFiles::Top(2), sources);
            let threads = [scope.spawn(race), scope.spawn(race)];
            threads.map(|thread| thread.join().unwrap()).into()
        });
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        picture(&store, &places);
        if sources == Sources::Keep {
            store.remove("flat", false, &[]).unwrap();
        }
    }
}

#[test]
fn an_independent_reader_sees_what_was_merged() {
    let folder = temporary();
    let places = Places::make(folder.path());
    let file = {
        let _nobody = nobody_forks();
        let store = places.open();
        import(&store, &places, "base", 1);
        let leaf = container(&store, &places, "base", "c", 2);
        commit(&store, &leaf, "web");
        merge(&store, "web", "flat", MergeFiles::All, Sources::Keep).unwrap().image.file
    };
    let mut command = Command::new("qemu-img");
    let raw = folder.path().join("raw");
    let Ok(seen) =
        output(command.args(["convert", "-f", "vhdx", "-O", "raw"]).arg(&file).arg(&raw))
    else {
        return eprintln!("skipped: qemu-img is not installed");
    };
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    let bytes = std::fs::read(raw).unwrap();
    assert_eq!(bytes.len(), 64 << 20);
    let (at, end) = (MARK as usize, MARK as usize + 4096);
    assert!(bytes[at..end].iter().all(|byte| *byte == 2));
    assert!(bytes[..at].iter().chain(&bytes[end..]).all(|byte| *byte == 0));
}
