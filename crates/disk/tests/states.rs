//! Block states that other writers leave, edited into our files by hand.

use std::sync::Arc;

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk, ErrorKind, Extent, ExtentKind, Storage};
use ireko_testkit::{CrashStorage, Image};

const MIB: u64 = 1 << 20;
/// Where our files have their BAT.
const BAT: u64 = 6 * MIB;

fn format_base(size: u64) -> CrashStorage {
    let base = CrashStorage::default();
    let options = CreateOptions { block_size: 1 << 20, ..CreateOptions::new(size) };
    vhdx::format(&base, &options).unwrap();
    base
}

fn open(images: &[Image]) -> Chain {
    let storages = images.iter().map(|image| Arc::new(CrashStorage::new(image.clone())) as _);
    Chain::over(storages.collect(), Access::ReadWrite).unwrap()
}

/// A base full of `B`, and a child with one sector of `C` in block 0.
fn base_and_child() -> [Image; 2] {
    let base = Arc::new(format_base(4 * MIB));
    let disk = Chain::over(vec![base.clone()], Access::ReadWrite).unwrap();
    disk.write_at(0, &vec![b'B'; 4 * MIB as usize]).unwrap();
    let identity = disk.identity().unwrap();
    disk.close().unwrap();
    let leaf = Arc::new(CrashStorage::default());
    let options = ChildOptions { block_size: 1 << 20, ..Default::default() };
    vhdx::format_child(&*leaf, &identity, r".\base.vhdx", &options).unwrap();
    let layers: Vec<Arc<dyn Storage>> = vec![leaf.clone(), base.clone()];
    let disk = Chain::over(layers, Access::ReadWrite).unwrap();
    disk.write_at(4096, &[b'C'; 512]).unwrap();
    disk.close().unwrap();
    [leaf.image(), base.image()]
}

