//! What a check finds in damaged VHD files, what a repair cures, and that no power cut in it costs anything.

use std::sync::Arc;

use ireko_disk::check::FindingKind as Kind;
use ireko_disk::check::Severity::{Error, Note, Warning};
use ireko_disk::check::{RepairOptions, Report, Severity, check_storage, repair_storage};
use ireko_disk::{Access, Chain, Disk, Storage};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Damage, Image};

use crate::support::{MIB, changed, child_of, dynamic, fixed, formatted};

const CAREFUL: RepairOptions = RepairOptions { discard_lost_blocks: false };
const BOLD: RepairOptions = RepairOptions { discard_lost_blocks: true };
const BLOCK: u32 = 512 << 10;
const SPAN: u64 = 512 + BLOCK as u64;
/// Where our files have their table.
const TABLE: u64 = 1536;
const TABLE_OF_CHILD: u64 = 16 << 10;

fn storage(image: &Image) -> Arc<dyn Storage> {
    Arc::new(CrashStorage::new(image.clone()))
}

fn check(image: &Image) -> Report {
    check_storage(&storage(image)).unwrap()
}

/// A disk of eight blocks, five of them written.
fn base() -> Image {
    let mut images = [formatted(&dynamic(4 * MIB, BLOCK))];
    changed(&mut images, |disk| disk.write_at(0, &vec![b'B'; 5 << 19]).unwrap());
    let [base] = images;
    base
}

/// A child of it with a sector in block 0, and all of block 1.
fn child() -> [Image; 2] {
    let base = base();
    let mut images = [child_of(&base, BLOCK), base];
    changed(&mut images, |disk| {
        disk.write_at(4096, &[b'C'; 512]).unwrap();
        disk.write_at(u64::from(BLOCK), &vec![b'C'; BLOCK as usize]).unwrap();
    });
    images
}

fn number(image: &Image, at: u64) -> u32 {
    let mut bytes = [0; 4];
    image.read(at, &mut bytes).unwrap();
    u32::from_be_bytes(bytes)
}

fn put(image: &mut Image, at: u64, number: u32) {
    image.write(at, &number.to_be_bytes());
}

/// Changes a field of a record and makes its checksum right again.
fn edit(image: &mut Image, record: u64, field: u64, bytes: &[u8]) {
    let (length, checksum) = if record == 512 { (1024, 36) } else { (512, 64) };
    image.write(record + field, bytes);
    put(image, record + checksum, 0);
    let mut all = vec![0; length];
    image.read(record, &mut all).unwrap();
    put(image, record + checksum, !all.iter().map(|&byte| u32::from(byte)).sum::<u32>());
}

fn edit_footers(image: &mut Image, field: u64, bytes: &[u8]) {
    for record in [0, image.length() - 512] {
        edit(image, record, field, bytes);
    }
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
    for at in (0..bytes.len()).step_by(BLOCK as usize) {
        disk.write_at(at as u64 + 512, &[b'W'; 1000]).unwrap();
    }
    disk.close().unwrap();
}

/// Checks that an edit of a sound file is found for what it is. Space it sets free may be told too.
#[track_caller]
fn finds(layers: &[Image], change: impl FnOnce(&mut Image), expected: &[(Kind, Severity)]) {
    let mut layers = layers.to_vec();
    change(&mut layers[0]);
    let report = check(&layers[0]);
    let mut found = kinds(&report);
    found.retain(|kind| *kind != (Kind::Leaked, Note));
    assert_eq!(found, expected, "{:#?}", report.findings);
    agrees_with_use(&report, &layers);
}

#[test]
fn sound_files_of_every_kind_have_no_findings() {
    let [child, base] = child();
    finds(std::slice::from_ref(&base), |_| (), &[]);
    finds(&[child.clone(), base], |_| (), &[]);
    finds(&[formatted(&fixed(3 * MIB))], |_| (), &[]);
    finds(&[formatted(&dynamic(3 * MIB, 2 << 20))], |_| (), &[]);
    let report = check(&child);
    assert_eq!((report.space.leaked, report.space.used), (0, child.length()));
}

#[test]
fn faults_of_the_footers() {
    let base = [base()];
    let end = base[0].length() - 512;
    let damaged = (Kind::FooterDamaged, Warning);
    finds(&base, |image| image.write(end, b"x"), &[damaged]);
    finds(&base, |image| image.write(100, b"x"), &[damaged]);
    finds(&base, |image| image.set_length(end), &[damaged]);
    finds(&base, |image| edit(image, 0, 24, &[1; 4]), &[(Kind::FootersDiffer, Warning)]);
    finds(
        &base,
        |image| {
            image.write(end + 30, b"x");
            image.write(30, b"x");
        },
        &[(Kind::FooterDamaged, Error)],
    );
    finds(&base, |image| edit(image, end, 12, &[0, 2]), &[(Kind::Unsupported, Error)]);
    finds(&base, |image| edit(image, end, 60, &[0, 0, 0, 5]), &[(Kind::Unsupported, Error)]);
    finds(&base, |image| edit_footers(image, 84, &[1]), &[(Kind::SavedState, Note)]);
    finds(&base, |image| edit_footers(image, 28, b"vpc "), &[(Kind::SizeInDoubt, Note)]);
    let fixed = [formatted(&fixed(3 * MIB))];
    finds(
        &fixed,
        |image| edit(image, 3 * MIB, 48, &(4 * MIB).to_be_bytes()),
        &[(Kind::Truncated, Error)],
    );
}

