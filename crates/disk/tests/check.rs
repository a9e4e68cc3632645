//! Each fault is found for what it is, and sound files are clean.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ireko_disk::check::{FindingKind, Report, Severity, check, check_chain, check_storage};
use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk, ErrorKind, Storage};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Damage, Image};

use FindingKind as Kind;
use Severity::{Error, Note, Warning};

const KIB: u64 = 1024;
const MIB: u64 = 1 << 20;
/// Where our files have what.
const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
const TABLES: [u64; 2] = [192 * KIB, 256 * KIB];
const LOG: u64 = MIB;
const METADATA: u64 = 5 * MIB;
const ITEMS: u64 = METADATA + 64 * KIB;
const LOCATOR: u64 = METADATA + 68 * KIB;
const BAT: u64 = 6 * MIB;
/// The bitmap entry of a disk with 1 MiB blocks and 512-byte sectors.
const BITMAP_SLOT: u64 = 4096;

fn storage(image: &Image) -> Arc<dyn Storage> {
    Arc::new(CrashStorage::new(image.clone()))
}

fn check_image(image: &Image) -> Report {
    check_storage(&storage(image)).unwrap()
}

/// A base of eight blocks, five of them written.
fn base() -> Image {
    let storage = Arc::new(CrashStorage::default());
    let options = CreateOptions { block_size: 1 << 20, ..CreateOptions::new(8 * MIB) };
    vhdx::format(&*storage, &options).unwrap();
    let disk = Chain::over(vec![storage.clone()], Access::ReadWrite).unwrap();
    disk.write_at(0, &vec![b'B'; 5 * MIB as usize]).unwrap();
    disk.close().unwrap();
    storage.image()
}

fn new_child(base: &Image) -> Image {
    let identity = Chain::over(vec![storage(base)], Access::ReadOnly).unwrap().identity().unwrap();
    let leaf = CrashStorage::default();
    let options = ChildOptions { block_size: 1 << 20, ..Default::default() };
    vhdx::format_child(&leaf, &identity, r".\base.vhdx", &options).unwrap();
    leaf.image()
}

/// A child of it: block 0 partial, 1 full, 2 zero, 3 unmapped, 4 partial; closed, or with its log in use.
fn child(base: &Image, closed: bool) -> Image {
    let leaf = Arc::new(CrashStorage::new(new_child(base)));
    let disk = Chain::over(vec![leaf.clone(), storage(base)], Access::ReadWrite).unwrap();
    disk.write_at(4096, &[b'C'; 512]).unwrap();
    disk.write_at(MIB, &vec![b'C'; MIB as usize]).unwrap();
    disk.write_zeroes(2 * MIB, MIB).unwrap();
    disk.discard(3 * MIB, MIB).unwrap();
    disk.write_at(4 * MIB, &[b'C'; 4096]).unwrap();
    if closed {
        disk.close().unwrap();
        return leaf.image();
    }
    disk.flush().unwrap();
    let trace = leaf.trace();
    trace.cut(trace.positions(), Damage::LosesAll, &mut Random::new(1))
}

fn bytes(image: &Image, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    image.read(at, &mut bytes).unwrap();
    bytes
}

fn number(image: &Image, at: u64) -> u64 {
    u64::from_le_bytes(bytes(image, at, 8).try_into().unwrap())
}

fn entry(image: &Image, slot: u64) -> u64 {
    number(image, BAT + slot * 8)
}

fn set_entry(image: &mut Image, slot: u64, entry: u64) {
    image.write(BAT + slot * 8, &entry.to_le_bytes());
}

/// Makes the checksum of a record right again.
fn seal(image: &mut Image, at: u64, length: usize) {
    image.write(at + 4, &[0; 4]);
    let crc = crc32c::crc32c(&bytes(image, at, length));
    image.write(at + 4, &crc.to_le_bytes());
}

/// Changes both region tables alike.
fn edit_tables(image: &mut Image, at: u64, field: &[u8]) {
    for table in TABLES {
        image.write(table + at, field);
        seal(image, table, 64 * 1024);
    }
}

/// The current header's place.
fn current(image: &Image) -> u64 {
    let newer = number(image, HEADERS[1] + 8) > number(image, HEADERS[0] + 8);
    HEADERS[usize::from(newer)]
}