fn entry(image: &Image, slot: u64) -> u64 {
    let mut bytes = [0; 8];
    image.read(BAT + slot * 8, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

fn set_entry(image: &mut Image, slot: u64, entry: u64) {
    image.write(BAT + slot * 8, &entry.to_le_bytes());
}

fn byte(disk: &Chain, at: u64) -> u8 {
    let mut byte = [0];
    disk.read_at(at, &mut byte).unwrap();
    byte[0]
}

#[test]
fn a_block_that_is_zero_unmapped_or_undefined_hides_the_parent() {
    let [leaf, base] = base_and_child();
    // 5 is what drafts of the format called unmapped; an offset may be left from earlier.
    for state in [1, 2, 3, 5] {
        for anchor in [0, entry(&leaf, 0) & !7] {
            let mut leaf = leaf.clone();
            set_entry(&mut leaf, 0, anchor | state);
            let disk = open(&[leaf, base.clone()]);
            assert_eq!((byte(&disk, 0), byte(&disk, 4096), byte(&disk, MIB)), (0, 0, b'B'));
            // A part written later must not let the parent show through the rest.
            disk.write_at(8192, &[b'N'; 100]).unwrap();
            assert_eq!((byte(&disk, 0), byte(&disk, 8192), byte(&disk, 8292)), (0, b'N', 0));
        }
    }
}

#[test]
fn bits_left_from_an_earlier_life_of_a_block_do_not_count() {
    let [mut leaf, base] = base_and_child();
    set_entry(&mut leaf, 0, 0);
    let disk = open(&[leaf, base]);
    assert_eq!(byte(&disk, 4096), b'B');
    disk.write_at(0, &[b'N'; 512]).unwrap();
    assert_eq!((byte(&disk, 0), byte(&disk, 512), byte(&disk, 4096)), (b'N', b'B', b'B'));
}

#[test]
fn a_partial_block_without_bitmap_is_corrupt() {
    let [mut leaf, base] = base_and_child();
    let slot = 4096;
    assert_eq!(entry(&leaf, slot) & 7, 6, "the chunk's bitmap entry");
    set_entry(&mut leaf, slot, 0);
    let disk = open(&[leaf, base]);
    assert_eq!(disk.read_at(0, &mut [0]).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(byte(&disk, MIB), b'B');
}

#[test]
fn a_partial_block_in_a_base_is_taken_for_full() {
    let [_, mut base] = base_and_child();
    let full = entry(&base, 0);
    set_entry(&mut base, 0, full | 7);
    assert_eq!(byte(&open(&[base]), 0), b'B');
}

#[test]
fn two_blocks_in_one_place_can_be_read_but_nothing_is_allocated_beside_them() {
    let [_, mut base] = base_and_child();
    let first = entry(&base, 0);
    set_entry(&mut base, 1, first);
    set_entry(&mut base, 2, 0);
    let disk = open(&[base]);
    assert_eq!(byte(&disk, MIB), b'B');
    assert_eq!(disk.write_at(2 * MIB, &[1]).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn entries_behind_the_disk_s_end_are_no_blocks() {
    let [mut leaf, base] = base_and_child();
    // Of a chunk that the disk ends within: a place that is in use, one that is nowhere, a state nobody knows.
    let taken = entry(&leaf, 0);
    set_entry(&mut leaf, 4, taken);
    set_entry(&mut leaf, 5, (1 << 40) | 6);
    set_entry(&mut leaf, 6, 4);
    let disk = open(&[leaf, base]);
    disk.write_at(2 * MIB, &[b'N'; 4096]).unwrap();
    disk.flush().unwrap();
    assert_eq!((byte(&disk, 2 * MIB), byte(&disk, 4096)), (b'N', b'C'));
}

#[test]
fn a_log_behind_the_file_s_end_can_be_read_past_and_not_written() {
    let [_, mut base] = base_and_child();
    // The current header; its log is empty.
    let sequence = |at: u64| {
        let mut bytes = [0; 8];
        base.read(at + 8, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    let at = [64 << 10, 128 << 10].into_iter().max_by_key(|at| sequence(*at)).unwrap();
    let mut header = vec![0; 4096];
    base.read(at, &mut header).unwrap();
    header[72..80].copy_from_slice(&(100 * MIB).to_le_bytes());
    header[4..8].fill(0);
    let crc = crc32c::crc32c(&header);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    base.write(at, &header);
    let storages = || vec![Arc::new(CrashStorage::new(base.clone())) as Arc<dyn Storage>];
    assert_eq!(byte(&Chain::over(storages(), Access::ReadOnly).unwrap(), 0), b'B');
    let refused = Chain::over(storages(), Access::ReadWrite).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
}

#[test]
fn extents_tell_data_zeros_and_what_nobody_knows() {
    let base = Arc::new(format_base(8 * MIB));
    let disk = Chain::over(vec![base.clone()], Access::ReadWrite).unwrap();
    disk.write_at(0, &vec![1; 2 * MIB as usize]).unwrap();
    let identity = disk.identity().unwrap();
    disk.close().unwrap();
    let leaf = CrashStorage::default();
    let options = ChildOptions { block_size: 2 << 20, ..Default::default() };
    vhdx::format_child(&leaf, &identity, r".\base.vhdx", &options).unwrap();
    let disk = open(&[leaf.image(), base.image()]);
    disk.write_at(4 * MIB, &[2; 4096]).unwrap();
    disk.discard(0, 2 * MIB).unwrap();
    let extents = disk.extents(0, 8 * MIB, 10).unwrap();
    let expected = [
        (0, 2 * MIB, ExtentKind::Zero),
        (2 * MIB, 2 * MIB, ExtentKind::Absent),
        (4 * MIB, 4096, ExtentKind::Data),
        (4 * MIB + 4096, 4 * MIB - 4096, ExtentKind::Absent),
    ];
    assert_eq!(extents, expected.map(|(offset, length, kind)| Extent { offset, length, kind }));
    assert_eq!(disk.extents(0, 8 * MIB, 2).unwrap(), extents[..2]);
    assert_eq!(disk.extents(0, 8 * MIB, 0).unwrap(), []);
}
