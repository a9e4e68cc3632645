//! Compacting: the file gets short, the disk stays what it is, whatever happens on the way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions, Kind, Provision};
use ireko_disk::{
    Access, Chain, CompactOptions, Disk, ErrorKind, FileStorage, Lock, Storage, Watch, compact,
    compact_storage,
};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Damage, Image};

use crate::anatomy::Anatomy;
use crate::disks::any_layers;
use crate::faults::Failing;
use crate::support::{
    MIB, bytes, bytes_of, folder, is_readable, open, over, qemu_reads, scribble, seven_zip_reads,
    soak,
};

fn create(path: &Path, size: u64, block_mib: u32, sector: u32) {
    let options = CreateOptions {
        block_size: block_mib << 20,
        logical_sector: sector,
        ..CreateOptions::new(size)
    };
    vhdx::create(path, &options).unwrap();
}

#[track_caller]
fn compact_file(path: &Path) -> Anatomy {
    let before = path.metadata().unwrap().len();
    let guid = vhdx::info(path).unwrap().data_write_guid;
    let compacted = compact(path, &CompactOptions::default(), &()).unwrap();
    let anatomy = Anatomy::of_file(path);
    assert_eq!((compacted.before.length, compacted.after.length), (before, anatomy.length));
    assert_eq!(compacted.after.allocated, vhdx::info(path).unwrap().allocated);
    assert_eq!(vhdx::info(path).unwrap().data_write_guid, guid, "children must stay linked");
    anatomy
}

/// What is left over is less than what it would be worth moving.
#[track_caller]
fn is_tight(anatomy: &Anatomy) {
    assert!(anatomy.waste() * 32 <= anatomy.used, "{} wasted: {anatomy:?}", anatomy.waste());
}

#[track_caller]
fn any_chain(block_mib: u32, child_mib: u32, sector: u32, size: u64) {
    let (folder, mut random) = (folder(), Random::new(u64::from(block_mib + sector)));
    let mut paths: Vec<PathBuf> = Vec::new();
    for depth in 0..3 {
        let path = folder.path().join(format!("{depth}.vhdx"));
        match paths.first() {
            None => create(&path, size, block_mib, sector),
            Some(parent) => {
                let link = format!(r".\{}.vhdx", depth - 1);
                let options = ChildOptions { block_size: child_mib << 20, ..Default::default() };
                vhdx::create_child(&path, parent, &link, &options).unwrap();
            }
        }
        paths.insert(0, path);
        let disk = open(&paths);
        let block = u64::from(if depth == 0 { block_mib } else { child_mib }) * MIB;
        scribble(&disk, block, &mut random);
        disk.close().unwrap();
    }
    let expected: Vec<_> = (0..3).map(|depth| bytes_of(&paths[depth..])).collect();
    for layer in [1, 0, 2] {
        is_tight(&compact_file(&paths[layer]));
        for (depth, expected) in expected.iter().enumerate() {
            assert!(bytes_of(&paths[depth..]) == *expected, "layer {layer} changed disk {depth}");
        }
    }
    if sector == 512 {
        // QEMU knows no other sectors.
        qemu_reads(&paths[2], &expected[2]);
    }
    seven_zip_reads(&paths[0], &expected[0]);
    // The chain can still be written to.
    let disk = open(&paths);
    scribble(&disk, MIB, &mut random);
    let expected = bytes(&disk);
    disk.close().unwrap();
    is_tight(&compact_file(&paths[0]));
    assert!(bytes_of(&paths) == expected);
}

#[test]
fn every_layer_of_a_chain_reads_the_same_and_is_short() {
    // 7-Zip opens disks of whole groups of eight sectors only.
    any_chain(1, 1, 512, 12 * MIB + 4096);
    any_chain(2, 2, 512, 31 * MIB);
    any_chain(4, 2, 4096, 24 * MIB + 8 * 4096);
    any_chain(1, 8, 4096, 40 * MIB);
    any_chain(32, 32, 512, 100 * MIB);
}