fn edit_header(image: &mut Image, at: u64, field: &[u8]) {
    let header = current(image);
    image.write(header + at, field);
    seal(image, header, 4096);
}

/// Offset of a table entry of the metadata, by its number.
fn item(index: u64) -> u64 {
    METADATA + 32 * (index + 1)
}

fn kinds(report: &Report) -> Vec<(Kind, Severity)> {
    report.findings.iter().map(|finding| (finding.what, finding.severity)).collect()
}

/// A sound report means that the disk can be read and written; a disk that does not open has an error in its report.
#[track_caller]
fn agrees_with_use(report: &Report, layers: &[Image]) {
    let open = |access| Chain::over(layers.iter().map(storage).collect(), access);
    let closed = report.findings.iter().any(|f| f.message.contains("does not open"));
    assert_eq!(open(Access::ReadOnly).is_err(), closed, "{:#?}", report.findings);
    if !report.is_sound() {
        return;
    }
    let disk = open(Access::ReadOnly).unwrap();
    let mut bytes = vec![0; disk.geometry().virtual_size as usize];
    disk.read_at(0, &mut bytes).unwrap();
    let disk = open(Access::ReadWrite).unwrap();
    for at in (0..bytes.len()).step_by(MIB as usize) {
        disk.write_at(at as u64 + 512, &[b'W'; 1000]).unwrap();
    }
    disk.close().unwrap();
}

/// Checks that an edit of a sound file is found for what it is. Space it sets free may be told too.
#[track_caller]
fn finds(layers: &[Image], edit: impl FnOnce(&mut Image), expected: &[(Kind, Severity)]) {
    let mut layers = layers.to_vec();
    edit(&mut layers[0]);
    let report = check_image(&layers[0]);
    let mut found = kinds(&report);
    found.retain(|kind| *kind != (Kind::Leaked, Note));
    assert_eq!(found, expected, "{:#?}", report.findings);
    agrees_with_use(&report, &layers);
}

#[track_caller]
fn finds_in_base(edit: impl FnOnce(&mut Image), expected: &[(Kind, Severity)]) {
    finds(&[base()], edit, expected);
}

#[track_caller]
fn finds_in_child(edit: impl FnOnce(&mut Image), expected: &[(Kind, Severity)]) {
    let base = base();
    finds(&[child(&base, true), base], edit, expected);
}

#[track_caller]
fn finds_in_dirty_child(edit: impl FnOnce(&mut Image), expected: &[(Kind, Severity)]) {
    let base = base();
    finds(&[child(&base, false), base], edit, expected);
}

#[test]
fn sound_files_are_clean() {
    finds_in_base(|_| (), &[]);
    finds_in_child(|_| (), &[]);
    finds_in_dirty_child(|_| (), &[(Kind::LogInUse, Note)]);
    let base = base();
    finds(&[new_child(&base), base], |_| (), &[]);
}

#[test]
fn headers() {
    for slot in 0..2 {
        let other = HEADERS[1 - slot];
        finds_in_base(
            |image| {
                let page = bytes(image, current(image), 4096);
                image.write(other, &page);
                seal(image, other, 4096);
                image.write(HEADERS[slot] + 100, &[1]);
            },
            &[(Kind::HeaderDamaged, Warning)],
        );
    }
    finds_in_base(
        |image| HEADERS.iter().for_each(|at| image.write(*at, b"deah")),
        &[(Kind::HeaderDamaged, Error), (Kind::HeaderDamaged, Error)],
    );
    let twin = |image: &mut Image| {
        let page = bytes(image, HEADERS[0], 4096);
        image.write(HEADERS[1], &page);
    };
    finds_in_base(twin, &[(Kind::HeadersIdentical, Warning)]);
    finds_in_base(
        |image| {
            twin(image);
            image.write(HEADERS[1] + 20, &[7]);
            seal(image, HEADERS[1], 4096);
        },
        &[(Kind::HeadersConflict, Error)],
    );
    finds_in_base(|image| edit_header(image, 66, &[2]), &[(Kind::Unsupported, Error)]);
    finds_in_base(
        |image| edit_header(image, 8, &u64::MAX.to_le_bytes()),
        &[(Kind::SequenceExhausted, Error)],
    );
    finds_in_base(|image| image.set_length(HEADERS[1] + 10), &[(Kind::Truncated, Error)]);
    finds_in_base(|image| image.write(0, b"vhdxfilf"), &[(Kind::NotADisk, Error)]);
    finds_in_base(|image| image.set_length(0), &[(Kind::NotADisk, Error)]);
}

