//! A child merged into its parent in place: the disk reads the same at every moment, whatever happens.

use std::fs;
use std::sync::Arc;

use ireko_disk::vhdx::{self, ChildOptions};
use ireko_disk::{
    Access, Chain, Disk, ErrorKind, Format, RelinkOptions, ResizeOptions, find_chain, merge,
    relink, resize, resize_storage,
};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Damage, Image};

use crate::support::{
    Impatient, MIB, Shape, assert_same, bytes, bytes_of, change, folder, names, over, soak,
    storages,
};

#[test]
fn chains_merge_layer_by_layer_down_to_the_base() {
    for seed in 0..8 * soak() {
        let mut random = Random::new(seed);
        let depth = if seed % 8 == 7 { 16 } else { 2 + random.below(5) as usize };
        let folder = folder();
        let format = [Format::Vhdx, Format::Vhd][seed as usize % 2];
        let shape = Shape::random(&mut random, format, depth);
        let mut paths = shape.make(folder.path(), &mut random);
        let expected = bytes_of(&paths);
        // Sometimes a layer in the middle: its children go on over its parent.
        while paths.len() > 1 {
            let child = random.below(paths.len() as u64 - 1) as usize;
            let context = format!("seed {seed}, layer {child} of {}", paths.len());
            merge::into_parent(&paths[child..], &[], &()).expect(&context);
            let merged = paths.remove(child);
            assert!(!merged.exists());
            assert_same(&bytes_of(&paths), &expected, &context);
            if child > 0 {
                // Only the path is stale.
                let (above, parent) = (&paths[child - 1], &paths[child]);
                assert_eq!(find_chain(above, &[]).unwrap_err().kind(), ErrorKind::NotFound);
                relink(above, parent, &[], &RelinkOptions::default(), &()).unwrap();
                assert_eq!(find_chain(above, &[]).unwrap(), paths[child - 1..]);
            }
            if random.one_in(2) {
                // The merged file is a disk like any other.
                let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
                disk.close().unwrap();
            }
        }
        assert_eq!(names(folder.path()), [shape.name(0)]);
    }
}

/// A child and its parent over a base, and a child of the child; the two that change may lose power together.
struct Tree {
    grandchild: Image,
    changing: [Image; 2],
    base: Image,
    expected: Vec<u8>,
    with_grandchild: Vec<u8>,
}

impl Tree {
    fn new(seed: u64, format: Format) -> Self {
        let mut random = Random::new(seed);
        let is_vhdx = format == Format::Vhdx;
        let sector = if is_vhdx && seed % 2 == 1 { 4096 } else { 512 };
        let size = 3 * MIB + 256 * 1024;
        let shape = Shape { format, size, sector, blocks: vec![1 << 20; 3], changes: 4 };
        let mut files = shape.make_in_memory(&mut random);
        if !seed.is_multiple_of(3) {
            let larger = size + 2 * MIB;
            resize_storage(&storages(&files), larger, &ResizeOptions::default(), &()).unwrap();
            let disk = over(&files, Access::ReadWrite);
            (0..4).for_each(|_| change(&disk, &mut random));
            disk.close().unwrap();
        }
        shape.add_in_memory(&mut files, 1 << 20, &mut random);
        let expected = bytes(&over(&files[1..], Access::ReadOnly));
        let with_grandchild = bytes(&over(&files, Access::ReadOnly));
        let [grandchild, child, parent, base] = [0, 1, 2, 3].map(|file| files[file].image());
        Self { grandchild, changing: [child, parent], base, expected, with_grandchild }
    }

    /// The disk and its child read as ever, through what is left of the two files.
    fn check(&self, left: &[Image], context: &str) {
        let reopened = |images: &[&Image]| {
            let files: Vec<_> =
                images.iter().map(|&image| Arc::new(CrashStorage::new(image.clone()))).collect();
            Chain::over(storages(&files), Access::ReadOnly).expect(context)
        };
        let (child, parent) = (&left[0], &left[1]);
        let disk = reopened(&[child, parent, &self.base]);
        assert_same(&bytes(&disk), &self.expected, context);
        let disk = reopened(&[&self.grandchild, child, parent, &self.base]);
        assert_same(&bytes(&disk), &self.with_grandchild, context);
    }

