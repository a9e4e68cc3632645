//! Resizing: the old size or the new one, with the right bytes, and zeros where there was nothing.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions, Kind, Provision};
use ireko_disk::{
    Access, Disk, ErrorKind, FileStorage, Lock, ResizeOptions, Watch, resize, resize_storage,
};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Image};

use crate::anatomy::Anatomy;
use crate::disks::{alone, base, child_of, options, resized, storages};
use crate::support::{
    MIB, bytes, bytes_of, folder, has, open, over, qemu_reads, run, scribble, seven_zip_reads,
};

/// Where our files have their BAT, and behind it the blocks of a small disk.
const BAT: u64 = 6 * MIB;
const DATA: u64 = 7 * MIB;
const LOSSY: ResizeOptions = ResizeOptions { allow_loss: true };
const CAREFUL: ResizeOptions = ResizeOptions { allow_loss: false };

/// Resizes a chain's leaf; the result is sound, and new where it has to be.
#[track_caller]
fn resize_file(chain: &[PathBuf], size: u64, options: &ResizeOptions) -> Anatomy {
    let before = vhdx::info(&chain[0]).unwrap();
    resize(chain, size, options, &()).unwrap();
    let (after, anatomy) = (vhdx::info(&chain[0]).unwrap(), Anatomy::of_file(&chain[0]));
    assert_eq!((after.geometry.virtual_size, anatomy.virtual_size), (size, size));
    assert_ne!(after.data_write_guid, before.data_write_guid, "the disk is another version");
    assert_ne!(after.file_write_guid, before.file_write_guid);
    assert_eq!((after.page83, after.kind), (before.page83, before.kind));
    anatomy
}

#[test]
fn bases_grow_and_shrink_and_others_agree() {
    for (block_mib, sector) in [(1, 512), (2, 4096), (32, 512)] {
        let (folder, mut random) = (folder(), Random::new(block_mib.into()));
        let paths = [folder.path().join("base.vhdx")];
        let mut expected = vec![0; 9 * MIB as usize + 8 * 4096];
        let options = options(block_mib, sector, expected.len() as u64);
        vhdx::create(&paths[0], &options).unwrap();
        // Within a block, by a block, over blocks, back again.
        for size in [9 * MIB + 8 * 8192, 11 * MIB, 40 * MIB, 40 * MIB - 8 * 4096, 3 * MIB, 20 * MIB]
        {
            let disk = open(&paths);
            scribble(&disk, u64::from(block_mib) * MIB, &mut random);
            expected.clone_from(&bytes(&disk));
            disk.close().unwrap();
            resize_file(&paths, size, &LOSSY);
            expected = resized(&expected, size);
            assert!(bytes_of(&paths) == expected);
            if sector == 512 {
                qemu_reads(&paths[0], &expected);
            }
            seven_zip_reads(&paths[0], &expected);
        }
    }
}

#[test]
fn children_have_sizes_of_their_own() {
    for (block_mib, seed) in [(1, 1), (2, 2), (8, 3)] {
        let (folder, mut random) = (folder(), Random::new(seed));
        let [child, base] = ["child.vhdx", "base.vhdx"].map(|name| folder.path().join(name));
        vhdx::create(&base, &options(4, 512, 10 * MIB + 4096)).unwrap();
        let disk = open(std::slice::from_ref(&base));
        disk.write_at(0, &vec![b'B'; 10 * MIB as usize + 4096]).unwrap();
        disk.close().unwrap();
        let child_options = ChildOptions { block_size: block_mib << 20, ..ChildOptions::default() };
        vhdx::create_child(&child, &base, r".\base.vhdx", &child_options).unwrap();
        let paths = [child, base];
        for size in [10 * MIB + 8192, 25 * MIB, 17 * MIB + 512, 40 * MIB, 10 * MIB + 4096, 12 * MIB]
        {
            let disk = open(&paths);
            scribble(&disk, u64::from(block_mib) * MIB, &mut random);
            let expected = resized(&bytes(&disk), size);
            disk.close().unwrap();
            resize_file(&paths, size, &LOSSY);
            assert!(bytes_of(&paths) == expected);
        }
        let below = resize(&paths, 10 * MIB, &LOSSY, &()).unwrap_err();
        assert_eq!(below.kind(), ErrorKind::OutOfRange, "{below}");
    }
}

