//! Damaged and hostile VHD files: an error or a disk, never a panic, never memory out of proportion.

use std::ops::Range;
use std::sync::Arc;

use ireko_disk::check::{RepairOptions, repair_storage};
use ireko_disk::merge::storages_into_parent;
use ireko_disk::{
    Access, Chain, CompactOptions, Disk, ErrorKind, ResizeOptions, Storage, compact_storage,
    resize_storage, vhd,
};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Image};

use crate::support::{MIB, bytes_of, changed, child_of, dynamic, fixed, formatted, over};

const FOOTER_CHECKSUM: usize = 64;
const HEADER_CHECKSUM: usize = 36;
/// Where our children have their table.
const TABLE: u64 = 16 << 10;
/// Where our bases have theirs.
const TABLE_OF_BASE: u64 = 1536;

/// A child with a few blocks, and its base.
fn chain() -> [Image; 2] {
    let mut base = [formatted(&dynamic(4 * MIB, 512 << 10))];
    changed(&mut base, |disk| disk.write_at(0, &[1; 5000]).unwrap());
    let [base] = base;
    let mut images = [child_of(&base, 512 << 10), base];
    changed(&mut images, |disk| {
        disk.write_at(512, &[2; 2000]).unwrap();
        disk.write_at(MIB, &vec![3; MIB as usize]).unwrap();
    });
    images
}

/// Does everything with a chain that a user would; whether it works does not matter here.
fn exercise(images: &[Image]) {
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let storages = images.iter().map(|image| Arc::new(CrashStorage::new(image.clone())) as _);
        let Ok(disk) = Chain::over(storages.collect(), access) else { continue };
        let size = disk.geometry().virtual_size;
        let mut buffer = vec![0; 64 << 10];
        for at in [0, MIB, 2 * MIB, size.saturating_sub(64 << 10)] {
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
    let storage = || Arc::new(CrashStorage::new(images[0].clone()));
    let _ = vhd::set_parent_path(storage(), r"..\elsewhere\base.vhd");
    let bold = RepairOptions { discard_lost_blocks: true };
    let _ = repair_storage(&(storage() as Arc<dyn Storage>), &bold);
    let _ = compact_storage(storage(), &CompactOptions::default(), &());
    let chain: Vec<_> = std::iter::once(storage() as Arc<dyn Storage>)
        .chain(images[1..].iter().map(|image| Arc::new(CrashStorage::new(image.clone())) as _))
        .collect();
    for size in [70 * MIB, 4 * MIB + 512] {
        let _ = resize_storage(&chain, size, &ResizeOptions { allow_loss: true }, &());
    }
}

fn get(image: &Image, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    image.read(at, &mut bytes).unwrap();
    bytes
}

/// A record with a checksum.
#[derive(Clone, Copy)]
struct Record {
    at: u64,
    length: usize,
    checksum: usize,
}

impl Record {
    fn footer(at: u64) -> Self {
        Self { at, length: 512, checksum: FOOTER_CHECKSUM }
    }

    fn header() -> Self {
        Self { at: 512, length: 1024, checksum: HEADER_CHECKSUM }
    }

    /// Makes its checksum right again.
    fn seal(self, image: &mut Image) {
        let field = self.at + self.checksum as u64;
        image.write(field, &[0; 4]);
        let sum: u32 = get(image, self.at, self.length).iter().map(|&byte| u32::from(byte)).sum();
        image.write(field, &(!sum).to_be_bytes());
    }
}

/// Mutates each byte of a range in turn.
fn mutate(images: &[Image], range: Range<u64>, sealed: Option<Record>) {
    let mut random = Random::new(range.start);
    for at in range {
        let old = get(&images[0], at, 1)[0];
        for new in [0, 0xFF, old ^ 1 << random.below(8), old.wrapping_add(1)] {
            let mut bad = images.to_vec();
            bad[0].write(at, &[new]);
            if let Some(record) = sealed {
                record.seal(&mut bad[0]);
            }
            exercise(&bad);
        }
    }
}

#[test]
fn any_byte_of_the_footers() {
    let images = chain();
    let end = images[0].length() - 512;
    mutate(&images, end..end + 90, Some(Record::footer(end)));
    mutate(&images, end..end + 90, None);
    let mut crashed = images.clone();
    crashed[0].set_length(end);
    mutate(&crashed, 0..90, Some(Record::footer(0)));
    let fixed = [formatted(&fixed(3 * MIB))];
    mutate(&fixed, 3 * MIB..3 * MIB + 90, Some(Record::footer(3 * MIB)));
}

#[test]
fn a_file_that_ends_within_its_table_is_refused() {
    let [mut leaf, base] = chain();
    let table_end = TABLE + 512;
    for length in [table_end - 1, TABLE + 32, TABLE + 1] {
        leaf.set_length(length);
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let layers = [&leaf, &base].map(|image| Arc::new(CrashStorage::new(image.clone())));
            let outcome = Chain::over(layers.map(|layer| layer as Arc<dyn Storage>).into(), access);
            assert_eq!(outcome.err().unwrap().kind(), ErrorKind::Corrupt, "{length} bytes");
        }
    }
}