#[test]
fn the_log() {
    for (field, value) in [(72, &[1][..]), (72, &[0; 8]), (68, &[1])] {
        finds_in_base(|image| edit_header(image, field, value), &[(Kind::LogMisplaced, Error)]);
    }
    finds_in_base(|image| edit_header(image, 68, &[0; 4]), &[(Kind::LogMisplaced, Error)]);
    finds_in_base(
        |image| edit_header(image, 72, &(1u64 << 40).to_le_bytes()),
        &[(Kind::LogMisplaced, Error)],
    );
    finds_in_base(|image| edit_header(image, 48, &[1; 16]), &[(Kind::LogDamaged, Error)]);
    finds_in_dirty_child(|image| image.write(LOG + 5000, &[1]), &[(Kind::LogDamaged, Error)]);
    finds_in_dirty_child(
        |image| {
            edit_header(image, 64, &[1]);
        },
        &[(Kind::Unsupported, Error)],
    );
    finds_in_dirty_child(
        |image| image.set_length(image.length() - MIB),
        &[(Kind::LogDamaged, Error)],
    );
}

#[test]
fn region_tables() {
    let damaged = |copy: usize| move |image: &mut Image| image.write(TABLES[copy] + 20, &[0xEE]);
    finds_in_base(damaged(0), &[(Kind::RegionTableDamaged, Warning)]);
    finds_in_base(damaged(1), &[(Kind::RegionTableDamaged, Warning)]);
    finds_in_base(
        |image| (0..2).for_each(|copy| damaged(copy)(image)),
        &[(Kind::RegionTableDamaged, Error), (Kind::RegionTableDamaged, Error)],
    );
    finds_in_base(
        |image| {
            image.write(TABLES[1] + 5000, &[1]);
            seal(image, TABLES[1], 64 * 1024);
        },
        &[(Kind::RegionTablesDiffer, Warning)],
    );
    let too_many = 2048u32.to_le_bytes();
    finds_in_base(|i| edit_tables(i, 8, &too_many), &[(Kind::RegionTableDamaged, Error)]);
    finds_in_base(|i| edit_tables(i, 8, &[1]), &[(Kind::RegionMissing, Error)]);
    // The second entry, the metadata's, at 48: id, offset at 64, length at 72, flags at 76.
    finds_in_base(
        |i| edit_tables(i, 48, &[9; 16]),
        &[(Kind::Unsupported, Error), (Kind::RegionMissing, Error)],
    );
    let bat_id = bytes(&base(), TABLES[0] + 16, 16);
    finds_in_base(
        |i| edit_tables(i, 48, &bat_id),
        &[(Kind::RegionRepeated, Error), (Kind::RegionMissing, Error)],
    );
    for at in [0, 4096, 1 << 40, u64::MAX - MIB + 1] {
        let at = at.to_le_bytes();
        finds_in_base(|i| edit_tables(i, 64, &at), &[(Kind::RegionMisplaced, Error)]);
    }
    finds_in_base(|i| edit_tables(i, 72, &[0; 4]), &[(Kind::RegionMisplaced, Error)]);
    // A third, optional region: harmless where it is alone, even if nobody knows it.
    let third = |at: u64, flags: u8| {
        let mut entry = [5; 32];
        entry[16..24].copy_from_slice(&at.to_le_bytes());
        entry[24..].copy_from_slice(&[0, 0, 0x10, 0, flags, 0, 0, 0]);
        move |image: &mut Image| {
            image.set_length(40 * MIB);
            edit_tables(image, 8, &[3]);
            edit_tables(image, 80, &entry);
        }
    };
    finds_in_base(third(39 * MIB, 0), &[]);
    finds_in_base(third(39 * MIB, 1), &[(Kind::Unsupported, Error)]);
    finds_in_base(third(LOG, 0), &[(Kind::RegionsOverlap, Error)]);
}

