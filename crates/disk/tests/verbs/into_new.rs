//! The union of a chain's topmost layers in a new file: the same disk, and nothing of the sources changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ireko_disk::vhdx::{self, ParentIdentity};
use ireko_disk::{
    Access, Chain, Disk, ErrorKind, ExtentKind, FileStorage, Format, Geometry, Lock, MergeOptions,
    NewDisk, Storage, convert, merge,
};
use ireko_testkit::random::Random;
use sha2::{Digest, Sha256};

use crate::outside::{has, hash_of_disk, hash_of_reader, run, text};
use crate::support::{Impatient, MIB, Shape, assert_same, bytes_of, folder, names, soak};

fn digests(paths: &[PathBuf]) -> Vec<Vec<u8>> {
    paths.iter().map(|path| Sha256::digest(fs::read(path).unwrap()).to_vec()).collect()
}

/// A new file at `to` for the topmost layers, with the files it stands on.
fn merged(paths: &[PathBuf], layers: usize, to: PathBuf) -> Vec<PathBuf> {
    std::iter::once(to).chain(paths[layers..].iter().cloned()).collect()
}

#[test]
fn any_number_of_layers_merged_reads_as_before() {
    for seed in 0..10 * soak() {
        let mut random = Random::new(seed);
        let depth = if seed % 10 == 9 { 16 } else { 2 + random.below(4) as usize };
        let folder = folder();
        let format = [Format::Vhdx, Format::Vhdx, Format::Vhd][seed as usize % 3];
        let paths = Shape::random(&mut random, format, depth).make(folder.path(), &mut random);
        let (expected, before) = (bytes_of(&paths), digests(&paths));
        for layers in 2..=depth {
            let to = folder.path().join("merged.vhdx");
            let block_size = random.one_in(2).then(|| 1 << (20 + random.below(6)));
            let options = MergeOptions { block_size, ..Default::default() };
            merge::into_new(&paths, layers, &to, &options, &()).unwrap();
            let new = merged(&paths, layers, to.clone());
            let context = format!("seed {seed}, {layers} layers of {depth}");
            assert_same(&bytes_of(&new), &expected, &context);
            assert_eq!(ireko_disk::find_chain(&to, &[]).unwrap(), new, "{context}");
            fs::remove_file(&to).unwrap();
        }
        assert!(digests(&paths) == before, "seed {seed}: a source changed");
    }
}

#[test]
fn a_file_that_takes_the_leafs_identity_takes_its_children_too() {
    for (seed, layers) in [(1, 2), (2, 3)] {
        let mut random = Random::new(seed);
        let folder = folder();
        let shape = Shape::random(&mut random, Format::Vhdx, 4);
        let whole = shape.make(folder.path(), &mut random);
        let (expected, leaf) = (bytes_of(&whole), vhdx::info(&whole[1]).unwrap());
        for keep_identity in [false, true] {
            let to = folder.path().join(format!("merged{keep_identity}.vhdx"));
            let options = MergeOptions { keep_identity, ..Default::default() };
            // The leaf of this chain is a parent itself.
            merge::into_new(&whole[1..], layers, &to, &options, &()).unwrap();
            let mut paths = merged(&whole[1..], layers, to.clone());
            paths.insert(0, whole[0].clone());
            let info = vhdx::info(&to).unwrap();
            assert_eq!(info.data_write_guid == leaf.data_write_guid, keep_identity);
            assert_eq!(info.page83 == leaf.page83, keep_identity || layers < 3);
            match Chain::open(&paths, Access::ReadOnly) {
                Ok(_) => assert_same(&bytes_of(&paths), &expected, "the leaf's child"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::ParentMismatch),
            }
            assert_eq!(Chain::open(&paths, Access::ReadOnly).is_ok(), keep_identity);
        }
    }
}

#[test]
fn what_a_merged_layer_calls_zeros_hides_the_parents_bytes() {
    let folder = folder();
    let shape = Shape {
        format: Format::Vhdx,
        size: 8 * MIB,
        sector: 512,
        blocks: vec![1 << 20; 3],
        changes: 0,
    };
    let paths = shape.make_with(folder.path(), |layer, disk| match layer {
        0 => disk.write_at(0, &vec![7; 8 * MIB as usize]).unwrap(),
        1 => {
            disk.discard(MIB, MIB).unwrap();
            disk.write_zeroes(2 * MIB, 4096).unwrap();
            disk.write_at(3 * MIB, &vec![0; MIB as usize]).unwrap();
            disk.write_at(4 * MIB, &[1; 512]).unwrap();
        }
        _ => disk.write_zeroes(4 * MIB, MIB).unwrap(),
    });
    let expected = bytes_of(&paths);
    assert!(expected[MIB as usize..2 * MIB as usize].iter().all(|&byte| byte == 0));
    let to = paths[0].with_file_name("merged.vhdx");
    merge::into_new(&paths, 2, &to, &MergeOptions::default(), &()).unwrap();
    assert_same(&bytes_of(&merged(&paths, 2, to.clone())), &expected, "merged");
    let alone = Chain::open_top(&[to]).unwrap();
    let extents = alone.extents(0, 8 * MIB, 20).unwrap();
    let known: Vec<_> = extents.iter().filter(|e| e.kind != ExtentKind::Absent).collect();
    let zeros: u64 = known.iter().filter(|e| e.kind == ExtentKind::Zero).map(|e| e.length).sum();
    assert_eq!(zeros, 3 * MIB, "whole blocks of zeros take no space: {extents:?}");
    assert_eq!(known.iter().map(|e| e.length).sum::<u64>(), 3 * MIB + 4096);
}