#[test]
fn seven_zip_reads_a_child_that_outgrew_its_parent() {
    let folder = folder();
    let paths = ["child.vhdx", "base.vhdx"].map(|name| folder.path().join(name));
    vhdx::create(&paths[1], &options(1, 512, 8 * MIB)).unwrap();
    let disk = open(&paths[1..]);
    disk.write_at(0, &vec![b'B'; 8 * MIB as usize]).unwrap();
    disk.close().unwrap();
    vhdx::create_child(&paths[0], &paths[1], r".\base.vhdx", &ChildOptions::default()).unwrap();
    let disk = open(&paths);
    disk.write_at(7 * MIB, &[1; 4096]).unwrap();
    disk.close().unwrap();
    resize_file(&paths, 16 * MIB, &CAREFUL);
    let disk = open(&paths);
    disk.write_at(15 * MIB, &[2; 4096]).unwrap();
    let expected = bytes(&disk);
    disk.close().unwrap();
    assert!(expected[8 * MIB as usize..15 * MIB as usize].iter().all(|&byte| byte == 0));
    seven_zip_reads(&paths[0], &expected);
}

#[test]
fn a_bat_that_is_too_small_moves() {
    let folder = folder();
    let paths = [folder.path().join("base.vhdx")];
    vhdx::create(&paths[0], &options(1, 512, 20 * MIB)).unwrap();
    let disk = open(&paths);
    disk.write_at(0, &vec![7; 20 * MIB as usize]).unwrap();
    disk.close().unwrap();
    // A million blocks and more.
    let anatomy = resize_file(&paths, 3 << 40, &CAREFUL);
    assert_eq!(anatomy.bat, DATA + 20 * MIB..DATA + 20 * MIB + 25 * MIB);
    assert!(vhdx::info(&paths[0]).unwrap().allocated < 22 * MIB);
    let disk = open(&paths);
    disk.write_at((3 << 40) - 512, &[8; 512]).unwrap();
    // The old BAT's place is the first that is free.
    disk.close().unwrap();
    let anatomy = Anatomy::of_file(&paths[0]);
    assert_eq!((anatomy.length, anatomy.waste()), (DATA + 45 * MIB, 0));
    let disk = open(&paths);
    let mut first = vec![0; 21 * MIB as usize];
    disk.read_at(0, &mut first).unwrap();
    assert!(first == resized(&[7; 20 * MIB as usize], 21 * MIB));
    disk.close().unwrap();
    assert_eq!(resize_file(&paths, 20 * MIB, &LOSSY).bat, anatomy.bat, "it never moves back");
    qemu_reads(&paths[0], &vec![7; 20 * MIB as usize]);
}

#[test]
fn a_disk_of_qemu_grows() {
    if !has("qemu-img") {
        return;
    }
    let folder = folder();
    let path = folder.path().join("qemu.vhdx");
    let file = path.to_str().unwrap();
    run("qemu-img", &["create", "-f", "vhdx", "-o", "block_size=1M", file, "50M"]);
    run("qemu-io", &["-f", "vhdx", "-c", "write -P 7 1M 48M", file]);
    let mut expected = vec![7; 256 << 20];
    expected[..MIB as usize].fill(0);
    expected[49 * MIB as usize..].fill(0);
    let old_bat = Anatomy::of_file(&path).bat;
    resize_file(std::slice::from_ref(&path), 256 << 20, &CAREFUL);
    qemu_reads(&path, &expected);
    // The entry that moves the BAT also repairs the other region table: the log of 1 MiB has to hold all of it.
    let table = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    table.write_all_at(&[0xEE; 64 << 10], 256 << 10).unwrap();
    let anatomy = resize_file(std::slice::from_ref(&path), 1 << 40, &CAREFUL);
    assert_ne!(anatomy.bat, old_bat);
    run("qemu-img", &["check", "-f", "vhdx", file]);
    run("qemu-io", &["-f", "vhdx", "-c", "read -P 7 1M 48M", "-c", "read -P 0 1023G 1G", file]);
    resize_file(std::slice::from_ref(&path), 256 << 20, &CAREFUL);
    qemu_reads(&path, &expected);
}