#[test]
fn faults_of_the_header() {
    let base = [base()];
    let child = child();
    finds(&base, |image| image.write(600, b"x"), &[(Kind::HeaderDamaged, Error)]);
    finds(&base, |image| edit(image, 512, 24, &[0, 2]), &[(Kind::Unsupported, Error)]);
    let entries = |count: u32| move |image: &mut Image| edit(image, 512, 28, &count.to_be_bytes());
    finds(&base, entries(7), &[(Kind::TableTooSmall, Error)]);
    finds(&base, entries(u32::MAX), &[(Kind::Truncated, Error)]);
    finds(&base, entries(20), &[(Kind::TableTooLarge, Note)]);
    let table = |at: u64| move |image: &mut Image| edit(image, 512, 16, &at.to_be_bytes());
    let report = {
        let mut image = base[0].clone();
        table(512)(&mut image);
        check(&image)
    };
    assert!(report.has(Kind::TableMisplaced) && !report.is_sound());
    finds(&child, |image| edit(image, 512, 592, &[0xFF; 8]), &[(Kind::LocatorDamaged, Warning)]);
    finds(&child, |image| edit(image, 512, 64, &[0; 704]), &[(Kind::LocatorDamaged, Warning)]);
}

#[test]
fn faults_of_the_table() {
    let base = [base()];
    let child = child();
    let end = base[0].length() - 512;
    let misplaced = (Kind::BlockMisplaced, Error);
    for sector in [0, 1, 3, (end / 512) as u32, 0xFFFF_FFFE] {
        finds(&base, |image| put(image, TABLE + 4, sector), &[misplaced]);
    }
    let cut = ((end - SPAN) / 512) as u32 + 1;
    finds(&base, |image| put(image, TABLE + 16, cut), &[(Kind::BlockCutOff, Error)]);
    for nearby in [0, 1, 1023] {
        let other = number(&base[0], TABLE) + nearby;
        let overlap = (Kind::BlocksOverlap, Error);
        let expected: &[_] = if nearby == 0 { &[overlap] } else { &[overlap, overlap] };
        finds(&base, |image| put(image, TABLE + 28, other), &expected[..1]);
    }
    finds(&child, |image| put(image, TABLE_OF_CHILD, 3), &[misplaced]);
    let bits = u64::from(number(&child[0], TABLE_OF_CHILD)) * 512;
    finds(&child, |image| image.write(bits, &[0; 512]), &[(Kind::BitmapBits, Note)]);
    let twenty = 20u32.to_be_bytes();
    let past_end = |sector: u32| {
        move |image: &mut Image| {
            edit(image, 512, 28, &twenty);
            put(image, TABLE + 9 * 4, sector);
        }
    };
    let larger = (Kind::TableTooLarge, Note);
    finds(&base, past_end(0), &[larger, (Kind::EntryPastEnd, Warning)]);
    let last = number(&base[0], TABLE + 16);
    finds(
        &base,
        |image| {
            past_end(last)(image);
            put(image, TABLE + 16, u32::MAX);
        },
        &[larger, (Kind::BlockPastEnd, Warning)],
    );
}

#[test]
fn space_that_belongs_to_nothing_is_told_where_it_is() {
    let mut image = base();
    let at = u64::from(number(&image, TABLE + 4)) * 512;
    put(&mut image, TABLE + 4, u32::MAX);
    let report = check(&image);
    assert_eq!(kinds(&report), [(Kind::Leaked, Note)]);
    let [hole] = &report.space.free[..] else { panic!("{:?}", report.space) };
    assert!(hole.start <= at && at + SPAN <= hole.end && hole.end - hole.start < SPAN + 2 * 4096);
    assert_eq!(report.space.used + report.space.leaked, image.length());
}

/// What the disk reads, in pieces of 64 KiB; `None` where it cannot be read.
fn contents(layers: &[Image]) -> Vec<Option<Vec<u8>>> {
    let disk = Chain::over(layers.iter().map(storage).collect(), Access::ReadOnly).unwrap();
    (0..disk.geometry().virtual_size)
        .step_by(64 << 10)
        .map(|at| {
            let mut bytes = vec![0; 64 << 10];
            disk.read_at(at, &mut bytes).ok().map(|()| bytes)
        })
        .collect()
}