#[test]
fn metadata() {
    let put = |at: u64, field: &'static [u8]| move |image: &mut Image| image.write(at, field);
    let [parameters, size, page83, sector] = [0, 1, 2, 3].map(item);
    finds_in_base(put(METADATA, b"M"), &[(Kind::MetadataDamaged, Error)]);
    finds_in_base(put(METADATA + 10, &[0, 8]), &[(Kind::MetadataDamaged, Error)]);
    finds_in_base(put(size + 16, &[0; 4]), &[(Kind::ItemMisplaced, Error)]);
    finds_in_base(put(size + 20, &[0xFF; 4]), &[(Kind::ItemMisplaced, Error)]);
    finds_in_base(put(size + 16, &[0; 8]), &[(Kind::ItemMissing, Error)]);
    finds_in_base(put(size + 20, &[7]), &[(Kind::ItemMissing, Error)]);
    finds_in_base(put(METADATA + 10, &[4]), &[(Kind::ItemMissing, Error)]);
    finds_in_base(put(page83, &[9; 16]), &[(Kind::Unsupported, Error), (Kind::ItemMissing, Error)]);
    // Not required, and so nothing but unknown.
    finds_in_base(
        |image| {
            image.write(METADATA + 10, &[6]);
            image.write(item(5), &[9; 16]);
            image.write(item(5) + 16, &[0; 16]);
        },
        &[],
    );
    let page83_id = bytes(&base(), page83, 16);
    finds_in_base(
        |image| image.write(sector, &page83_id),
        &[(Kind::ItemRepeated, Error), (Kind::ItemMissing, Error)],
    );
    finds_in_base(put(sector + 16, &[0x24]), &[(Kind::ItemsOverlap, Error)]);
    finds_in_base(put(sector + 24, &[4]), &[(Kind::ItemFlags, Warning)]);
    finds_in_base(
        |image| {
            image.write(METADATA + 10, &[6]);
            image.write(item(5), &0x71CC85F0u32.to_le_bytes());
            image.write(item(5) + 4, &[0x69, 0x1B, 0x28, 0x4E]);
            image.write(item(5) + 8, &[0x95, 0x58, 0xC3, 0xBF, 0x83, 0xAE, 0x75, 0xD3]);
            image.write(item(5) + 24, &[4]);
        },
        &[(Kind::Unfinished, Error)],
    );
    finds_in_base(
        |image| {
            image.write(METADATA + 10, &1100u16.to_le_bytes());
            for n in 0..1095u16 {
                image.write(item(5 + u64::from(n)), &n.to_le_bytes());
                image.write(item(5 + u64::from(n)) + 24, &[1]);
            }
        },
        &[(Kind::MetadataDamaged, Warning)],
    );
    // The items: block size, flags, disk size, page 83, logical and physical sector.
    assert_eq!(bytes(&base(), ITEMS, 8), [0, 0, 16, 0, 0, 0, 0, 0]);
    finds_in_base(put(ITEMS, &[1]), &[(Kind::ItemValue, Error)]);
    finds_in_base(put(ITEMS + 4, &[0x10]), &[(Kind::ItemFlags, Warning)]);
    finds_in_base(put(ITEMS + 8, &[1]), &[(Kind::ItemValue, Error)]);
    finds_in_base(put(ITEMS + 8, &[0; 8]), &[(Kind::ItemValue, Error)]);
    finds_in_base(
        put(ITEMS + 32, &[1, 0, 0, 0, 1]),
        &[(Kind::ItemValue, Error), (Kind::ItemValue, Error)],
    );
    finds_in_base(put(parameters + 24, &[0]), &[(Kind::ItemFlags, Warning)]);
    finds_in_base(
        |image| image.set_length(METADATA + 100),
        &[
            (Kind::RegionMisplaced, Error),
            (Kind::RegionMisplaced, Error),
            (Kind::FileLength, Warning),
        ],
    );
}

