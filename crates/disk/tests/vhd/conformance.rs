//! Every shape of VHD chain behaves as a disk must.

use std::path::PathBuf;

use ireko_disk::vhd;
use ireko_disk::{Access, Chain, Disk, ExtentKind};

use crate::support::{MIB, blocks_of, dynamic, fixed, folder, open};

const SIZE: u64 = 20 * MIB + 512;

/// Makes a chain of so many layers, leaf first, each with something written to it.
fn chain(folder: &std::path::Path, base: &vhd::CreateOptions, depth: usize) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for layer in 0..depth {
        let path = folder.join(format!("{layer}.vhd"));
        match paths.first() {
            None => vhd::create(&path, base).unwrap(),
            Some(parent) => {
                let options = blocks_of(base.block_size);
                vhd::create_child(&path, parent, r".\parent.vhd", &options).unwrap();
            }
        }
        paths.insert(0, path);
        if layer + 1 < depth {
            let disk = open(&paths, Access::ReadWrite);
            disk.write_at(layer as u64 * 100_000, &vec![layer as u8 + 1; 3_000_000]).unwrap();
            disk.close().unwrap();
        }
    }
    paths
}

#[track_caller]
fn check(base: &vhd::CreateOptions, depth: usize) {
    let folder = folder();
    let paths = chain(folder.path(), base, depth);
    let disk = open(&paths, Access::ReadWrite);
    ireko_testkit::conformance::check(&disk);

    // What it holds at the end is what it holds when opened again.
    let mut before = vec![0; SIZE as usize];
    disk.read_at(0, &mut before).unwrap();
    disk.close().unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let disk = open(&paths, access);
        let mut after = vec![0; before.len()];
        disk.read_at(0, &mut after).unwrap();
        assert!(before == after);
    }
}

#[test]
fn a_fixed_disk_is_a_disk() {
    check(&fixed(SIZE), 1);
}

#[test]
fn a_dynamic_disk_is_a_disk() {
    check(&dynamic(SIZE, 2 << 20), 1);
    check(&dynamic(SIZE, 512 << 10), 1);
    check(&dynamic(SIZE, 32 << 20), 1);
}

#[test]
fn a_child_is_a_disk() {
    check(&dynamic(SIZE, 2 << 20), 2);
    check(&dynamic(SIZE, 8 << 20), 2);
    check(&fixed(SIZE), 2);
}

#[test]
fn a_deep_chain_is_a_disk() {
    check(&dynamic(SIZE, 512 << 10), 6);
}

#[test]
fn a_discarded_child_hides_its_parent_s_data_and_holds_nothing_else() {
    let folder = folder();
    let paths = chain(folder.path(), &dynamic(SIZE, 2 << 20), 2);
    let disk = open(&paths, Access::ReadWrite);
    disk.write_at(7 * MIB, &[1; 512]).unwrap();
    disk.discard(0, SIZE).unwrap();
    disk.flush().unwrap();
    let kinds = |disk: &Chain| {
        let extents = disk.extents(0, SIZE, 10).unwrap();
        extents.iter().map(|extent| (extent.offset, extent.kind)).collect::<Vec<_>>()
    };
    // The parent has data in its first two blocks, and there is no state for zeros.
    assert_eq!(kinds(&disk), [(0, ExtentKind::Data), (4 * MIB, ExtentKind::Absent)]);
    disk.close().unwrap();
    assert!(vhd::info(&paths[0]).unwrap().allocated < 256 << 10);
}

#[test]
fn what_a_dynamic_disk_gives_up_is_used_again() {
    let folder = folder();
    let path = folder.path().join("base.vhd");
    vhd::create(&path, &dynamic(64 * MIB, 2 << 20)).unwrap();
    let paths = [path.clone()];
    let length = |path| std::fs::metadata(path).unwrap().len();
    let disk = open(&paths, Access::ReadWrite);
    disk.write_at(0, &vec![1; 8 << 20]).unwrap();
    disk.close().unwrap();
    let full = length(&path);
    for round in 0..6 {
        let disk = open(&paths, Access::ReadWrite);
        disk.discard(0, 64 * MIB).unwrap();
        disk.flush().unwrap();
        disk.write_at(round * 8 * MIB, &vec![2; 8 << 20]).unwrap();
        disk.close().unwrap();
        assert_eq!(length(&path), full);
    }
    let disk = open(&paths, Access::ReadWrite);
    disk.discard(0, 64 * MIB).unwrap();
    disk.close().unwrap();
    assert_eq!(length(&path), 2560, "footer, header, table, footer");
}
