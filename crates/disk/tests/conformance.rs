//! Every shape of chain behaves as a disk must.

use std::path::PathBuf;

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk, ExtentKind, Format};

/// Makes a chain of so many layers, leaf first, each with something written to it.
fn chain(folder: &std::path::Path, depth: usize, block: u32, sector: u32) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for layer in 0..depth {
        let path = folder.join(format!("{layer}.vhdx"));
        match paths.first() {
            None => {
                let size = (20 << 20) + u64::from(sector);
                let options = CreateOptions {
                    block_size: block,
                    logical_sector: sector,
                    ..CreateOptions::new(size)
                };
                vhdx::create(&path, &options).unwrap();
            }
            Some(parent) => {
                let options = ChildOptions { block_size: block, ..Default::default() };
                vhdx::create_child(&path, parent, ".\\parent.vhdx", &options).unwrap();
            }
        }
        paths.insert(0, path);
        if layer + 1 < depth {
            let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
            disk.write_at(layer as u64 * 100_000, &vec![layer as u8 + 1; 3_000_000]).unwrap();
            disk.close().unwrap();
        }
    }
    paths
}

#[track_caller]
fn check(depth: usize, block_mib: u32, sector: u32) {
    let folder = tempfile::tempdir().unwrap();
    let paths = chain(folder.path(), depth, block_mib << 20, sector);
    let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
    ireko_testkit::conformance::check(&disk);

    // What it holds at the end is what it holds when opened again.
    let mut before = vec![0; 20 << 20];
    disk.read_at(0, &mut before).unwrap();
    disk.close().unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let disk = Chain::open(&paths, access).unwrap();
        let mut after = vec![0; before.len()];
        disk.read_at(0, &mut after).unwrap();
        assert!(before == after);
    }
}

#[test]
fn a_base_is_a_disk() {
    check(1, 1, 512);
    check(1, 32, 4096);
}

#[test]
fn a_child_is_a_disk() {
    check(2, 2, 512);
    check(2, 1, 4096);
    check(2, 32, 512);
}

#[test]
fn a_discarded_disk_is_known_to_be_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let paths = chain(folder.path(), 3, 2 << 20, 512);
    let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
    let size = disk.geometry().virtual_size;
    disk.discard(0, size).unwrap();
    disk.write_at(7 << 20, &[1; 512]).unwrap();
    let extents = disk.extents(0, size, 10).unwrap();
    let kinds: Vec<_> = extents.iter().map(|extent| extent.kind).collect();
    assert!(!kinds[0].eq(&ExtentKind::Data) && kinds.contains(&ExtentKind::Data), "{kinds:?}");
    let data: u64 = extents.iter().filter(|e| e.kind == ExtentKind::Data).map(|e| e.length).sum();
    assert_eq!(data, 512, "parents hold nothing there, so one sector is enough");
}

#[test]
fn a_deep_chain_is_a_disk() {
    check(6, 2, 512);
}

#[test]
fn a_raw_file_behaves_as_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    ireko_disk::raw::create(&path, 20 << 20).unwrap();
    let disk = Chain::open_as(&path, Format::Raw, Access::ReadWrite).unwrap();
    ireko_testkit::conformance::check(&disk);
}