#[test]
fn the_largest_disk_there_can_be() {
    let folder = folder();
    let paths = [folder.path().join("base.vhdx")];
    vhdx::create(&paths[0], &CreateOptions::new(1 << 30)).unwrap();
    let disk = open(&paths);
    disk.write_at(MIB, &[7; 512]).unwrap();
    disk.close().unwrap();
    resize_file(&paths, 64 << 40, &CAREFUL);
    for (size, sector) in [((64 << 40) + 512, 512), (0, 512), (1000, 512)] {
        let error = resize(&paths, size, &LOSSY, &()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{size} bytes of {sector}-byte sectors");
    }
    resize_file(&paths, MIB + 512, &CAREFUL);
    assert_eq!(bytes_of(&paths)[MIB as usize..], [7; 512]);
}

#[test]
fn fixed_disks_stay_fixed() {
    let folder = folder();
    let paths = [folder.path().join("fixed.vhdx")];
    let provision = Provision::Fixed { preallocate: false };
    let options = CreateOptions { provision, ..options(1, 512, 5 * MIB + 4096) };
    vhdx::create(&paths[0], &options).unwrap();
    let disk = open(&paths);
    disk.write_at(0, &vec![7; 5 * MIB as usize + 4096]).unwrap();
    let mut expected = bytes(&disk);
    disk.close().unwrap();
    for (size, blocks) in
        [(5 * MIB + 8192, 6), (9 * MIB + 512, 10), (2 * MIB + 512, 3), (20 * MIB, 20)]
    {
        let anatomy = resize_file(&paths, size, &LOSSY);
        assert_eq!(
            (anatomy.length, anatomy.states),
            (DATA + blocks * MIB, vec![6; blocks as usize])
        );
        expected = resized(&expected, size);
        assert!(bytes_of(&paths) == expected);
        qemu_reads(&paths[0], &expected);
    }
    // A BAT of more than 1 MiB has to move; the blocks stay in the file, the new ones go where they fit.
    let anatomy = resize_file(&paths, 1 << 38, &LOSSY);
    assert_eq!(vhdx::info(&paths[0]).unwrap().kind, Kind::Fixed);
    assert!(anatomy.states.len() == 1 << 18 && anatomy.states.iter().all(|&state| state == 6));
    assert_eq!(anatomy.waste(), MIB, "where the BAT was");
    let disk = open(&paths);
    assert!(disk.read_at((1 << 38) - 512, &mut [1; 512]).is_ok());
    let mut first = vec![0; 20 * MIB as usize];
    disk.read_at(0, &mut first).unwrap();
    assert!(first == expected);
}

#[test]
fn data_is_cut_off_only_if_that_is_allowed() {
    let folder = folder();
    let paths = ["child.vhdx", "base.vhdx"].map(|name| folder.path().join(name));
    vhdx::create(&paths[1], &options(1, 512, 4 * MIB)).unwrap();
    vhdx::create_child(&paths[0], &paths[1], r".\base.vhdx", &ChildOptions::default()).unwrap();
    resize_file(&paths, 16 * MIB, &CAREFUL);
    let disk = open(&paths);
    // A partial block, a full one, and zeros behind them.
    disk.write_at(8 * MIB + 4096, &[1; 512]).unwrap();
    disk.write_at(10 * MIB, &vec![2; 2 * MIB as usize]).unwrap();
    disk.write_at(12 * MIB, &vec![0; 2 * MIB as usize]).unwrap();
    disk.close().unwrap();
    let expected = bytes_of(&paths);
    for refused in [12 * MIB - 512, 10 * MIB, 8 * MIB + 4096, 4 * MIB] {
        let before = std::fs::read(&paths[0]).unwrap();
        let error = resize(&paths, refused, &CAREFUL, &()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss, "{error}");
        assert!(std::fs::read(&paths[0]).unwrap() == before, "a refusal changes nothing");
    }
    resize_file(&paths, 12 * MIB, &CAREFUL);
    assert!(bytes_of(&paths) == expected[..12 * MIB as usize]);
    resize_file(&paths, 8 * MIB + 4096 + 512, &LOSSY);
    resize_file(&paths, 4 * MIB, &LOSSY);
    resize_file(&paths, 16 * MIB, &CAREFUL);
    assert!(bytes_of(&paths) == vec![0; 16 * MIB as usize], "what was cut off does not come back");
}

#[test]
fn what_is_cut_off_is_gone_from_the_file_too() {
    let folder = folder();
    let paths = [folder.path().join("base.vhdx")];
    vhdx::create(&paths[0], &options(2, 512, 4 * MIB)).unwrap();
    let disk = open(&paths);
    disk.write_at(0, &vec![7; 4 * MIB as usize]).unwrap();
    disk.close().unwrap();
    resize_file(&paths, MIB, &LOSSY);
    let file = std::fs::read(&paths[0]).unwrap();
    let (data, tail) = file[DATA as usize..].split_at(MIB as usize);
    assert!(data == [7; MIB as usize] && tail == [0; MIB as usize]);
}

#[test]
fn the_same_size_is_no_change() {
    let folder = folder();
    let paths = [folder.path().join("base.vhdx")];
    vhdx::create(&paths[0], &options(1, 512, 4 * MIB)).unwrap();
    let before = std::fs::read(&paths[0]).unwrap();
    resize(&paths, 4 * MIB, &CAREFUL, &()).unwrap();
    assert!(std::fs::read(&paths[0]).unwrap() == before);
}

#[test]
fn files_in_use_and_foreign_parents_are_refused() {
    let folder = folder();
    let paths = ["child.vhdx", "base.vhdx"].map(|name| folder.path().join(name));
    vhdx::create(&paths[1], &options(1, 512, 4 * MIB)).unwrap();
    vhdx::create_child(&paths[0], &paths[1], r".\base.vhdx", &ChildOptions::default()).unwrap();
    let kind = |chain: &[PathBuf]| resize(chain, 8 * MIB, &CAREFUL, &()).unwrap_err().kind();
    let reader = FileStorage::open(&paths[0], Lock::Read).unwrap();
    assert_eq!(kind(&paths), ErrorKind::InUse);
    drop(reader);
    assert_eq!(kind(&paths[..1]), ErrorKind::NotFound);
    assert_eq!(kind(&[]), ErrorKind::NotFound);
    resize_file(&paths[1..], 5 * MIB, &CAREFUL);
    assert_eq!(kind(&paths), ErrorKind::ParentMismatch, "the parent is another version now");
}

/// Stops the operation when first asked.
#[derive(Default)]
struct Stop {
    asked: AtomicBool,
}

impl Watch for Stop {
    fn advanced(&self, done: u64, total: u64) {
        assert!(done <= total);
    }

    fn cancelled(&self) -> bool {
        self.asked.store(true, Ordering::Relaxed);
        true
    }
}

#[test]
fn stopped_while_it_looks_for_data_nothing_has_changed() {
    let base = base(4 * MIB, 1);
    let storage: Arc<CrashStorage> = Arc::new(CrashStorage::new(base));
    let chain = alone(&storage);
    resize_storage(&chain, 12 * MIB, &CAREFUL, &()).unwrap();
    let (position, stop) = (storage.position(), Stop::default());
    let error = resize_storage(&chain, 8 * MIB, &CAREFUL, &stop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(stop.asked.into_inner() && storage.position() == position);
}

#[test]
fn what_lies_behind_the_end_of_a_disk_never_shows() {
    let size = 4 * MIB + 1024;
    let mut base = base(size, 1);
    // Garbage in the last block of the parent, and entries behind its last.
    base.write(DATA + size, &[0xEE; 100_000]);
    base.write(BAT + 6 * 8, &((DATA + MIB) | 6).to_le_bytes());
    let grown = Arc::new(CrashStorage::new(base.clone()));
    let expected = resized(&bytes(&over(std::slice::from_ref(&base), Access::ReadOnly)), 9 * MIB);
    resize_storage(&alone(&grown), 9 * MIB, &CAREFUL, &()).unwrap();
    let image = grown.image();
    Anatomy::of_image(&image);
    assert!(bytes(&over(&[image], Access::ReadOnly)) == expected);

    let mut layers = child_of(vec![base]);
    let anatomy = Anatomy::of_image(&layers[0]);
    // The child's blocks are of 2 MiB: a bitmap block, the last block, the other two.
    assert_eq!((anatomy.used, anatomy.states), (7 * MIB, vec![7, 6, 7]));
    let expected = resized(&bytes(&over(&layers, Access::ReadOnly)), 9 * MIB);
    let (last, bitmap) = (entry(&layers[0], 2) & !7, entry(&layers[0], 2048) & !7);
    // Garbage behind its end too, and bits that say that it counts; an entry behind its last.
    layers[0].write(last + 1024, &[0xEE; 100_000]);
    layers[0].write(bitmap + 2 * 512, &[0xFF; 512]);
    layers[0].write(bitmap + 2 * 512, &[0b1111_1110]);
    layers[0].write(BAT + 4 * 8, &((DATA + MIB) | 6).to_le_bytes());
    let leaf = Arc::new(CrashStorage::new(layers[0].clone()));
    let chain = storages(leaf.clone(), &layers[1..]);
    resize_storage(&chain, 9 * MIB, &CAREFUL, &()).unwrap();
    layers[0] = leaf.image();
    Anatomy::of_image(&layers[0]);
    assert!(bytes(&over(&layers, Access::ReadOnly)) == expected);
}

fn entry(image: &Image, slot: u64) -> u64 {
    let mut bytes = [0; 8];
    image.read(BAT + slot * 8, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}