#[test]
fn parent_locators() {
    // The child's mark; without it the bitmap and the partial blocks make no sense either.
    finds(
        &[child(&base(), true)],
        |image| image.write(ITEMS + 4, &[0]),
        &[
            (Kind::LocatorUnused, Warning),
            (Kind::BlockState, Error),
            (Kind::BlockState, Error),
            (Kind::BitmapUnexpected, Warning),
        ],
    );
    finds_in_child(|image| image.write(LOCATOR, &[0]), &[(Kind::Unsupported, Error)]);
    finds_in_child(|image| image.write(LOCATOR + 20, &[0; 4]), &[(Kind::LocatorDamaged, Error)]);
    finds_in_child(|image| image.write(METADATA + 10, &[5]), &[(Kind::ItemMissing, Error)]);
    finds_in_child(
        |image| {
            // "relative_path" becomes "relative_pat_", a key nobody knows.
            let item = bytes(image, LOCATOR, 400);
            let key: Vec<u8> = "relative_path".encode_utf16().flat_map(u16::to_le_bytes).collect();
            let at = item.windows(key.len()).position(|window| window == key).unwrap();
            image.write(LOCATOR + (at + key.len()) as u64 - 2, b"_");
        },
        &[(Kind::LocatorDamaged, Warning)],
    );
    finds_in_base(|image| image.write(ITEMS + 4, &[2]), &[(Kind::ItemMissing, Error)]);
}

#[test]
fn block_states() {
    let with = |slot: u64, low: u64| {
        move |image: &mut Image| {
            let kept = entry(image, slot) & !7;
            set_entry(image, slot, kept | low);
        }
    };
    for legal in [0, 1, 2, 3] {
        finds_in_base(with(0, legal), &[]);
        finds_in_child(with(0, legal), &[]);
    }
    finds_in_base(with(0, 4), &[(Kind::BlockState, Error)]);
    finds_in_base(with(0, 5), &[(Kind::BlockState, Warning)]);
    finds_in_base(with(0, 7), &[(Kind::BlockState, Error)]);
    finds_in_base(with(0, 6 | 8), &[(Kind::ReservedBits, Warning)]);
    finds_in_base(with(7, 1 << 19), &[(Kind::ReservedBits, Warning)]);
    finds_in_child(with(0, 4), &[(Kind::BlockState, Error)]);
    finds_in_child(with(0, 6), &[]);
    finds_in_child(with(BITMAP_SLOT, 7), &[(Kind::BlockState, Warning)]);
    finds_in_child(with(BITMAP_SLOT, 3), &[(Kind::BlockState, Error)]);
    finds_in_child(with(BITMAP_SLOT, 6 | 1 << 10), &[(Kind::ReservedBits, Warning)]);
    finds_in_child(
        |image| set_entry(image, BITMAP_SLOT, 0),
        &[(Kind::BitmapMissing, Error), (Kind::BitmapMissing, Error)],
    );
}

#[test]
fn block_places() {
    let moved = |slot: u64, to: u64| {
        move |image: &mut Image| {
            let state = entry(image, slot) & 7;
            set_entry(image, slot, to | state);
        }
    };
    for place in [0, LOG, METADATA, BAT, 1 << 40, !(MIB - 1)] {
        finds_in_base(moved(0, place), &[(Kind::BlockMisplaced, Error)]);
        finds_in_child(moved(0, place), &[(Kind::BlockMisplaced, Error)]);
        finds_in_child(moved(BITMAP_SLOT, place), &[(Kind::BlockMisplaced, Error)]);
    }
    let taken = entry(&base(), 3) & !7;
    finds_in_base(moved(0, taken), &[(Kind::BlocksOverlap, Error)]);
    let base = base();
    let layers = [child(&base, true), base];
    let taken = entry(&layers[0], BITMAP_SLOT) & !7;
    finds(&layers, moved(1, taken), &[(Kind::BlocksOverlap, Error)]);
    finds_in_base(
        |image| image.set_length(image.length() - MIB / 2),
        &[(Kind::BlockCutOff, Error), (Kind::FileLength, Warning)],
    );
    finds_in_base(|image| image.set_length(image.length() - MIB), &[(Kind::BlockMisplaced, Error)]);
    finds_in_base(|image| image.set_length(image.length() + 1), &[(Kind::FileLength, Warning)]);
    let too_long = (128 << 40) + 1;
    finds_in_base(|image| image.set_length(too_long), &[(Kind::FileLength, Error)]);
}