/// Makes the fifth name of the parent lie somewhere.
fn name_at(image: &mut Image, at: u64, length: u32) {
    let entry = 512 + 576 + 4 * 24;
    image.write(entry, b"W2ku");
    image.write(entry + 8, &length.to_be_bytes());
    image.write(entry + 16, &at.to_be_bytes());
    Record::header().seal(image);
}

#[test]
fn a_name_that_lies_where_none_can_keeps_nobody_from_the_disk() {
    let images = chain();
    let end = images[0].length() - 512;
    // Where the file grows to, over a block, over the table, over the header, over another name.
    for at in [end + 300_000, MIB, TABLE + 10, 600, 1540] {
        let mut images = images.clone();
        name_at(&mut images[0], at, 5000);
        let before = over(&images, Access::ReadOnly);
        let mut expected = vec![0; 4 << 20];
        before.read_at(0, &mut expected).unwrap();
        changed(&mut images, |disk| {
            disk.write_at(2 * MIB, &vec![7; 2 << 20]).unwrap();
        });
        expected[2 << 20..].fill(7);
        let mut bytes = vec![0; 4 << 20];
        over(&images, Access::ReadWrite).read_at(0, &mut bytes).unwrap();
        assert!(bytes == expected, "with a name at {at:#x}");
        let leaf: Arc<dyn Storage> = Arc::new(CrashStorage::new(images[0].clone()));
        let report = ireko_disk::check::check_storage(&leaf).unwrap();
        assert!(report.is_sound(), "{:#?}", report.findings);
    }
}

#[test]
fn any_byte_of_the_header() {
    let images = chain();
    mutate(&images, 512..512 + 80, Some(Record::header()));
    mutate(&images, 512 + 576..512 + 600, Some(Record::header()));
    mutate(&images, 512..512 + 80, None);
}

#[test]
fn any_byte_of_the_names() {
    let images = chain();
    mutate(&images, 1536..1600, None);
}

#[test]
fn any_byte_of_the_table() {
    let images = chain();
    for at in TABLE..TABLE + 8 * 4 {
        for new in 0..=255 {
            let mut bad = images.clone();
            bad[0].write(at, &[new]);
            exercise(&bad);
        }
    }
}

