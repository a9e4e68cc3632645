//! Fixed disks: every block has its place in the file from the first day, and keeps it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ireko_disk::Disk;
use ireko_disk::vhdx::{self, ChildOptions, CreateOptions, Kind, Provision};
use ireko_testkit::random::Random;

use crate::anatomy::Anatomy;
use crate::support::{MIB, bytes, bytes_of, folder, open, qemu_reads, scribble, seven_zip_reads};

const SPARSE: Provision = Provision::Fixed { preallocate: false };
/// Where our files have their BAT, and behind it the blocks of a small disk.
const BAT: u64 = 6 * MIB;
const DATA: u64 = 7 * MIB;

fn create(path: &Path, size: u64, block_mib: u32, provision: Provision) {
    let options =
        CreateOptions { block_size: block_mib << 20, provision, ..CreateOptions::new(size) };
    vhdx::create(path, &options).unwrap();
}

/// The BAT's first entries.
fn entries(path: &Path, count: usize) -> Vec<u64> {
    let file = std::fs::read(path).unwrap();
    let bat = &file[BAT as usize..][..count * 8];
    bat.chunks(8).map(|entry| u64::from_le_bytes(entry.try_into().unwrap())).collect()
}

#[test]
fn every_block_of_a_new_disk_lies_in_the_file_in_order() {
    let folder = folder();
    let path = folder.path().join("fixed.vhdx");
    create(&path, 7 * MIB + 512, 2, SPARSE);
    let file = path.metadata().unwrap();
    assert_eq!(file.len(), DATA + 4 * 2 * MIB);
    assert!(file.blocks() * 512 < MIB, "{} blocks taken", file.blocks());
    assert_eq!(
        entries(&path, 5),
        [0, 2, 4, 6].map(|mib| (DATA + mib * MIB) | 6).into_iter().chain([0]).collect::<Vec<_>>()
    );
    assert_eq!(vhdx::info(&path).unwrap().kind, Kind::Fixed);
    qemu_reads(&path, &vec![0; 7 * MIB as usize + 512]);
}

#[test]
fn a_fixed_disk_behaves_as_a_disk() {
    let folder = folder();
    let path = folder.path().join("fixed.vhdx");
    create(&path, 20 * MIB + 512, 1, SPARSE);
    let disk = open(std::slice::from_ref(&path));
    ireko_testkit::conformance::check(&disk);
    let expected = bytes(&disk);
    disk.close().unwrap();
    assert!(bytes_of(std::slice::from_ref(&path)) == expected);
    assert_eq!(Anatomy::of_file(&path).states, [6; 21]);
}

#[test]
fn whatever_is_discarded_or_zeroed_blocks_keep_their_place() {
    let folder = folder();
    let path = folder.path().join("fixed.vhdx");
    create(&path, 8 * MIB, 1, SPARSE);
    let (length, before) = (path.metadata().unwrap().len(), entries(&path, 8));
    let disk = open(std::slice::from_ref(&path));
    disk.write_at(0, &vec![7; 8 * MIB as usize]).unwrap();
    disk.discard(MIB, 2 * MIB).unwrap();
    disk.write_zeroes(5 * MIB - 100, 3 * MIB + 100).unwrap();
    let mut expected = vec![7; 8 * MIB as usize];
    expected[MIB as usize..3 * MIB as usize].fill(0);
    expected[5 * MIB as usize - 100..].fill(0);
    assert!(bytes(&disk) == expected);
    disk.close().unwrap();
    assert_eq!((path.metadata().unwrap().len(), entries(&path, 8)), (length, before));
    assert!(bytes_of(std::slice::from_ref(&path)) == expected);
    assert!(path.metadata().unwrap().blocks() * 512 < 5 * MIB, "the host gets the space back");
    qemu_reads(&path, &expected);
}

#[test]
fn others_read_what_is_written_to_a_fixed_disk_and_to_its_child() {
    for (block_mib, seed) in [(1, 1), (2, 2), (32, 3)] {
        let (folder, mut random) = (folder(), Random::new(seed));
        let [base, child]: [PathBuf; 2] =
            ["fixed.vhdx", "child.vhdx"].map(|name| folder.path().join(name));
        // 7-Zip opens disks of whole groups of eight sectors only.
        create(&base, 37 * MIB + 4096, block_mib, SPARSE);
        let disk = open(std::slice::from_ref(&base));
        scribble(&disk, u64::from(block_mib) * MIB, &mut random);
        let expected = bytes(&disk);
        disk.close().unwrap();
        qemu_reads(&base, &expected);
        seven_zip_reads(&base, &expected);

        vhdx::create_child(&child, &base, r".\fixed.vhdx", &ChildOptions::default()).unwrap();
        assert_eq!(vhdx::info(&child).unwrap().kind, Kind::Differencing);
        let disk = open(&[child.clone(), base]);
        scribble(&disk, 2 * MIB, &mut random);
        let expected = bytes(&disk);
        disk.close().unwrap();
        seven_zip_reads(&child, &expected);
    }
}

#[test]
fn a_preallocated_disk_has_the_host_s_space() {
    let folder = folder();
    let path = folder.path().join("fixed.vhdx");
    create(&path, 64 * MIB, 32, Provision::Fixed { preallocate: true });
    assert!(vhdx::info(&path).unwrap().allocated >= 64 * MIB);
}

#[test]
fn a_large_disk_is_made_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fixed.vhdx");
    let begin = Instant::now();
    // A million blocks.
    create(&path, 1 << 40, 1, SPARSE);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let info = vhdx::info(&path).unwrap();
    assert!(info.allocated < 10 * MIB, "{} bytes allocated", info.allocated);
    let disk = open(std::slice::from_ref(&path));
    disk.write_at((1 << 40) - 512, &[7; 512]).unwrap();
    let mut sector = [0; 512];
    disk.read_at((1 << 40) - 512, &mut sector).unwrap();
    assert_eq!(sector, [7; 512]);
    disk.close().unwrap();
}
