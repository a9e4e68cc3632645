//! Files to be damaged, and what is said of them.

use std::sync::Arc;

pub use ireko_disk::check::FindingKind as Kind;
pub use ireko_disk::check::Severity::{self, Error, Note, Warning};
use ireko_disk::check::{Report, check_storage};
use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk, Storage};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Damage, Image};

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1 << 20;
/// Where our files have what.
pub const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
pub const TABLES: [u64; 2] = [192 * KIB, 256 * KIB];
pub const LOG: u64 = MIB;
pub const METADATA: u64 = 5 * MIB;
pub const ITEMS: u64 = METADATA + 64 * KIB;
pub const LOCATOR: u64 = METADATA + 68 * KIB;
pub const BAT: u64 = 6 * MIB;
/// The bitmap entry of a disk with 1 MiB blocks and 512-byte sectors.
pub const BITMAP_SLOT: u64 = 4096;

pub fn storage(image: &Image) -> Arc<dyn Storage> {
    Arc::new(CrashStorage::new(image.clone()))
}

pub fn check_image(image: &Image) -> Report {
    check_storage(&storage(image)).unwrap()
}

/// A base of eight blocks, five of them written.
pub fn base() -> Image {
    let storage = Arc::new(CrashStorage::default());
    let options = CreateOptions { block_size: 1 << 20, ..CreateOptions::new(8 * MIB) };
    vhdx::format(&*storage, &options).unwrap();
    let disk = Chain::over(vec![storage.clone()], Access::ReadWrite).unwrap();
    disk.write_at(0, &vec![b'B'; 5 * MIB as usize]).unwrap();
    disk.close().unwrap();
    storage.image()
}

pub fn new_child(base: &Image) -> Image {
    let identity = Chain::over(vec![storage(base)], Access::ReadOnly).unwrap().identity().unwrap();
    let leaf = CrashStorage::default();
    let options = ChildOptions { block_size: 1 << 20, ..Default::default() };
    vhdx::format_child(&leaf, &identity, r".\base.vhdx", &options).unwrap();
    leaf.image()
}

/// A child of it: block 0 partial, 1 full, 2 zero, 3 unmapped, 4 partial; closed, or with its log in use.
pub fn child(base: &Image, closed: bool) -> Image {
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

pub fn bytes(image: &Image, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    image.read(at, &mut bytes).unwrap();
    bytes
}

pub fn number(image: &Image, at: u64) -> u64 {
    u64::from_le_bytes(bytes(image, at, 8).try_into().unwrap())
}

pub fn entry(image: &Image, slot: u64) -> u64 {
    number(image, BAT + slot * 8)
}

pub fn set_entry(image: &mut Image, slot: u64, entry: u64) {
    image.write(BAT + slot * 8, &entry.to_le_bytes());
}

/// Makes the checksum of a record right again.
pub fn seal(image: &mut Image, at: u64, length: usize) {
    image.write(at + 4, &[0; 4]);
    let crc = crc32c::crc32c(&bytes(image, at, length));
    image.write(at + 4, &crc.to_le_bytes());
}

/// Changes both region tables alike.
pub fn edit_tables(image: &mut Image, at: u64, field: &[u8]) {
    for table in TABLES {
        image.write(table + at, field);
        seal(image, table, 64 * 1024);
    }
}

/// The current header's place.
pub fn current(image: &Image) -> u64 {
    let newer = number(image, HEADERS[1] + 8) > number(image, HEADERS[0] + 8);
    HEADERS[usize::from(newer)]
}

pub fn edit_header(image: &mut Image, at: u64, field: &[u8]) {
    let header = current(image);
    image.write(header + at, field);
    seal(image, header, 4096);
}

/// Offset of a table entry of the metadata, by its number.
pub fn item(index: u64) -> u64 {
    METADATA + 32 * (index + 1)
}

pub fn kinds(report: &Report) -> Vec<(Kind, Severity)> {
    report.findings.iter().map(|finding| (finding.what, finding.severity)).collect()
}

/// A sound report means that the disk can be read and written; a disk that does not open has an error in its report.
#[track_caller]
pub fn agrees_with_use(report: &Report, layers: &[Image]) {
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
pub fn finds(layers: &[Image], edit: impl FnOnce(&mut Image), expected: &[(Kind, Severity)]) {
    let mut layers = layers.to_vec();
    edit(&mut layers[0]);
    let report = check_image(&layers[0]);
    let mut found = kinds(&report);
    found.retain(|kind| *kind != (Kind::Leaked, Note));
    assert_eq!(found, expected, "{:#?}", report.findings);
    agrees_with_use(&report, &layers);
}

#[track_caller]
pub fn finds_in_base(edit: impl FnOnce(&mut Image), expected: &[(Kind, Severity)]) {
    finds(&[base()], edit, expected);
}

#[track_caller]
pub fn finds_in_child(edit: impl FnOnce(&mut Image), expected: &[(Kind, Severity)]) {
    let base = base();
    finds(&[child(&base, true), base], edit, expected);
}

#[track_caller]
pub fn finds_in_dirty_child(edit: impl FnOnce(&mut Image), expected: &[(Kind, Severity)]) {
    let base = base();
    finds(&[child(&base, false), base], edit, expected);
}
