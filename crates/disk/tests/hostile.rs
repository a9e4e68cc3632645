//! Damaged and hostile files: an error or a disk, never a panic, never memory out of proportion.

use std::sync::Arc;

use ireko_disk::check::{RepairOptions, check_storage, repair_storage};
use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk, ErrorKind, Storage};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Damage, Image};

const KIB: u64 = 1024;
const MIB: u64 = 1 << 20;
const LOG: u64 = MIB;
const METADATA: u64 = 5 * MIB;
const BAT: u64 = 6 * MIB;

/// A base and a child of it whose log has to be replayed.
fn dirty_chain() -> [Image; 2] {
    let base = Arc::new(CrashStorage::default());
    let options = CreateOptions { block_size: 1 << 20, ..CreateOptions::new(4 * MIB) };
    vhdx::format(&*base, &options).unwrap();
    let disk = Chain::over(vec![base.clone()], Access::ReadWrite).unwrap();
    disk.write_at(0, &[1; 5000]).unwrap();
    disk.close().unwrap();
    let identity = Chain::over(vec![base.clone()], Access::ReadOnly).unwrap().identity().unwrap();
    let leaf = Arc::new(CrashStorage::default());
    let options = ChildOptions { block_size: 1 << 20, ..Default::default() };
    vhdx::format_child(&*leaf, &identity, r".\base.vhdx", &options).unwrap();
    let disk = Chain::over(vec![leaf.clone(), base.clone()], Access::ReadWrite).unwrap();
    disk.write_at(512, &[2; 2000]).unwrap();
    disk.write_at(MIB, &vec![3; MIB as usize]).unwrap();
    disk.flush().unwrap();
    let trace = leaf.trace();
    let dirty = trace.cut(trace.positions(), Damage::LosesAll, &mut Random::new(1));
    [dirty, base.image()]
}

/// Does everything with a chain that a user would; whether it works does not matter here.
fn exercise(images: [Image; 2]) {
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let storages =
            images.clone().map(|image| Arc::new(CrashStorage::new(image)) as Arc<dyn Storage>);
        let Ok(disk) = Chain::over(storages.into(), access) else { continue };
        let size = disk.geometry().virtual_size;
        let mut buffer = vec![0; 64 * KIB as usize];
        for at in [0, MIB, 2 * MIB, size.saturating_sub(64 * KIB)] {
            let _ = disk.read_at(at, &mut buffer);
        }
        let _ = disk.extents(0, size, 100);
        let _ = disk.write_at(100, &[4; 3000]);
        let _ = disk.write_at(3 * MIB, &[5; 512]);
        let _ = disk.discard(MIB, MIB);
        let _ = disk.write_zeroes(700, MIB);
        let _ = disk.flush();
        let _ = disk.close();
    }
}

/// A report without errors means that the disk reads and takes writes; a repair never makes it read otherwise.
fn check_and_repair(images: &[Image; 2]) {
    let [leaf, base] = images.clone().map(|image| Arc::new(CrashStorage::new(image)));
    let (file, parent): (Arc<dyn Storage>, Arc<dyn Storage>) = (leaf.clone(), base);
    let report = check_storage(&file).unwrap();
    let read = |leaf: &Arc<dyn Storage>, access| {
        let disk = Chain::over(vec![leaf.clone(), parent.clone()], access)?;
        let mut bytes = vec![0; disk.geometry().virtual_size.min(8 * MIB) as usize];
        disk.read_at(0, &mut bytes).map(|()| (disk, bytes))
    };
    let before = match read(&file, Access::ReadOnly) {
        Ok((_, bytes)) => Some(bytes),
        Err(error) => {
            // What is wrong with the link is for a check of the chain to find.
            let elsewhere = error.kind() == ErrorKind::ParentMismatch
                || !check_storage(&parent).unwrap().is_sound();
            assert!(elsewhere || !report.is_sound(), "{error}: {report:#?}");
            None
        }
    };
    if let (true, Some(bytes)) = (report.is_sound(), &before) {
        let copy: Arc<dyn Storage> = Arc::new(CrashStorage::new(images[0].clone()));
        let (disk, _) = read(&copy, Access::ReadWrite).unwrap();
        disk.write_at(0, bytes).unwrap();
        disk.close().unwrap();
    }
    for discard_lost_blocks in [false, true] {
        let options = RepairOptions { discard_lost_blocks };
        let after = repair_storage(&file, &options).unwrap();
        assert!(after.is_sound() || !report.is_sound(), "{report:#?} {after:#?}");
        assert!(discard_lost_blocks || leaf.position() == 0 || !after.repaired.is_empty());
        if let Some(before) = &before {
            assert!(read(&file, Access::ReadOnly).unwrap().1 == *before);
        }
    }
}