/// Checks that a repair makes a damaged file clean, and that the disk reads as before, and as zeros where it could not be read: also
/// when the power goes at any moment of it.
#[track_caller]
fn cured(layers: &[Image], change: impl FnOnce(&mut Image), options: &RepairOptions) -> Report {
    let mut layers = layers.to_vec();
    change(&mut layers[0]);
    let (damaged, before) = (layers[0].clone(), contents(&layers));
    let file = Arc::new(CrashStorage::new(damaged.clone()));
    let report = repair_storage(&(file.clone() as Arc<dyn Storage>), options).unwrap();
    let bad: Vec<_> = report.findings.iter().filter(|f| f.severity > Note).collect();
    assert!(bad.is_empty() && !report.repaired.is_empty(), "{report:#?}");

    let same = |image: Image, whole: bool| {
        let mut layers = layers.clone();
        layers[0] = image;
        for (index, (now, before)) in contents(&layers).iter().zip(&before).enumerate() {
            match (before, now) {
                (Some(before), Some(now)) => assert!(before == now, "part {index}"),
                (Some(_), None) => panic!("part {index} is lost"),
                // A block that the file ended within keeps what is there.
                (None, Some(now)) => {
                    let kept = now.iter().all(|&byte| byte == 0 || byte == b'B' || byte == b'C');
                    assert!(kept, "part {index}");
                }
                (None, None) => assert!(!whole, "part {index} cannot be read"),
            }
        }
    };
    same(file.image(), options.discard_lost_blocks);
    let (trace, mut random) = (file.trace(), Random::new(1));
    for cut in 0..=trace.positions() {
        for damage in Damage::ALL.into_iter().cycle().take(12) {
            let image = trace.cut(cut, damage, &mut random);
            same(image.clone(), false);
            let again = Arc::new(CrashStorage::new(image));
            let report = repair_storage(&(again.clone() as Arc<dyn Storage>), options).unwrap();
            assert!(report.findings.iter().all(|f| f.severity == Note), "{report:#?}");
            same(again.image(), options.discard_lost_blocks);
        }
    }
    report
}

#[test]
fn footers_are_written_anew_from_the_good_one() {
    let (base, child) = ([base()], child());
    let end = base[0].length() - 512;
    cured(&base, |image| image.write(end, b"x"), &CAREFUL);
    cured(&base, |image| image.write(100, b"x"), &CAREFUL);
    cured(&base, |image| image.set_length(end), &CAREFUL);
    cured(&base, |image| edit(image, 0, 24, &[1; 4]), &CAREFUL);
    let end = child[0].length() - 512;
    cured(&child, |image| image.set_length(end + 100), &CAREFUL);
}

#[test]
fn entries_that_say_nothing_are_cleared() {
    let base = [base()];
    let past_end = |image: &mut Image| {
        edit(image, 512, 28, &20u32.to_be_bytes());
        put(image, TABLE + 9 * 4, 0);
    };
    cured(&base, past_end, &CAREFUL);
}

#[test]
fn lost_blocks_become_zeros_only_when_that_is_asked_for() {
    let (base, child) = ([base()], child());
    for layers in [&base[..], &child[..]] {
        let table = if layers.len() == 1 { TABLE } else { TABLE_OF_CHILD };
        let mut image = layers[0].clone();
        put(&mut image, table + 4, 1);
        let left = Arc::new(CrashStorage::new(image.clone()));
        let report = repair_storage(&(left.clone() as Arc<dyn Storage>), &CAREFUL).unwrap();
        assert!(report.has(Kind::BlockMisplaced) && report.repaired.is_empty());
        assert_eq!(left.position(), 0, "nothing was written");
        cured(layers, |image| put(image, table + 4, 1), &BOLD);
    }
}

#[test]
fn a_block_that_the_file_ends_within_is_completed_and_two_in_one_place_are_separated() {
    let (base, child) = ([base()], child());
    let end = base[0].length() - 512;
    for missing in [1, 511, 512, 513, 5000, 300_000] {
        cured(&base, |image| image.set_length(end - missing), &BOLD);
    }
    let end = child[0].length() - 512;
    cured(&child, |image| image.set_length(end - 70_000), &BOLD);

    let other = number(&base[0], TABLE);
    cured(&base, |image| put(image, TABLE + 28, other), &BOLD);
    cured(&base, |image| put(image, TABLE + 28, other + 100), &BOLD);
    let other = number(&child[0], TABLE_OF_CHILD);
    cured(&child, |image| put(image, TABLE_OF_CHILD + 8, other), &BOLD);
}

#[test]
fn a_hostile_table_cannot_fill_the_host_s_disk() {
    let mut image = formatted(&dynamic(1 << 40, 2 << 20));
    let mut images = [image.clone()];
    changed(&mut images, |disk| disk.write_at(0, &[1; 512]).unwrap());
    [image] = images;
    let first = number(&image, TABLE);
    for entry in 1..50_000 {
        put(&mut image, TABLE + entry * 4, first);
    }
    let before = image.length();
    let file = Arc::new(CrashStorage::new(image));
    let report = repair_storage(&(file.clone() as Arc<dyn Storage>), &BOLD).unwrap();
    assert!(report.has(Kind::BlocksOverlap));
    assert!(file.image().length() < before * 3, "{} bytes", file.image().length());
}
