//! Folding layers that are nobody's: the bytes, who stands on them, what is left alone.

use super::*;
use crate::{ErrorKind, ExportFormat, Fold, FoldExtent, Folded, Layers};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where each commit writes what no other does.
const OWN: u64 = 20 << 20;

/// Commits the container `c` of `base` as `x1`, `x2`, … and removes these images.
fn with_row(layers: u8) -> (Folder, Places, Store, PathBuf) {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    import(&store, &places, "base", 1);
    let leaf = container(&store, &places, "base", "c", 2);
    commit_and_remove(&store, &leaf, 1..=layers);
    (folder, places, store, leaf)
}

fn commit_and_remove(store: &Store, leaf: &Path, numbers: std::ops::RangeInclusive<u8>) {
    for number in numbers {
        let image = format!("x{number}");
        commit_with_own(store, leaf, number, &image);
        store.remove(&image, true, &[]).unwrap();
    }
}

fn commit_with_own(store: &Store, leaf: &Path, number: u8, image: &str) -> ImageInfo {
    let chain = Chain::open(&store.chain(leaf).unwrap(), Access::ReadWrite).unwrap();
    chain.write_at(OWN + u64::from(number) * 4096, &[number; 4096]).unwrap();
    chain.close().unwrap();
    commit(store, leaf, image)
}

/// What the first `layers` commits wrote is there.
#[track_caller]
fn assert_all_there(store: &Store, leaf: &Path, layers: u8) {
    let chain = Chain::open(&store.chain(leaf).unwrap(), Access::ReadOnly).unwrap();
    for number in 1..=layers {
        let mut bytes = [0; 4096];
        chain.read_at(OWN + u64::from(number) * 4096, &mut bytes).unwrap();
        assert_eq!(bytes, [number; 4096]);
    }
}

fn fold(store: &Store) -> Folded {
    store.fold(FoldExtent::Whole, &()).unwrap()
}

fn depth(store: &Store, leaf: &Path) -> usize {
    store.chain(leaf).unwrap().len()
}

#[test]
fn layers_of_removed_images_become_one_file_and_the_disk_reads_as_before() {
    let (_folder, places, store, leaf) = with_row(5);
    let before = picture(&store, &places);
    assert_eq!((depth(&store, &leaf), before.files), (8, 7));
    let below = vhdx::info(&store.chain(&leaf).unwrap()[1]).unwrap().data_write_guid;
    let [would] = &store.foldable(FoldExtent::Whole).unwrap()[..] else { panic!("one row") };
    assert_eq!((would.layers.len(), &would.file), (5, &would.layers[0]));
    assert_eq!(picture(&store, &places), before);

    let folded = fold(&store);
    assert_eq!((folded.folds, folded.kept), (vec![would.clone()], vec![]));
    assert!(folded.freed > 0);
    let after = picture(&store, &places);
    assert_eq!((depth(&store, &leaf), after.files), (4, 3));
    assert_eq!((&after.images, &after.containers), (&before.images, &before.containers));
    assert_all_there(&store, &leaf, 5);
    let file = store.chain(&leaf).unwrap()[1].clone();
    assert_eq!(file.file_name().unwrap().to_str().unwrap(), would.file);
    assert_eq!(vhdx::info(&file).unwrap().data_write_guid, below);
    assert_eq!(fold(&store), Folded::default());
    assert!(store.verify(&[], crate::Depth::Data, &()).unwrap().problems.is_empty());
    drop(store);
    assert_eq!(picture(&places.open(), &places), after);
}

#[test]
fn images_stay_as_they_are_and_what_stands_between_them_is_not_touched() {
    let (_folder, places, store, leaf) = with_row(2);
    // base ◄─ x1 ◄─ x2 ◄─ kept ◄─ x4 ◄─ x5 ◄─ top ◄─ x7 ◄─ c
    let kept = commit_with_own(&store, &leaf, 3, "kept");
    commit_and_remove(&store, &leaf, 4..=5);
    let top = commit_with_own(&store, &leaf, 6, "top");
    commit_and_remove(&store, &leaf, 7..=7);
    let bytes = |image: &ImageInfo| std::fs::read(&image.file).unwrap();
    let (before, files) = ([bytes(&kept), bytes(&top)], picture(&store, &places));
    assert_eq!(fold(&store).folds.len(), 2);
    assert!([bytes(&kept), bytes(&top)] == before);
    let after = picture(&store, &places);
    assert_eq!((&after.images, after.files), (&files.images, files.files - 2));
    assert_eq!(depth(&store, &leaf), 8);
    assert_all_there(&store, &leaf, 7);
    assert_all_there(&store, &top.file, 6);
}