fn put(image: &mut Image, at: u64, bytes: &[u8]) {
    image.write(at, bytes);
}

fn get(image: &Image, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    image.read(at, &mut bytes).unwrap();
    bytes
}

/// Makes the checksum of a record right again.
fn seal(image: &mut Image, at: u64, length: usize) {
    put(image, at + 4, &[0; 4]);
    let crc = crc32c::crc32c(&get(image, at, length));
    put(image, at + 4, &crc.to_le_bytes());
}

/// Mutates each byte of a range in turn; `sealed` is the record around it whose checksum is made right again.
fn mutate(range: std::ops::Range<u64>, sealed: Option<(u64, usize)>) {
    let images = dirty_chain();
    let mut random = Random::new(range.start);
    for at in range {
        let old = get(&images[0], at, 1)[0];
        for new in [0, 0xFF, old ^ 1 << random.below(8), old.wrapping_add(1)] {
            let mut bad = images.clone();
            put(&mut bad[0], at, &[new]);
            if let Some((start, length)) = sealed {
                seal(&mut bad[0], start, length);
            }
            if random.one_in(4) {
                check_and_repair(&bad);
            }
            exercise(bad);
        }
    }
}

#[test]
fn any_byte_of_the_headers() {
    mutate(64 * KIB..64 * KIB + 80, Some((64 * KIB, 4096)));
    mutate(128 * KIB..128 * KIB + 80, Some((128 * KIB, 4096)));
    mutate(128 * KIB..128 * KIB + 80, None);
}

#[test]
fn any_byte_of_the_region_table() {
    mutate(192 * KIB..192 * KIB + 80, Some((192 * KIB, 64 * 1024)));
}

#[test]
fn any_byte_of_the_metadata() {
    mutate(METADATA..METADATA + 32 * 7, None);
    mutate(METADATA + 64 * KIB..METADATA + 64 * KIB + 48, None);
    mutate(METADATA + 68 * KIB..METADATA + 68 * KIB + 48, None);
}

#[test]
fn any_byte_of_a_log_entry() {
    let [dirty, _] = dirty_chain();
    let length = u32::from_le_bytes(get(&dirty, LOG + 8, 4).try_into().unwrap());
    mutate(LOG..LOG + 160, Some((LOG, length as usize)));
    mutate(LOG..LOG + 160, None);
}

#[test]
fn any_byte_of_the_bat() {
    // Clean, so that the BAT in the file counts and not the log's copy.
    let [dirty, base] = dirty_chain();
    let storage = Arc::new(CrashStorage::new(dirty));
    let parent: Arc<dyn Storage> = Arc::new(CrashStorage::new(base.clone()));
    Chain::over(vec![storage.clone(), parent], Access::ReadWrite).unwrap().close().unwrap();
    let clean = [storage.image(), base];
    for at in BAT..BAT + 5 * 8 {
        for new in 0..=255u8 {
            let mut bad = clean.clone();
            put(&mut bad[0], at, &[new]);
            if (at + u64::from(new)).is_multiple_of(17) {
                check_and_repair(&bad);
            }
            exercise(bad);
        }
    }
}

#[test]
fn truncated_files_are_refused_or_fail_where_the_bytes_are_missing() {
    let [dirty, base] = dirty_chain();
    for length in (0..dirty.length()).step_by(100_003).chain([0, 1, 7, 8, dirty.length() - 1]) {
        let mut short = dirty.clone();
        short.set_length(length);
        let mut short_base = base.clone();
        short_base.set_length(length.min(base.length()));
        for images in [[short, base.clone()], [dirty.clone(), short_base]] {
            check_and_repair(&images);
            exercise(images);
        }
    }
}

#[test]
fn what_is_no_vhdx_is_said_to_be_corrupt() {
    for bytes in [vec![], vec![0; 100], vec![0xFF; 2 << 20], b"conectix".repeat(1000)] {
        let mut image = Image::default();
        image.write(0, &bytes);
        let outcome = Chain::over(vec![Arc::new(CrashStorage::new(image))], Access::ReadOnly);
        let kind = outcome.err().unwrap().kind();
        assert!(matches!(kind, ErrorKind::Corrupt), "{kind:?}");
    }
}