#[test]
fn truncated_files_are_refused_or_fail_where_the_bytes_are_missing() {
    let images = chain();
    let length = images[0].length();
    for cut in [0, 1, 8, 511, 512, 513, 1000, 1536, TABLE, TABLE + 32, TABLE + 512, TABLE + 5000]
        .into_iter()
        .chain([length - 512, length - 511, length - 1])
    {
        let mut bad = images.clone();
        bad[0].set_length(cut);
        exercise(&bad);
    }
    let mut bad = images.clone();
    bad[0].set_length(length - 513);
    let disk = over(&bad, Access::ReadOnly);
    let error = disk.read_at(2 * MIB - 512, &mut [0; 512]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_table_of_four_billion_entries_costs_no_memory() {
    let mut images = chain();
    images[0].write(512 + 28, &u32::MAX.to_be_bytes());
    Record::header().seal(&mut images[0]);
    let storages = images.map(|image| Arc::new(CrashStorage::new(image)) as Arc<dyn Storage>);
    let refused = Chain::over(storages.into(), Access::ReadOnly).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
}

#[test]
fn two_blocks_in_one_place_can_be_read_but_nothing_is_allocated_beside_them() {
    let mut images = chain();
    let entry = get(&images[0], TABLE + 2 * 4, 4);
    images[0].write(TABLE + 3 * 4, &entry);
    let disk = over(&images, Access::ReadWrite);
    let mut byte = [0];
    disk.read_at(MIB + MIB / 2, &mut byte).unwrap();
    assert_eq!(byte, [3]);
    assert_eq!(disk.write_at(3 * MIB, &[1]).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// Tries a verb on files that it refuses, and leaves as they are.
#[track_caller]
fn refuses(
    images: &[Image],
    verb: impl FnOnce(Vec<Arc<dyn Storage>>) -> Result<(), ireko_disk::Error>,
) {
    let files: Vec<_> =
        images.iter().map(|image| Arc::new(CrashStorage::new(image.clone()))).collect();
    let error = verb(files.iter().map(|file| file.clone() as _).collect()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    for (file, image) in files.iter().zip(images) {
        assert!(bytes_of(&file.image()) == bytes_of(image), "changed all the same");
    }
}

#[test]
fn nothing_is_merged_into_a_parent_whose_blocks_overlap() {
    let mut images = chain();
    // The child hides the parent's block 2, and of block 0 a part.
    let entry = u32::from_be_bytes(get(&images[1], TABLE_OF_BASE, 4).try_into().unwrap());
    images[1].write(TABLE_OF_BASE + 2 * 4, &(entry + 1).to_be_bytes());
    let length = images[1].length();
    images[1].set_length(length + 4096);
    let footer = get(&images[1], length - 512, 512);
    images[1].write(length + 4096 - 512, &footer);
    over(&images, Access::ReadOnly).read_at(0, &mut [0; 512]).unwrap();
    refuses(&images, |files| storages_into_parent(files, &()));
}

#[test]
fn a_disk_whose_last_block_lies_over_another_keeps_its_size() {
    let mut image = [formatted(&dynamic(4 * MIB + 4096, 512 << 10))];
    changed(&mut image, |disk| disk.write_at(0, &[1; 9000]).unwrap());
    let entry = get(&image[0], TABLE_OF_BASE, 4);
    image[0].write(TABLE_OF_BASE + 8 * 4, &entry);
    for size in [5 * MIB, 4 * MIB + 2048] {
        let options = ResizeOptions { allow_loss: true };
        refuses(&image, |files| resize_storage(&files, size, &options, &()));
    }
}

#[test]
fn a_fixed_disk_is_refused_when_its_footer_lies_within_it() {
    let mut image = [formatted(&fixed(3 * MIB))];
    image[0].write(3 * MIB + 48, &(3 * MIB + 512).to_be_bytes());
    Record::footer(3 * MIB).seal(&mut image[0]);
    refuses(&image, |files| Chain::over(files, Access::ReadOnly).map(drop));
}

#[test]
fn a_header_that_the_footer_is_part_of_is_refused() {
    let mut image = [formatted(&dynamic(4 * MIB, 512 << 10))];
    changed(&mut image, |disk| disk.write_at(0, &[1; 512]).unwrap());
    let end = image[0].length() - 512;
    let first_half = get(&image[0], 512, 512);
    image[0].write(end - 512, &first_half);
    image[0].write(end + 16, &(end - 512).to_be_bytes());
    Record::footer(end).seal(&mut image[0]);
    Record { at: end - 512, ..Record::header() }.seal(&mut image[0]);
    refuses(&image, |files| Chain::over(files, Access::ReadOnly).map(drop));
}

#[test]
fn a_table_that_lies_over_the_header_can_be_read_but_not_written() {
    let mut image = [formatted(&dynamic(4 * MIB, 512 << 10))];
    image[0].write(512 + 16, &512u64.to_be_bytes());
    Record::header().seal(&mut image[0]);
    // No block: eight bytes of ones.
    over(&image, Access::ReadOnly).read_at(MIB, &mut [0; 512]).unwrap();
    refuses(&image, |files| Chain::over(files, Access::ReadWrite).map(drop));
}

#[test]
fn a_wrong_checksum_is_refused_unless_asked_to_be_ignored() {
    let folder = crate::support::folder();
    let path = folder.path().join("disk.vhd");
    let mut image = [formatted(&dynamic(4 * MIB, 512 << 10))];
    changed(&mut image, |disk| disk.write_at(1000, &[9; 1000]).unwrap());
    let end = image[0].length() - 512;
    // The creator, in both footers, and one of the header's reserved bytes.
    for at in [28, end + 28, 512 + 800] {
        image[0].write(at, b"x");
    }
    std::fs::write(&path, bytes_of(&image[0])).unwrap();
    let paths = [path];
    for access in [Access::ReadOnly, Access::ReadWrite] {
        assert_eq!(Chain::open(&paths, access).err().unwrap().kind(), ErrorKind::Corrupt);
    }
    let disk = Chain::open_ignoring_checksums(&paths).unwrap();
    let mut byte = [0];
    disk.read_at(1999, &mut byte).unwrap();
    assert_eq!(byte, [9]);
    assert_eq!(disk.write_at(0, &[1]).unwrap_err().kind(), ErrorKind::ReadOnly);
}