#[test]
fn zeros_and_holes_go_and_nothing_else_of_a_base() {
    let folder = folder();
    let path = folder.path().join("base.vhdx");
    create(&path, 16 * MIB, 1, 512);
    let disk = open(std::slice::from_ref(&path));
    disk.write_at(0, &vec![7; 16 * MIB as usize]).unwrap();
    disk.write_at(2 * MIB, &vec![0; 3 * MIB as usize]).unwrap();
    disk.discard(7 * MIB, 2 * MIB).unwrap();
    let expected = bytes(&disk);
    disk.close().unwrap();
    let anatomy = compact_file(&path);
    assert_eq!((anatomy.length, anatomy.waste()), (7 * MIB + 11 * MIB, 0));
    assert_eq!(anatomy.states, [6, 6, 2, 2, 2, 6, 6, 3, 3, 6, 6, 6, 6, 6, 6, 6]);
    assert!(bytes_of(std::slice::from_ref(&path)) == expected);
    qemu_reads(&path, &expected);

    // A second time there is nothing to do.
    let before = std::fs::read(&path).unwrap();
    compact_file(&path);
    assert!(std::fs::read(&path).unwrap()[MIB as usize..] == before[MIB as usize..]);
}

#[test]
fn zeros_stay_where_they_are_if_nobody_looks_for_them() {
    let folder = folder();
    let path = folder.path().join("base.vhdx");
    create(&path, 4 * MIB, 1, 512);
    let disk = open(std::slice::from_ref(&path));
    disk.write_at(0, &vec![0; 4 * MIB as usize]).unwrap();
    disk.close().unwrap();
    compact(&path, &CompactOptions { free_zeros: false }, &()).unwrap();
    assert_eq!(Anatomy::of_file(&path).states, [6; 4]);
    compact(&path, &CompactOptions::default(), &()).unwrap();
    assert_eq!(Anatomy::of_file(&path).states, [2; 4]);
}

/// A base full of `B` and a child over it, with blocks of 2 MiB each.
fn full_base_and_child(folder: &Path) -> [PathBuf; 2] {
    let [child, base] = ["child.vhdx", "base.vhdx"].map(|name| folder.join(name));
    create(&base, 24 * MIB, 2, 512);
    let disk = open(std::slice::from_ref(&base));
    disk.write_at(0, &vec![b'B'; 24 * MIB as usize]).unwrap();
    disk.close().unwrap();
    vhdx::create_child(&child, &base, r".\base.vhdx", &ChildOptions::default()).unwrap();
    [child, base]
}

#[test]
fn zeros_of_a_child_still_hide_its_parent() {
    let folder = folder();
    let paths = full_base_and_child(folder.path());
    let disk = open(&paths);
    disk.write_at(0, &vec![0; 4 * MIB as usize]).unwrap();
    disk.write_at(8 * MIB, &[0; 4096]).unwrap();
    let expected = bytes(&disk);
    disk.close().unwrap();
    let anatomy = compact_file(&paths[0]);
    assert_eq!(anatomy.states[..5], [2, 2, 0, 0, 7]);
    assert_eq!(anatomy.used, 3 * MIB, "a block and its bitmap");
    assert!(bytes_of(&paths) == expected);
}

#[test]
fn blocks_slide_over_the_hole_of_a_bitmap_that_no_block_needs() {
    let folder = folder();
    let paths = full_base_and_child(folder.path());
    let disk = open(&paths);
    // The bitmap block lies first, then the blocks; once block 0 is full, nobody needs the bitmap.
    disk.write_at(0, &[1; 512]).unwrap();
    for block in 1..8u8 {
        disk.write_at(u64::from(block) * 2 * MIB, &vec![block; 2 * MIB as usize]).unwrap();
    }
    disk.write_at(512, &vec![8; 2 * MIB as usize - 512]).unwrap();
    let expected = bytes(&disk);
    disk.close().unwrap();
    assert_eq!(Anatomy::of_file(&paths[0]).used, 17 * MIB);
    let anatomy = compact_file(&paths[0]);
    assert_eq!((anatomy.used, anatomy.waste()), (16 * MIB, 0));
    assert!(bytes_of(&paths) == expected);
    seven_zip_reads(&paths[0], &expected);
}

#[test]
fn space_that_nobody_owns_is_reclaimed() {
    let base = small_base();
    let expected = bytes(&over(std::slice::from_ref(&base), Access::ReadOnly));
    let mut leaky = base.clone();
    // Block 1 holds zeros; its entry goes, its space stays. Garbage lies behind the file's end.
    leaky.write(BAT + 8, &[0; 8]);
    leaky.write(base.length(), &[0xEE; 3_000_000]);
    let storage = Arc::new(CrashStorage::new(leaky));
    compact_storage(storage.clone(), &CompactOptions::default(), &()).unwrap();
    let anatomy = Anatomy::of_image(&storage.image());
    assert_eq!(anatomy.waste(), 0);
    assert!(bytes(&over(&[storage.image()], Access::ReadOnly)) == expected);
}