#[test]
fn what_lies_behind_the_table_s_end() {
    for slot in [8, 4000, 5000, BITMAP_SLOT * 2 + 2] {
        finds_in_base(|image| set_entry(image, slot, 5), &[(Kind::EntryPastEnd, Warning)]);
        finds_in_base(
            |image| {
                image.set_length(40 * MIB);
                set_entry(image, slot, (39 * MIB) | 6);
            },
            &[(Kind::BlockPastEnd, Warning)],
        );
        finds_in_child(|image| set_entry(image, slot, 4), &[(Kind::EntryPastEnd, Warning)]);
        // The place of a block that is in use: what a disk of this size reads and writes is not affected.
        finds_in_child(
            |image| {
                let taken = entry(image, 1);
                set_entry(image, slot, taken);
            },
            &[(Kind::EntryPastEnd, Warning)],
        );
    }
    finds_in_base(
        |i| set_entry(i, BITMAP_SLOT, (7 * MIB) | 6),
        &[(Kind::BitmapUnexpected, Warning)],
    );
    finds_in_base(
        |image| {
            image.write(ITEMS + 8, &(4u64 << 40).to_le_bytes());
        },
        &[(Kind::TableTooSmall, Error)],
    );
}

#[test]
fn fixed_disks_have_all_their_blocks() {
    let fixed = |image: &mut Image| image.write(ITEMS + 4, &[1]);
    finds_in_base(fixed, &[(Kind::NotAllocated, Warning)]);
    finds_in_base(
        |image| {
            fixed(image);
            image.set_length(40 * MIB);
            (5..8).for_each(|slot| set_entry(image, slot, ((30 + slot) * MIB) | 6));
        },
        &[],
    );
}

#[test]
fn bits_of_partial_blocks() {
    let clear = |image: &mut Image, block: u64| {
        let bitmap = entry(image, BITMAP_SLOT) & !7;
        image.write(bitmap + block * 256, &[0; 256]);
    };
    finds_in_child(|image| clear(image, 0), &[(Kind::BitmapBits, Note)]);
    // Full blocks' bits may be anything.
    finds_in_child(|image| clear(image, 1), &[]);

    let base = Arc::new(CrashStorage::default());
    let options = CreateOptions { block_size: 1 << 20, ..CreateOptions::new(8 * MIB + 1536) };
    vhdx::format(&*base, &options).unwrap();
    let base = base.image();
    let leaf = Arc::new(CrashStorage::new(new_child(&base)));
    let disk = Chain::over(vec![leaf.clone(), storage(&base)], Access::ReadWrite).unwrap();
    disk.write_at(8 * MIB + 512, &[1; 512]).unwrap();
    disk.close().unwrap();
    let layers = [leaf.image(), base];
    finds(&layers, |_| (), &[]);
    let last_bits = |bits: u8| {
        move |image: &mut Image| {
            let bitmap = entry(image, BITMAP_SLOT) & !7;
            image.write(bitmap + 8 * 256, &[bits]);
        }
    };
    finds(&layers, last_bits(0b111), &[]);
    finds(&layers, last_bits(0b1010), &[(Kind::BitmapBits, Warning)]);
}

/// Files of a chain of three, leaf first.
fn three(folder: &Path) -> [PathBuf; 3] {
    let paths = ["leaf.vhdx", "mid.vhdx", "base.vhdx"].map(|name| folder.join(name));
    let [leaf, mid, base] = &paths;
    vhdx::create(base, &CreateOptions::new(64 * MIB)).unwrap();
    vhdx::create_child(mid, base, r".\base.vhdx", &ChildOptions::default()).unwrap();
    vhdx::create_child(leaf, mid, r".\mid.vhdx", &ChildOptions::default()).unwrap();
    paths
}

#[track_caller]
fn chain_finds(paths: &[&Path], expected: &[&[Kind]]) {
    let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
    let reports = check_chain(&paths).unwrap();
    assert_eq!(
        reports.iter().map(|(path, _)| path).collect::<Vec<_>>(),
        paths.iter().collect::<Vec<_>>()
    );
    let found: Vec<Vec<Kind>> = reports
        .iter()
        .map(|(_, report)| report.findings.iter().map(|finding| finding.what).collect())
        .collect();
    assert_eq!(found, expected, "{reports:#?}");
    let sound = reports.iter().all(|(_, report)| report.is_sound());
    assert_eq!(Chain::open(&paths, Access::ReadOnly).is_ok(), sound);
}