#[test]
fn a_layer_that_something_else_stands_on_is_where_a_row_ends() {
    let (_folder, places, store, leaf) = with_row(2);
    // Another container on what x2 was, made while that was an image.
    commit_with_own(&store, &leaf, 3, "x3");
    let other = container(&store, &places, "x3", "other", 9);
    store.remove("x3", true, &[]).unwrap();
    commit_and_remove(&store, &leaf, 4..=5);
    let folds = store.foldable(FoldExtent::Whole).unwrap();
    assert_eq!(folds.iter().map(|fold| fold.layers.len()).collect::<Vec<_>>(), [2, 3]);
    let before = picture(&store, &places);
    fold(&store);
    assert_eq!(picture(&store, &places).containers, before.containers);
    assert_eq!((depth(&store, &leaf), depth(&store, &other)), (5, 4));
    assert_all_there(&store, &leaf, 5);
    assert_all_there(&store, &other, 3);
}

#[test]
fn data_disks_of_images_are_left_alone_and_those_of_nobody_are_folded() {
    let folder = folder();
    let places = Places::make(folder.path());
    let store = places.open();
    import(&store, &places, "base", 1);
    let leaf = container(&store, &places, "base", "c", 2);
    let data = [data_disk(&store, &places, "base", "c", 3)];
    for image in ["x1", "x2", "kept", "x4", "x5"] {
        commit_all(&store, &leaf, &data, image).unwrap();
        write(&store, &data[0].path, 4);
        if image != "kept" {
            store.remove(image, true, &[]).unwrap();
        }
    }
    let before = picture(&store, &places);
    assert_eq!(fold(&store).folds.len(), 4);
    let after = picture(&store, &places);
    assert_eq!((&after.images, &after.data), (&before.images, &before.data));
    assert_eq!((&after.containers, after.files), (&before.containers, before.files - 4));
    assert_eq!(read(&store, &data_file(&store, &store.find("kept").unwrap())), 4);
}

#[test]
fn a_disk_that_is_open_goes_on_while_its_layers_are_folded() {
    let (_folder, places, store, leaf) = with_row(4);
    let running = Chain::open(&store.chain(&leaf).unwrap(), Access::ReadWrite).unwrap();
    assert_eq!(fold(&store).folds.len(), 1);
    let mut bytes = [0; 4096];
    running.read_at(OWN + 4096, &mut bytes).unwrap();
    assert_eq!(bytes, [1; 4096]);
    running.write_at(MARK, &[8; 4096]).unwrap();
    running.close().unwrap();
    assert_eq!((read(&store, &leaf), depth(&store, &leaf)), (8, 4));
    assert_all_there(&store, &leaf, 4);
    commit(&store, &leaf, "next");
    assert_all_there(&store, &store.find("next").unwrap().file, 4);
    picture(&store, &places);
}

#[test]
fn layers_of_a_disk_that_is_about_to_be_opened_stay_until_it_is() {
    let (_folder, places, store, leaf) = with_row(3);
    let before = picture(&store, &places);
    let (files, held) = store.hold_chain(&leaf).unwrap();
    let folded = fold(&store);
    assert_eq!((folded.folds.len(), folded.kept.len()), (0, 1));
    assert!(folded.kept[0].contains("is being used by another verb"), "{:?}", folded.kept);
    assert_eq!(picture(&store, &places), before);
    Chain::open(&files, Access::ReadOnly).unwrap();
    drop(held);
    assert_eq!(fold(&store).folds.len(), 1);
}

#[test]
fn a_commit_that_has_begun_keeps_what_it_stands_on() {
    let (_folder, _places, store, leaf) = with_row(3);
    let pending = store.begin_commit(&leaf, &[], new_image(Some("next"))).unwrap();
    assert_eq!(fold(&store).kept.len(), 1);
    store.freeze_stopped(&pending).unwrap();
    assert_eq!(fold(&store).kept.len(), 1);
    store.publish_commit(pending).unwrap();
    assert_eq!(fold(&store).folds.len(), 1);
    assert_all_there(&store, &leaf, 3);
}

#[test]
fn the_history_of_what_is_above_stays_and_so_do_its_sizes() {
    let (_folder, _places, store, leaf) = with_row(3);
    let image = commit_with_own(&store, &leaf, 4, "top");
    let steps = || store.history(&image.id).unwrap();
    let before = steps();
    fold(&store);
    let after = steps();
    assert_eq!(after.len(), before.len());
    assert_eq!((&after[0], &after[4]), (&before[0], &before[4]), "its own step, and the base");
    let sum = |steps: &[crate::HistoryStep]| steps.iter().map(|step| step.own_bytes).sum::<u64>();
    assert!(after[1].own_bytes > 0 && sum(&after[2..4]) == 0, "{after:?}");
    assert!(sum(&after) <= sum(&before));
    // What is merged later takes all of the steps with it.
    let merged = merge(&store, "top", "flat", MergeFiles::Top(2), Sources::Keep).unwrap();
    let steps = store.history(&merged.image.id).unwrap();
    assert_eq!(steps.iter().filter(|step| step.own_bytes > 0).count(), 2, "{steps:?}");
}