#[test]
fn a_fixed_disk_keeps_its_blocks() {
    let folder = folder();
    let path = folder.path().join("fixed.vhdx");
    let provision = Provision::Fixed { preallocate: false };
    let options = CreateOptions { block_size: 1 << 20, provision, ..CreateOptions::new(5 * MIB) };
    vhdx::create(&path, &options).unwrap();
    let anatomy = compact_file(&path);
    assert_eq!((anatomy.length, anatomy.states), (12 * MIB, vec![6; 5]));
    assert_eq!(vhdx::info(&path).unwrap().kind, Kind::Fixed);
}

#[test]
fn more_moves_than_the_log_can_hold_at_once() {
    const BLOCKS: u64 = 800;
    // Entries of neighbours lie in different pages of the BAT.
    const STEP: u64 = 600 * MIB;
    let folder = folder();
    let path = folder.path().join("base.vhdx");
    create(&path, BLOCKS * STEP, 1, 512);
    let disk = open(std::slice::from_ref(&path));
    for block in 0..BLOCKS {
        disk.write_at(block * STEP, &block.to_le_bytes()).unwrap();
        disk.write_at((block + 1) * STEP - 8, &(!block).to_le_bytes()).unwrap();
    }
    for block in 0..BLOCKS / 2 {
        disk.discard(block * STEP, MIB).unwrap();
    }
    disk.close().unwrap();
    assert_eq!(compact_file(&path).waste(), 0);
    let disk = open(std::slice::from_ref(&path));
    for block in 0..BLOCKS {
        let (mut first, mut last) = ([0; 8], [0; 8]);
        disk.read_at(block * STEP, &mut first).unwrap();
        disk.read_at((block + 1) * STEP - 8, &mut last).unwrap();
        let expected = if block < BLOCKS / 2 { 0 } else { block };
        assert_eq!((u64::from_le_bytes(first), u64::from_le_bytes(last)), (expected, !block));
    }
}