    /// Merges what is left until the end.
    fn finish(&self, left: &[Image], context: &str) -> Vec<Arc<CrashStorage>> {
        let files = CrashStorage::group(left.to_vec());
        let base = Arc::new(CrashStorage::new(self.base.clone()));
        let chain = storages(&[files[0].clone(), files[1].clone(), base.clone()]);
        merge::storages_into_parent(chain, &()).expect(context);
        assert!(base.position() == 0, "{context}: the parent's parent changed");
        self.check(&[files[0].image(), files[1].image()], context);
        let alone = [files[1].clone(), base.clone()];
        assert_same(&bytes(&over(&alone, Access::ReadOnly)), &self.expected, context);
        let grandchild = Arc::new(CrashStorage::new(self.grandchild.clone()));
        let above = over(&[grandchild, files[1].clone(), base], Access::ReadOnly);
        assert_same(&bytes(&above), &self.with_grandchild, context);
        files
    }
}

/// Merges on storage that loses power after every change, with every damage. Returns the number of states looked at.
fn cut_everywhere(tree: &Tree, random: &mut Random) -> usize {
    let files = tree.finish(&tree.changing, "undisturbed");
    let trace = files[0].group_trace();
    let mut states = 0;
    for cut in 0..=trace.positions() {
        for damage in Damage::GROUP {
            let context = format!("cut after {cut} changes, {damage:?}");
            let left = trace.cut(cut, damage, random);
            tree.check(&left, &context);
            states += 1;
            if !random.one_in(8) {
                continue;
            }
            // Called again, and cut again.
            let again = tree.finish(&left, &context)[0].group_trace();
            let cut = random.below(again.positions() as u64 + 1) as usize;
            let context = format!("{context}, then after {cut}");
            let left = again.cut(cut, damage, random);
            tree.check(&left, &context);
            tree.finish(&left, &context);
        }
    }
    states
}

#[test]
fn a_power_cut_at_any_moment_leaves_the_disk_as_it_was_and_the_merge_goes_on() {
    let runs = |format, seeds| -> usize {
        (0..seeds * soak())
            .map(|seed| cut_everywhere(&Tree::new(seed, format), &mut Random::new(seed)))
            .sum()
    };
    let states = [runs(Format::Vhdx, 2), runs(Format::Vhd, 2)];
    println!("{states:?} states");
    assert!(states[0] >= 500 && states[1] >= 100, "only {states:?} states");
}

#[test]
fn a_child_that_was_written_to_between_two_attempts_keeps_what_was_written() {
    for format in [Format::Vhdx, Format::Vhd] {
        let tree = Tree::new(1, format);
        let trace = tree.finish(&tree.changing, "undisturbed")[0].group_trace();
        let mut random = Random::new(1);
        for cut in (0..=trace.positions()).step_by(3) {
            let context = format!("{format}, cut after {cut} changes");
            let left = trace.cut(cut, Damage::KeepsAll, &mut random);
            let files = CrashStorage::group(left);
            let base = Arc::new(CrashStorage::new(tree.base.clone()));
            let chain = [files[0].clone(), files[1].clone(), base];
            let disk = over(&chain, Access::ReadWrite);
            (0..5).for_each(|_| change(&disk, &mut random));
            let expected = bytes(&disk);
            disk.close().unwrap();
            merge::storages_into_parent(storages(&chain), &()).expect(&context);
            assert_same(&bytes(&over(&chain[1..], Access::ReadOnly)), &expected, &context);
        }
    }
}