#[test]
fn what_is_committed_on_folded_layers_continues_their_history_and_travels() {
    let (folder, places, store, leaf) = with_row(3);
    let before = store.history(&commit_with_own(&store, &leaf, 4, "old").id).unwrap().len();
    store.remove("old", true, &[]).unwrap();
    fold(&store);
    let top = commit_with_own(&store, &leaf, 5, "top");
    assert_eq!(store.history(&top.id).unwrap().len(), before + 1);
    let (file, format) = (places.cache.join("top.zip"), ExportFormat::Zip(Layers::Tree));
    let to = ExportTo { file: file.clone(), format, replace: false, disk: None };
    export(&store, &top.id, &to, &(), no_program).unwrap();
    let elsewhere = Places::make(&folder.path().join("elsewhere"));
    let other = elsewhere.open();
    other.import_zip(&file, None, &()).unwrap();
    let there = other.find("top").unwrap();
    assert_eq!((there.id, there.guid), (top.id, top.guid));
    assert_eq!(other.history(&top.id).unwrap(), store.history(&top.id).unwrap());
    let chains = [(&store, &top.file), (&other, &there.file)];
    let bytes = chains.map(|(store, leaf)| {
        store.chain(leaf).unwrap().iter().map(|file| std::fs::read(file).unwrap()).collect()
    });
    let [here, there]: [Vec<_>; 2] = bytes;
    assert!(here == there, "byte for byte the same");
}

#[test]
fn an_older_zip_of_what_was_folded_since_is_refused_here_with_the_reason() {
    let (_folder, places, store, leaf) = with_row(2);
    let top = commit_with_own(&store, &leaf, 3, "top");
    let (file, format) = (places.cache.join("top.zip"), ExportFormat::Zip(Layers::Tree));
    let to = ExportTo { file: file.clone(), format, replace: false, disk: None };
    export(&store, &top.id, &to, &(), no_program).unwrap();
    fold(&store);
    let before = picture(&store, &places);
    let error = store.import_zip(&file, None, &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.remedy().unwrap().contains("folded here"), "{error}");
    assert_eq!(picture(&store, &places), before);
}

#[test]
fn by_itself_only_long_rows_are_folded_and_only_where_that_is_worth_it() {
    let (_folder, places, store, leaf) = with_row(7);
    let worthwhile = || store.foldable(FoldExtent::Worthwhile).unwrap();
    assert_eq!(worthwhile(), []);
    commit_and_remove(&store, &leaf, 8..=8);
    assert_eq!(worthwhile().iter().map(|fold| fold.layers.len()).collect::<Vec<_>>(), [8]);
    store.fold(FoldExtent::Worthwhile, &()).unwrap();
    assert_eq!(depth(&store, &leaf), 4);
    // However often it is committed, the chain stays short.
    for number in 9..60 {
        commit_and_remove(&store, &leaf, number..=number);
        store.fold(FoldExtent::Worthwhile, &()).unwrap();
        assert!(depth(&store, &leaf) < 20, "{}", depth(&store, &leaf));
    }
    assert_all_there(&store, &leaf, 59);
    picture(&store, &places);
}

#[test]
fn a_root_that_another_program_laid_out_is_only_folded_on_request() {
    let (_folder, places, store, _) = with_row(8);
    drop(store);
    std::fs::rename(places.root.join("images"), places.root.join("Images")).unwrap();
    let store = places.open();
    let folds = |extent| store.foldable(extent).unwrap().len();
    assert_eq!((folds(FoldExtent::Worthwhile), folds(FoldExtent::Whole)), (0, 1));
    assert_eq!(store.fold(FoldExtent::Worthwhile, &()).unwrap(), Folded::default());
}

#[test]
fn nothing_is_folded_while_a_file_cannot_be_read() {
    let (_folder, places, store, _) = with_row(3);
    let lone = import(&store, &places, "lone", 7);
    drop(store);
    std::fs::remove_file(&lone.file).unwrap();
    std::fs::write(&lone.file, "no disk").unwrap();
    let store = places.open();
    let error = store.foldable(FoldExtent::Whole).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("nothing is folded while images/lone_"), "{error}");
}

/// Cancels at its n-th look.
struct Impatient(AtomicUsize);

impl Watch for Impatient {
    fn advanced(&self, _: u64, _: u64) {}

    fn cancelled(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) == 0
    }
}

#[test]
fn a_folding_that_is_cancelled_leaves_each_row_whole() {
    let (_folder, places, store, leaf) = with_row(3);
    let before = picture(&store, &places);
    let error = store.fold(FoldExtent::Whole, &Impatient(AtomicUsize::new(2))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(picture(&store, &places), before);
    assert_all_there(&store, &leaf, 3);
}

#[test]
fn of_two_foldings_at_once_one_is_refused() {
    let (_folder, _places, store, _) = with_row(2);
    struct Inner<'a>(&'a Store, AtomicUsize);
    impl Watch for Inner<'_> {
        fn advanced(&self, _: u64, _: u64) {
            let error = self.0.fold(FoldExtent::Whole, &()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            self.1.fetch_add(1, Ordering::Relaxed);
        }
        fn cancelled(&self) -> bool {
            false
        }
    }
    let inner = Inner(&store, AtomicUsize::new(0));
    let Folded { folds, .. } = store.fold(FoldExtent::Whole, &inner).unwrap();
    assert!(matches!(&folds[..], [Fold { layers, .. }] if layers.len() == 2));
    assert!(inner.1.into_inner() > 0);
}
