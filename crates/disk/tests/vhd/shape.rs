//! Compacting and resizing: the file changes its shape, the disk stays what it is, whatever happens on the way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ireko_disk::vhd::{self, CreateOptions};
use ireko_disk::{
    Access, Chain, CompactOptions, Disk, ErrorKind, ResizeOptions, Storage, Watch, compact,
    compact_storage, resize, resize_storage,
};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Damage, Image};

use crate::support::{
    MIB, blocks_of, changed, child_of, dynamic, fixed, folder, formatted, is_readable, over,
};

const BLOCK: u32 = 512 << 10;

fn bytes(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.geometry().virtual_size as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

fn bytes_of(paths: &[PathBuf]) -> Vec<u8> {
    bytes(&Chain::open(paths, Access::ReadOnly).unwrap())
}

/// Writes, zeroes and discards here and there; some whole blocks, some with zeros.
fn scribble(disk: &dyn Disk, random: &mut Random) {
    let (size, block) = (disk.geometry().virtual_size, u64::from(BLOCK));
    for _ in 0..24 {
        let whole = random.one_in(3);
        let at = match whole {
            true => random.below(size.div_ceil(block)) * block,
            false => random.below(size),
        };
        let longest = if whole { block } else { random.below(block / 2) + 1 };
        let length = longest.min(size - at);
        match random.below(8) {
            0 => disk.write_zeroes(at, length).unwrap(),
            1 => disk.discard(at, length).unwrap(),
            2 => disk.write_at(at, &vec![0; length as usize]).unwrap(),
            _ => {
                let mut data = vec![0; length as usize];
                random.fill(&mut data);
                disk.write_at(at, &data).unwrap();
            }
        }
    }
}

/// Leaf first: a disk of the kind, scribbled on, under so many children.
fn any_chain(base: &CreateOptions, children: usize, random: &mut Random) -> Vec<Image> {
    let mut images = vec![formatted(base)];
    changed(&mut images, |disk| scribble(disk, random));
    for _ in 0..children {
        let child = child_of(&images[0], BLOCK);
        images.insert(0, child);
        changed(&mut images, |disk| scribble(disk, random));
    }
    images
}

fn storages(images: &[Image]) -> Vec<Arc<dyn Storage>> {
    images.iter().map(|image| Arc::new(CrashStorage::new(image.clone())) as _).collect()
}

#[track_caller]
fn reads(images: &[Image], expected: &[u8]) {
    is_readable(&images[0]);
    for access in [Access::ReadOnly, Access::ReadWrite] {
        assert!(bytes(&over(images, access)) == expected, "{access:?}");
    }
}

#[test]
fn compacting_leaves_no_room_for_a_block_and_every_byte() {
    for seed in 0..10 {
        let mut random = Random::new(seed);
        let size = 8 * MIB + random.below(4096) * 512;
        let images = any_chain(&dynamic(size, BLOCK), 2, &mut random);
        for layer in 0..3 {
            let mut images = images.clone();
            let expected = bytes(&over(&images, Access::ReadOnly));
            let storage = Arc::new(CrashStorage::new(images[layer].clone()));
            compact_storage(storage.clone(), &CompactOptions::default(), &()).unwrap();
            images[layer] = storage.image();
            reads(&images, &expected);
            assert!(is_tight(&images[layer]), "seed {seed}, layer {layer}");
        }
    }
}

/// Whether the blocks take all of the file but its metadata and the gaps that align them.
fn is_tight(image: &Image) -> bool {
    let get = |at: u64, length: usize| {
        let mut bytes = vec![0; length];
        image.read(at, &mut bytes).unwrap();
        bytes
    };
    let number = |at: u64| u32::from_be_bytes(get(at, 4).try_into().unwrap());
    let (table, entries) = (u64::from(number(512 + 20)), number(512 + 28));
    let present = (0..entries).filter(|n| number(table + u64::from(*n) * 4) != u32::MAX);
    let blocks = present.count() as u64 * (u64::from(BLOCK) + 4096);
    image.length() <= (table + u64::from(entries) * 4).next_multiple_of(4096) + blocks + 512
}

#[test]
fn compacting_frees_what_is_zero_or_not_here_and_is_told_not_to() {
    let folder = folder();
    let path = folder.path().join("base.vhd");
    vhd::create(&path, &dynamic(8 * MIB, BLOCK)).unwrap();
    let disk = Chain::open(std::slice::from_ref(&path), Access::ReadWrite).unwrap();
    disk.write_at(0, &vec![0; 8 << 20]).unwrap();
    disk.write_at(7 * MIB, &[1]).unwrap();
    disk.close().unwrap();
    let keep = CompactOptions { free_zeros: false };
    let kept = compact(&path, &keep, &()).unwrap();
    assert_eq!(kept.before.length, kept.after.length);
    let compacted = compact(&path, &CompactOptions::default(), &()).unwrap();
    assert!(compacted.after.length < 600 << 10, "{compacted:?}");
    let mut expected = vec![0; 8 << 20];
    expected[7 << 20] = 1;
    assert!(bytes_of(&[path]) == expected);
}

#[test]
fn compacting_survives_power_cuts() {
    let mut states = 0;
    for seed in 0..8 {
        let mut random = Random::new(seed);
        let images =
            any_chain(&dynamic(6 * MIB + 512, BLOCK), usize::from(seed % 2 == 1), &mut random);
        let expected = bytes(&over(&images, Access::ReadOnly));
        let storage = Arc::new(CrashStorage::new(images[0].clone()));
        compact_storage(storage.clone(), &CompactOptions::default(), &()).unwrap();
        let trace = storage.trace();
        for cut in 0..=trace.positions() {
            for damage in Damage::ALL {
                let mut images = images.clone();
                images[0] = trace.cut(cut, damage, &mut random);
                reads(&images, &expected);
                states += 1;
                if random.one_in(8) {
                    let again = Arc::new(CrashStorage::new(images[0].clone()));
                    compact_storage(again.clone(), &CompactOptions::default(), &()).unwrap();
                    images[0] = again.image();
                    assert!(is_tight(&images[0]));
                    reads(&images, &expected);
                }
            }
        }
    }
    println!("{states} states");
    assert!(states > 300, "only {states} states");
}

/// Stops after so many looks.
struct Impatient(AtomicU64);

impl Watch for Impatient {
    fn advanced(&self, done: u64, total: u64) {
        assert!(done <= total);
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

#[test]
fn a_cancelled_compaction_leaves_a_sound_disk() {
    let mut random = Random::new(3);
    let images = any_chain(&dynamic(8 * MIB, BLOCK), 0, &mut random);
    let expected = bytes(&over(&images, Access::ReadOnly));
    let mut cancelled = 0;
    for patience in 1..40 {
        let storage = Arc::new(CrashStorage::new(images[0].clone()));
        let watch = Impatient(AtomicU64::new(patience));
        let outcome = compact_storage(storage.clone(), &CompactOptions::default(), &watch);
        if let Err(error) = outcome {
            assert_eq!(error.kind(), ErrorKind::Cancelled);
            cancelled += 1;
        }
        reads(&[storage.image()], &expected);
    }
    assert!(cancelled > 10);
}

/// A size that is often near a border, or far away.
fn any_size(random: &mut Random) -> u64 {
    let size = match random.below(4) {
        0 => (random.below(20) + 1) * u64::from(BLOCK),
        1 => (random.below(20) + 1) * u64::from(BLOCK) + 512,
        2 => random.below(10 * MIB),
        _ => 40 * MIB + random.below(60 * MIB),
    };
    (size / 512).max(1) * 512
}

#[test]
fn a_resized_disk_keeps_its_bytes_and_has_zeros_behind_them() {
    let loss = ResizeOptions { allow_loss: true };
    for seed in 0..15 {
        let mut random = Random::new(seed);
        let base = if seed % 3 == 0 { fixed(3 * MIB) } else { dynamic(3 * MIB, BLOCK) };
        let children = usize::from(seed % 3 == 2);
        let mut images = any_chain(&base, children, &mut random);
        let mut expected = bytes(&over(&images, Access::ReadOnly));
        for _ in 0..12 {
            let mut size = any_size(&mut random);
            if children > 0 {
                size = size.max(3 * MIB);
            }
            let storage = Arc::new(CrashStorage::new(images[0].clone()));
            let mut chain = storages(&images);
            chain[0] = storage.clone();
            let lost = expected.get(size as usize..).unwrap_or_default();
            let outcome = resize_storage(&chain, size, &ResizeOptions::default(), &());
            // A child cannot tell its parent's zeros from its own.
            if lost.iter().any(|&byte| byte != 0) {
                assert_eq!(outcome.unwrap_err().kind(), ErrorKind::DataLoss);
                resize_storage(&chain, size, &loss, &()).unwrap();
            } else {
                outcome.unwrap();
            }
            expected.resize(size as usize, 0);
            images[0] = storage.image();
            reads(&images, &expected);
            changed(&mut images, |disk| scribble(disk, &mut random));
            expected = bytes(&over(&images, Access::ReadOnly));
        }
    }
}

#[test]
fn a_resized_disk_is_known_by_another_id_and_its_children_fit_it_no_more() {
    let folder = folder();
    for base in [fixed(4 * MIB), dynamic(4 * MIB, BLOCK)] {
        let (parent, child) = (folder.path().join("base.vhd"), folder.path().join("child.vhd"));
        vhd::create(&parent, &base).unwrap();
        vhd::create_child(&child, &parent, r".\base.vhd", &blocks_of(BLOCK)).unwrap();
        let paths = [child.clone(), parent.clone()];
        let before = vhd::info(&parent).unwrap();
        resize(&paths[1..], 4 * MIB, &ResizeOptions::default(), &()).unwrap();
        assert_eq!(vhd::info(&parent).unwrap(), before, "the same size is no change");
        for (size, kind) in [
            (0, ErrorKind::OutOfRange),
            (1000, ErrorKind::OutOfRange),
            ((2040 << 30) + 512, ErrorKind::OutOfRange),
        ] {
            let refused = resize(&paths[1..], size, &ResizeOptions::default(), &()).unwrap_err();
            assert_eq!(refused.kind(), kind);
        }
        let refused = resize(&paths, 3 * MIB, &ResizeOptions::default(), &()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::OutOfRange, "smaller than its parent");
        resize(&paths, 5 * MIB, &ResizeOptions::default(), &()).unwrap();
        Chain::open(&paths, Access::ReadOnly).unwrap();
        resize(&paths[1..], 3 * MIB, &ResizeOptions::default(), &()).unwrap();
        let refused = Chain::open(&paths, Access::ReadOnly).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::ParentMismatch);
        std::fs::remove_file(&parent).unwrap();
        std::fs::remove_file(&child).unwrap();
    }
}

#[test]
fn what_others_left_behind_the_end_does_not_show_when_the_disk_grows() {
    let size = 5 * MIB + 512;
    let mut base = vec![formatted(&dynamic(size, BLOCK))];
    changed(&mut base, |disk| disk.write_at(size - 512, &[7; 512]).unwrap());
    let mut child = vec![child_of(&base[0], BLOCK), base[0].clone()];
    changed(&mut child, |disk| disk.write_at(size - 512, &[8; 512]).unwrap());
    for (mut images, value) in [(base, 7), (child, 8)] {
        // The only block is the file's last part, and its first sector the disk's last.
        let length = images[0].length();
        let data = length - 512 - u64::from(BLOCK);
        images[0].write(data + 512, &vec![0xEE; BLOCK as usize - 512]);
        // All its bits are set.
        images[0].write(data - 512, &[0xFF; 128]);
        let storage = Arc::new(CrashStorage::new(images[0].clone()));
        let mut chain = storages(&images);
        chain[0] = storage.clone();
        resize_storage(&chain, 8 * MIB, &ResizeOptions::default(), &()).unwrap();
        images[0] = storage.image();
        let mut expected = vec![0; 8 << 20];
        expected[size as usize - 512..size as usize].fill(value);
        reads(&images, &expected);
    }
}

/// Cuts a resize everywhere: the disk has one of two sizes, and the right bytes.
fn resize_cut_everywhere(images: &[Image], size: u64, random: &mut Random) -> usize {
    let before = bytes(&over(images, Access::ReadOnly));
    let mut after = before.clone();
    after.resize(size as usize, 0);
    let storage = Arc::new(CrashStorage::new(images[0].clone()));
    let mut chain = storages(images);
    chain[0] = storage.clone();
    resize_storage(&chain, size, &ResizeOptions { allow_loss: true }, &()).unwrap();
    let (trace, mut seen) = (storage.trace(), [0, 0]);
    for cut in 0..=trace.positions() {
        for damage in Damage::ALL.into_iter().cycle().take(if size < 16 * MIB { 18 } else { 6 }) {
            let mut images = images.to_vec();
            images[0] = trace.cut(cut, damage, random);
            let context = format!("{} to {size}, cut after {cut}, {damage:?}", before.len());
            let reader = over(&images, Access::ReadOnly);
            let is_new = reader.geometry().virtual_size == size;
            let expected = if is_new { &after } else { &before };
            assert!(bytes(&reader) == *expected, "{context}");
            let disk = over(&images, Access::ReadWrite);
            let same = random.one_in(3) || bytes(&disk) == *expected;
            assert!(same, "{context}");
            seen[usize::from(is_new)] += 1;
            if random.one_in(8) {
                // Whatever the crash left behind the end must not show when the disk grows over it.
                drop(disk);
                let larger = after.len().max(before.len()) as u64 + 3 * MIB;
                let storage = Arc::new(CrashStorage::new(images[0].clone()));
                let mut chain = storages(&images);
                chain[0] = storage.clone();
                resize_storage(&chain, larger, &ResizeOptions::default(), &()).unwrap();
                images[0] = storage.image();
                let mut grown = expected.clone();
                grown.resize(larger as usize, 0);
                reads(&images, &grown);
            }
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0);
    seen[0] + seen[1]
}

#[test]
fn resizing_survives_power_cuts() {
    let mut states = 0;
    for (seed, (base, children)) in
        [(fixed(3 * MIB), 0), (dynamic(3 * MIB + 512, BLOCK), 0), (dynamic(2 * MIB, BLOCK), 1)]
            .into_iter()
            .enumerate()
    {
        let mut random = Random::new(seed as u64);
        let mut images = any_chain(&base, children, &mut random);
        // The last needs a longer table, whose place blocks are in.
        for size in [7 * MIB + 1024, 5 * MIB + 512, 6 * MIB, 65 * MIB] {
            states += resize_cut_everywhere(&images, size, &mut random);
            let storage = Arc::new(CrashStorage::new(images[0].clone()));
            let mut chain = storages(&images);
            chain[0] = storage.clone();
            resize_storage(&chain, size, &ResizeOptions { allow_loss: true }, &()).unwrap();
            images[0] = storage.image();
            changed(&mut images, |disk| scribble(disk, &mut random));
        }
    }
    println!("{states} states");
    assert!(states > 1000, "only {states} states");
}

fn table_of(path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    u64::from_be_bytes(bytes[512 + 16..512 + 24].try_into().unwrap())
}

#[test]
fn a_table_grows_where_it_is_unless_names_are_behind_it() {
    let folder = folder();
    let (base, child) = (folder.path().join("base.vhd"), folder.path().join("child.vhd"));
    vhd::create(&base, &dynamic(4 * MIB, BLOCK)).unwrap();
    let disk = Chain::open(std::slice::from_ref(&base), Access::ReadWrite).unwrap();
    disk.write_at(0, &vec![7; 4 << 20]).unwrap();
    disk.close().unwrap();
    vhd::create_child(&child, &base, r".\base.vhd", &blocks_of(BLOCK)).unwrap();
    // As others do it: the names behind the table.
    let mut bytes = std::fs::read(&child).unwrap();
    let footer = bytes.split_off(bytes.len() - 512);
    let names = bytes.len() as u64;
    bytes.extend_from_within(1536..2048);
    bytes[512 + 576 + 16..512 + 576 + 24].copy_from_slice(&names.to_be_bytes());
    bytes[512 + 36..512 + 40].fill(0);
    let sum: u32 = bytes[512..1536].iter().map(|&byte| u32::from(byte)).sum();
    bytes[512 + 36..512 + 40].copy_from_slice(&(!sum).to_be_bytes());
    std::fs::write(&child, [bytes, footer].concat()).unwrap();
    let link = vhd::info(&child).unwrap().parent.unwrap();

    let paths = [child.clone(), base.clone()];
    let tables = [&child, &base].map(|path| table_of(path));
    let write = |value: u8| {
        let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
        disk.write_at(u64::from(value) * 1000, &[value; 3000]).unwrap();
        disk.close().unwrap();
        bytes_of(&paths)
    };
    let mut expected = write(1);
    for size in [300 * MIB, 301 * MIB] {
        resize(&paths, size, &ResizeOptions::default(), &()).unwrap();
        expected.resize(size as usize, 0);
        assert!(bytes_of(&paths) == expected);
        assert_ne!(table_of(&child), tables[0]);
        assert_eq!(vhd::info(&child).unwrap().parent.unwrap(), link);
        expected = write(2);
    }
    resize(&paths[1..], 300 * MIB, &ResizeOptions::default(), &()).unwrap();
    assert_eq!(table_of(&base), tables[1]);
    let mut base_bytes = vec![7; 4 << 20];
    base_bytes.resize(300 << 20, 0);
    assert!(bytes_of(&paths[1..]) == base_bytes);
}