#[test]
fn a_file_in_use_is_left_alone() {
    let folder = folder();
    let path = folder.path().join("base.vhdx");
    create(&path, 4 * MIB, 1, 512);
    let _reader = FileStorage::open(&path, Lock::Read).unwrap();
    let error = compact(&path, &CompactOptions::default(), &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
}

#[test]
fn blocks_that_overlap_are_refused_before_anything_moves() {
    let mut base = small_base();
    let mut entry = [0; 8];
    base.read(BAT + 8 * 8, &mut entry).unwrap();
    base.write(BAT + 9 * 8, &entry);
    let storage = Arc::new(CrashStorage::new(base.clone()));
    let error = compact_storage(storage.clone(), &CompactOptions::default(), &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let mut bytes = [vec![0; 8 * MIB as usize], vec![0; 8 * MIB as usize]];
    base.read(5 * MIB, &mut bytes[0]).unwrap();
    storage.image().read(5 * MIB, &mut bytes[1]).unwrap();
    assert!(bytes[0] == bytes[1]);
}

/// Where our files have their BAT.
const BAT: u64 = 6 * MIB;

/// A base of 1 MiB blocks: block 0 full, 1 and 2 zeros, holes, and full ones at the end.
fn small_base() -> Image {
    let storage = Arc::new(CrashStorage::default());
    let options = CreateOptions { block_size: 1 << 20, ..CreateOptions::new(9 * MIB + 512) };
    vhdx::format(&*storage, &options).unwrap();
    let disk = Chain::over(vec![storage.clone()], Access::ReadWrite).unwrap();
    let mut random = Random::new(4);
    let mut data = vec![0; 9 * MIB as usize + 512];
    random.fill(&mut data);
    data[MIB as usize..3 * MIB as usize].fill(0);
    disk.write_at(0, &data).unwrap();
    disk.discard(4 * MIB, 2 * MIB).unwrap();
    disk.close().unwrap();
    storage.image()
}

/// A child with blocks of 2 MiB: zeros, a hole, a partial block that is full, and 1 MiB that makes all others slide.
fn small_child() -> [Image; 2] {
    let base = small_base();
    let child = Arc::new(CrashStorage::default());
    let parent = over(std::slice::from_ref(&base), Access::ReadOnly).identity().unwrap();
    vhdx::format_child(&*child, &parent, r".\base.vhdx", &ChildOptions::default()).unwrap();
    let parent: Arc<dyn Storage> = Arc::new(CrashStorage::new(base.clone()));
    let disk = Chain::over(vec![child.clone(), parent], Access::ReadWrite).unwrap();
    disk.write_at(0, &[1; 512]).unwrap();
    disk.write_at(2 * MIB, &vec![2; 2 * MIB as usize]).unwrap();
    disk.write_at(6 * MIB, &vec![3; 2 * MIB as usize]).unwrap();
    disk.write_at(4 * MIB, &vec![0; 2 * MIB as usize]).unwrap();
    disk.write_at(512, &vec![4; 2 * MIB as usize - 512]).unwrap();
    disk.close().unwrap();
    [child.image(), base]
}

/// Compacts the first of `layers`, and cuts the power at every write, with every damage.
fn survives_power_cuts(layers: &[Image]) {
    let expected = bytes(&over(layers, Access::ReadOnly));
    let storage = Arc::new(CrashStorage::new(layers[0].clone()));
    compact_storage(storage.clone(), &CompactOptions::default(), &()).unwrap();
    let (trace, mut random) = (storage.trace(), Random::new(9));
    for cut in 0..=trace.positions() {
        for damage in Damage::ALL {
            let context = format!("cut after {cut} changes, {damage:?}");
            let image = trace.cut(cut, damage, &mut random);
            is_readable(&image);
            let mut now = layers.to_vec();
            now[0] = image;
            assert!(bytes(&over(&now, Access::ReadOnly)) == expected, "{context}");
            if damage == Damage::Tears(512) || damage == Damage::LosesAll {
                // Compacting is taken up again where it ended.
                let again = Arc::new(CrashStorage::new(now[0].clone()));
                compact_storage(again.clone(), &CompactOptions::default(), &()).unwrap();
                assert_eq!(Anatomy::of_image(&again.image()).waste(), 0, "{context}");
                now[0] = again.image();
                assert!(bytes(&over(&now, Access::ReadOnly)) == expected, "{context}, resumed");
            }
        }
    }
}

#[test]
fn any_disk_reads_the_same_whenever_the_power_goes() {
    (0..2 * soak()).for_each(|seed| survives_power_cuts(&any_layers(seed)));
}

#[test]
fn a_base_reads_the_same_whenever_the_power_goes() {
    survives_power_cuts(&[small_base()]);
}

#[test]
fn a_child_reads_the_same_whenever_the_power_goes() {
    let layers = small_child();
    let storage = Arc::new(CrashStorage::new(layers[0].clone()));
    compact_storage(storage.clone(), &CompactOptions::default(), &()).unwrap();
    assert_eq!(Anatomy::of_image(&storage.image()).waste(), 0);
    survives_power_cuts(&layers);
}

#[test]
fn a_failure_at_any_write_leaves_a_sound_file() {
    for layers in [vec![small_base()], small_child().to_vec()] {
        let expected = bytes(&over(&layers, Access::ReadOnly));
        for allowed in 0.. {
            let storage = Arc::new(Failing::after(allowed, layers[0].clone()));
            let outcome = compact_storage(storage.clone(), &CompactOptions::default(), &());
            let mut now = layers.clone();
            now[0] = storage.image();
            assert!(bytes(&over(&now, Access::ReadOnly)) == expected, "after {allowed} writes");
            match outcome {
                Ok(()) => break,
                Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
            }
        }
    }
}

/// Stops the operation once so many bytes are done.
struct Impatient {
    limit: u64,
    done: AtomicU64,
    total: AtomicU64,
}

impl Impatient {
    fn at(limit: u64) -> Self {
        Self { limit, done: AtomicU64::new(0), total: AtomicU64::new(0) }
    }
}

impl Watch for Impatient {
    fn advanced(&self, done: u64, total: u64) {
        assert!(self.done.swap(done, Ordering::Relaxed) <= done && done <= total);
        self.total.store(total, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.done.load(Ordering::Relaxed) > self.limit
    }
}

#[test]
fn cancelled_anywhere_the_file_is_sound_and_progress_adds_up() {
    let layers = small_child();
    let expected = bytes(&over(&layers, Access::ReadOnly));
    for limit in (0..).step_by(MIB as usize / 2) {
        let storage = Arc::new(CrashStorage::new(layers[0].clone()));
        let watch = Impatient::at(limit);
        let outcome = compact_storage(storage.clone(), &CompactOptions::default(), &watch);
        let now = [storage.image(), layers[1].clone()];
        assert!(bytes(&over(&now, Access::ReadOnly)) == expected, "stopped after {limit} bytes");
        // The log is empty and nothing overlaps.
        let anatomy = Anatomy::of_image(&now[0]);
        let (done, total) = (watch.done.into_inner(), watch.total.into_inner());
        match outcome {
            Ok(()) => {
                assert_eq!((done, anatomy.waste()), (total, 0));
                break;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
        }
    }
}