#[test]
fn a_cancelled_merge_goes_on_when_called_again() {
    let folder = folder();
    let mut random = Random::new(2);
    let shape = Shape {
        format: Format::Vhdx,
        size: 60 * MIB,
        sector: 512,
        blocks: vec![2 << 20; 3],
        changes: 40,
    };
    let paths = shape.make(folder.path(), &mut random);
    let expected = bytes_of(&paths);
    for limit in [1, 3 * MIB, 8 * MIB] {
        let error = merge::into_parent(&paths, &[], &Impatient::after(limit)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_same(&bytes_of(&paths), &expected, "cancelled");
        assert_eq!(find_chain(&paths[0], &[]).unwrap(), paths);
    }
    merge::into_parent(&paths, &[], &()).unwrap();
    assert_same(&bytes_of(&paths[1..]), &expected, "merged");
}

#[test]
fn a_parent_with_another_child_is_refused_and_the_child_named() {
    let folder = folder();
    let elsewhere = folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let paths = Shape::random(&mut Random::new(6), Format::Vhdx, 3)
        .make(folder.path(), &mut Random::new(6));
    let sibling = elsewhere.join("sibling.vhdx");
    vhdx::create_child(&sibling, &paths[1], r"..\layer1.vhdx", &ChildOptions::default()).unwrap();
    let before = [fs::read(&paths[0]).unwrap(), fs::read(&paths[1]).unwrap()];
    let error = merge::into_parent(&paths, std::slice::from_ref(&elsewhere), &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ParentMismatch);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("sibling.vhdx"), "{cause}");
    let near = folder.path().join("near.vhdx");
    fs::rename(&sibling, &near).unwrap();
    assert!(merge::into_parent(&paths, &[], &()).is_err());
    assert!([fs::read(&paths[0]).unwrap(), fs::read(&paths[1]).unwrap()] == before);

    // Children of the child, of other parents, and what is no disk do not matter.
    fs::remove_file(&near).unwrap();
    fs::write(folder.path().join("notes.txt"), "not a disk").unwrap();
    vhdx::create_child(&near, &paths[0], r".\layer2.vhdx", &ChildOptions::default()).unwrap();
    let expected = bytes_of(&paths);
    merge::into_parent(&paths, &[elsewhere], &()).unwrap();
    assert_same(&bytes_of(&paths[1..]), &expected, "merged");
    let above = [vec![near], paths[1..].to_vec()].concat();
    assert_same(&bytes_of(&above), &expected, "the child's child");
}

#[test]
fn a_base_and_a_disk_in_use_are_refused() {
    let folder = folder();
    let paths = Shape::random(&mut Random::new(7), Format::Vhdx, 2)
        .make(folder.path(), &mut Random::new(7));
    let refused = merge::into_parent(&paths[1..], &[], &()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OutOfRange);
    let reader = Chain::open(&paths[1..], Access::ReadOnly).unwrap();
    let refused = merge::into_parent(&paths, &[], &()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InUse);
    drop(reader);
    merge::into_parent(&paths, &[], &()).unwrap();
}

#[test]
fn a_parent_grows_to_the_size_of_its_child() {
    for format in [Format::Vhdx, Format::Vhd] {
        let folder = folder();
        let mut random = Random::new(9);
        let paths = Shape::random(&mut random, format, 3).make(folder.path(), &mut random);
        let base = fs::read(&paths[2]).unwrap();
        let size = 70 * MIB;
        resize(&paths, size, &ResizeOptions::default(), &()).unwrap();
        let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
        (0..20).for_each(|_| change(&disk, &mut random));
        disk.write_at(size - 600, &[9; 600]).unwrap();
        disk.close().unwrap();
        let expected = bytes_of(&paths);
        merge::into_parent(&paths, &[], &()).unwrap();
        assert_same(&bytes_of(&paths[1..]), &expected, "merged");
        assert!(fs::read(&paths[2]).unwrap() == base);
        merge::into_parent(&paths[1..], &[], &()).unwrap();
        assert_same(&bytes_of(&paths[2..]), &expected, "merged again");
    }
}