#[test]
fn links_between_files() {
    let folder = tempfile::tempdir().unwrap();
    let [leaf, mid, base] = &three(folder.path());
    let [other_leaf, small, wide] = ["o", "s", "w"].map(|name| folder.path().join(name));
    let missing = folder.path().join("missing.vhdx");
    chain_finds(&[leaf, mid, base], &[&[], &[], &[]]);
    chain_finds(&[leaf, mid], &[&[], &[Kind::ParentMissing]]);
    chain_finds(&[leaf, &missing, base], &[&[], &[Kind::ParentMissing], &[]]);
    chain_finds(&[leaf, base], &[&[Kind::ParentChanged], &[]]);
    chain_finds(&[base, leaf, mid, base], &[&[Kind::ParentUnexpected], &[], &[], &[Kind::Cycle]]);
    vhdx::create(&small, &CreateOptions::new(32 * MIB)).unwrap();
    vhdx::create_child(&other_leaf, &small, r".\s", &ChildOptions::default()).unwrap();
    chain_finds(&[&other_leaf, base], &[&[Kind::ParentChanged, Kind::ParentGeometry], &[]]);
    let options = CreateOptions { logical_sector: 4096, ..CreateOptions::new(64 * MIB) };
    vhdx::create(&wide, &options).unwrap();
    chain_finds(&[mid, &wide], &[&[Kind::ParentChanged, Kind::ParentGeometry], &[]]);
    // A parent that is damaged says so itself.
    std::fs::write(&small, b"no disk").unwrap();
    chain_finds(&[&other_leaf, &small], &[&[], &[Kind::NotADisk]]);
    assert_eq!(check_chain(&[missing]).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(check_chain(&[]).unwrap(), []);
}

#[test]
fn a_parent_that_was_written_to_is_found_changed() {
    let folder = tempfile::tempdir().unwrap();
    let [leaf, mid, base] = &three(folder.path());
    Chain::open(std::slice::from_ref(base), Access::ReadWrite).unwrap().close().unwrap();
    chain_finds(&[leaf, mid, base], &[&[], &[Kind::ParentChanged], &[]]);
}

#[test]
fn a_file_somebody_writes_to_is_not_checked() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three(folder.path());
    let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
    assert_eq!(check(&paths[0]).unwrap_err().kind(), ErrorKind::InUse);
    assert_eq!(check_chain(&paths).unwrap_err().kind(), ErrorKind::InUse);
    check(&paths[1]).unwrap();
    disk.close().unwrap();
    assert_eq!(check(&paths[0]).unwrap().findings, []);
}

#[test]
fn a_check_changes_nothing_and_tells_who_has_the_space() {
    let base = base();
    let dirty = Arc::new(CrashStorage::new(child(&base, false)));
    let before = dirty.position();
    let report = check_storage(&(dirty.clone() as Arc<dyn Storage>)).unwrap();
    assert_eq!(dirty.position(), before);
    assert!(report.dirty_log && report.current_header.is_some());

    let report = check_image(&base);
    assert!(!report.dirty_log);
    // Headers, log, metadata, BAT: 7 MiB; and five blocks.
    assert_eq!((report.space.used, report.space.leaked), (12 * MIB, 0));
    let mut freed = base.clone();
    set_entry(&mut freed, 1, 0);
    set_entry(&mut freed, 2, 0);
    let report = check_image(&freed);
    assert_eq!(report.space.free, std::slice::from_ref(&(8 * MIB..10 * MIB)));
    assert_eq!((report.space.used, report.space.leaked), (10 * MIB, 2 * MIB));
    assert_eq!(kinds(&report), [(Kind::Leaked, Note)]);
}

#[test]
fn many_faults_of_one_kind_are_counted_and_not_all_listed() {
    let storage = CrashStorage::default();
    let options = CreateOptions { block_size: 1 << 20, ..CreateOptions::new(1 << 40) };
    vhdx::format(&storage, &options).unwrap();
    let mut image = storage.image();
    (0..200_000).for_each(|slot| set_entry(&mut image, slot, 4));
    let report = check_image(&image);
    // One entry in 4097 is a bitmap's.
    let bitmaps = 200_000 / 4097;
    assert_eq!(report.findings.len(), 100 + bitmaps + 1);
    let more = format!("and {} more", 200_000 - bitmaps - 100);
    let last = report.findings.last().unwrap();
    assert!(last.message.contains(&more) && last.severity == Error, "{last:?}");
}