#[test]
fn a_leaf_that_is_larger_than_its_parents_is_merged_whole() {
    let folder = folder();
    let mut random = Random::new(5);
    let shape = Shape {
        format: Format::Vhdx,
        size: 9 * MIB,
        sector: 512,
        blocks: vec![1 << 20; 2],
        changes: 8,
    };
    let mut paths = shape.make(folder.path(), &mut random);
    let leaf = folder.path().join("larger.vhdx");
    let identity = Chain::open(&paths, Access::ReadOnly).unwrap().identity().unwrap();
    let geometry = Geometry { virtual_size: 13 * MIB, ..identity.geometry };
    let identity = ParentIdentity { geometry, ..identity };
    let file = FileStorage::create(&leaf).unwrap();
    vhdx::format_child(&file, &identity, r".\layer1.vhdx", &Default::default()).unwrap();
    drop(file);
    paths.insert(0, leaf);
    let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
    disk.write_at(12 * MIB, &[9; 1000]).unwrap();
    disk.close().unwrap();
    let expected = bytes_of(&paths);
    for layers in 2..=3 {
        let to = folder.path().join(format!("merged{layers}.vhdx"));
        merge::into_new(&paths, layers, &to, &MergeOptions::default(), &()).unwrap();
        assert_same(&bytes_of(&merged(&paths, layers, to)), &expected, "merged");
    }
}

#[test]
fn the_new_file_says_where_its_parent_is() {
    let folder = folder();
    let paths = Shape::random(&mut Random::new(3), Format::Vhdx, 3)
        .make(folder.path(), &mut Random::new(3));
    fs::create_dir(folder.path().join("merged")).unwrap();
    let to = folder.path().join("merged/leaf.vhdx");
    merge::into_new(&paths, 2, &to, &MergeOptions::default(), &()).unwrap();
    let link = vhdx::info(&to).unwrap().parent.unwrap();
    assert_eq!(link.relative_path.as_deref(), Some(r"..\layer0.vhdx"));
    assert_eq!(link.absolute_path, None);
    fs::remove_file(&to).unwrap();
    let options = MergeOptions {
        relative_path: Some(r".\base.vhdx".into()),
        absolute_path: Some(r"C:\base.vhdx".into()),
        ..Default::default()
    };
    merge::into_new(&paths, 2, &to, &options, &()).unwrap();
    let link = vhdx::info(&to).unwrap().parent.unwrap();
    assert_eq!(link.relative_path.as_deref(), Some(r".\base.vhdx"));
    assert_eq!(link.absolute_path.as_deref(), Some(r"C:\base.vhdx"));
}

#[test]
fn others_read_merged_and_flattened_disks() {
    let folder = folder();
    let mut random = Random::new(11);
    let shape = Shape {
        format: Format::Vhdx,
        size: 37 * MIB,
        sector: 512,
        blocks: vec![2 << 20; 4],
        changes: 20,
    };
    let paths = shape.make(folder.path(), &mut random);
    let expected = hash_of_disk(&Chain::open(&paths, Access::ReadOnly).unwrap());
    for layers in 2..=4 {
        let to = folder.path().join(format!("merged{layers}.vhdx"));
        let options = MergeOptions { block_size: Some(1 << 20), ..Default::default() };
        merge::into_new(&paths, layers, &to, &options, &()).unwrap();
        if has("7zz") {
            let mut reader = Command::new("7zz")
                .args(["e", "-tvhdx", "-so", text(&to)])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            assert_eq!(hash_of_reader(reader.stdout.take().unwrap()), expected, "{layers}");
            assert!(reader.wait().unwrap().success());
        }
    }
    if has("qemu-img") {
        let flat = folder.path().join("merged4.vhdx");
        assert_eq!(hash_by_qemu(&flat, "vhdx"), expected);
        let disk = Chain::open(&paths, Access::ReadOnly).unwrap();
        let converted = folder.path().join("converted.vhd");
        convert(&disk, &converted, &NewDisk::like(Format::Vhd, disk.geometry()), &()).unwrap();
        assert_eq!(hash_by_qemu(&converted, "vpc"), expected);
    }
}

fn hash_by_qemu(path: &Path, format: &str) -> String {
    let raw = path.with_extension("raw");
    run("qemu-img", &["convert", "-f", format, "-O", "raw", text(path), text(&raw)]);
    hash_of_reader(fs::File::open(raw).unwrap())
}

#[test]
fn refusals_and_cancellation_leave_nothing() {
    let folder = folder();
    let paths = Shape::random(&mut Random::new(4), Format::Vhdx, 3)
        .make(folder.path(), &mut Random::new(4));
    let before = names(folder.path());
    let to = folder.path().join("merged.vhdx");
    let options = MergeOptions::default();
    for layers in [0, 1, 4] {
        let refused = merge::into_new(&paths, layers, &to, &options, &()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::OutOfRange);
    }
    // The base is missing.
    assert!(merge::into_new(&paths[..2], 2, &to, &options, &()).is_err());
    let watch = Impatient::after(MIB);
    let error = merge::into_new(&paths, 3, &to, &options, &watch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let bad = MergeOptions { block_size: Some(12345), ..Default::default() };
    let refused = merge::into_new(&paths, 2, &to, &bad, &()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OutOfRange);
    assert_eq!(names(folder.path()), before);

    fs::write(&to, "mine").unwrap();
    assert!(merge::into_new(&paths, 2, &to, &options, &()).is_err());
    assert_eq!(fs::read(&to).unwrap(), b"mine");

    let other = folder.path().join("other.vhdx");
    let writer = FileStorage::open(&paths[1], Lock::Write).unwrap();
    let refused = merge::into_new(&paths, 2, &other, &options, &()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InUse);
    assert!(writer.len().is_ok());
}
