//! What a repair cures, what it leaves, and that neither it nor a power cut in it costs anything.

use std::sync::Arc;

use ireko_disk::check::{RepairOptions, Report, repair, repair_storage};
use ireko_disk::vhdx::{self, CreateOptions};
use ireko_disk::{Access, Chain, Disk, ErrorKind, Storage};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Damage, Image};

use crate::support::*;

const CAREFUL: RepairOptions = RepairOptions { discard_lost_blocks: false };
const BOLD: RepairOptions = RepairOptions { discard_lost_blocks: true };

fn open(layers: &[Image]) -> Chain {
    Chain::over(layers.iter().map(storage).collect(), Access::ReadOnly).unwrap()
}

/// What the disk reads, in pieces of 64 KiB; `None` where it cannot be read.
fn contents(layers: &[Image]) -> Vec<Option<Vec<u8>>> {
    let disk = open(layers);
    (0..disk.geometry().virtual_size)
        .step_by(64 * 1024)
        .map(|at| {
            let mut bytes = vec![0; (disk.geometry().virtual_size - at).min(64 * KIB) as usize];
            disk.read_at(at, &mut bytes).ok().map(|()| bytes)
        })
        .collect()
}

fn mend(image: &Image, options: &RepairOptions) -> (Report, Arc<CrashStorage>) {
    let file = Arc::new(CrashStorage::new(image.clone()));
    let report = repair_storage(&(file.clone() as Arc<dyn Storage>), options).unwrap();
    (report, file)
}

fn guids(image: &Image) -> [Vec<u8>; 2] {
    [16, 32].map(|field| bytes(image, current(image) + field, 16))
}

/// Checks that a repair makes a damaged file clean, and that the disk reads as before: also when the power
/// goes at any moment of it.
#[track_caller]
fn cured(layers: &[Image], edit: impl FnOnce(&mut Image), options: &RepairOptions) -> Image {
    let mut layers = layers.to_vec();
    edit(&mut layers[0]);
    let damaged = layers[0].clone();
    let (found, before) = (check_image(&damaged), contents(&layers));
    let (report, file) = mend(&damaged, options);
    let left: Vec<_> = report.findings.iter().filter(|f| f.what != Kind::Leaked).collect();
    assert!(left.is_empty(), "{left:#?}");
    let repaired: Vec<_> = found.findings.iter().filter(|f| f.what != Kind::Leaked).collect();
    assert_eq!(report.repaired.iter().collect::<Vec<_>>(), repaired);

    let unreadable = before.contains(&None);
    layers[0] = file.image();
    let after = contents(&layers);
    let same = |after: &[Option<Vec<u8>>]| {
        before.iter().zip(after).all(|(before, after)| before.is_none() || before == after)
    };
    assert!(same(&after) && !after.contains(&None));
    let (old, new) = (guids(&damaged), guids(&layers[0]));
    assert_ne!(old[0], new[0], "FileWriteGuid");
    if options == &CAREFUL {
        assert!(!unreadable && old[1] == new[1], "the disk did not change: DataWriteGuid");
    }

    let (trace, mut random) = (file.trace(), Random::new(7));
    for cut in 0..=trace.positions() {
        for damage in Damage::ALL {
            let mut layers = layers.clone();
            layers[0] = trace.cut(cut, damage, &mut random);
            let state = check_image(&layers[0]);
            // What was written behind the end may be there before the file's new length is.
            let expected = |what| found.has(what) || what == Kind::FileLength;
            let worse: Vec<_> = (state.findings.iter())
                .filter(|f| f.severity > Note && !expected(f.what))
                .collect();
            assert!(worse.is_empty(), "cut after {cut}, {damage:?}: {worse:#?}");
            assert!(same(&contents(&layers)), "cut after {cut}, {damage:?}");
            if random.one_in(4) {
                let (again, file) = mend(&layers[0], options);
                assert!(again.worst() <= Some(Note), "{:#?}", again.findings);
                layers[0] = file.image();
                assert!(same(&contents(&layers)), "repaired again after {cut}, {damage:?}");
            }
        }
    }
    file.image()
}

/// Checks the cure of a fault in a base; returns the base.
#[track_caller]
fn cured_in_base(edit: impl FnOnce(&mut Image), options: &RepairOptions) -> Image {
    cured(&[base()], edit, options)
}

/// Checks the cure of a fault in a child; returns the child and its base.
#[track_caller]
fn cured_in_child(edit: impl FnOnce(&mut Image), options: &RepairOptions) -> [Image; 2] {
    let base = base();
    [cured(&[child(&base, true), base.clone()], edit, options), base]
}

/// Checks the cure of a fault in a child whose log is in use.
#[track_caller]
fn cured_in_dirty_child(edit: impl FnOnce(&mut Image)) {
    let base = base();
    cured(&[child(&base, false), base], edit, &CAREFUL);
}

/// Checks that a careful repair leaves a fault as it is.
#[track_caller]
fn left(layers: &[Image], edit: impl FnOnce(&mut Image), expected: &[Kind]) {
    let mut image = layers[0].clone();
    edit(&mut image);
    let (report, file) = mend(&image, &CAREFUL);
    let found: Vec<Kind> =
        report.findings.iter().map(|f| f.what).filter(|what| *what != Kind::Leaked).collect();
    assert_eq!((found.as_slice(), file.position()), (expected, 0));
    assert_eq!(report.repaired, []);
}

/// Writes an entry's state and reserved bits, keeping its offset.
fn state(slot: u64, low: u64) -> impl Fn(&mut Image) {
    move |image| {
        let kept = entry(image, slot) & !(MIB - 1);
        set_entry(image, slot, kept | low);
    }
}

/// Writes an entry's offset, keeping its state.
fn place(slot: u64, to: u64) -> impl Fn(&mut Image) {
    move |image| {
        let kept = entry(image, slot) & (MIB - 1);
        set_entry(image, slot, to | kept);
    }
}

/// The header that does not count.
fn other_header(image: &Image) -> u64 {
    HEADERS[0] + HEADERS[1] - current(image)
}

fn damage_header(image: &mut Image) {
    image.write(other_header(image) + 30, b"damage");
}

fn repeat_header(image: &mut Image) {
    let page = bytes(image, current(image), 4096);
    image.write(other_header(image), &page);
}

fn change_table(image: &mut Image) {
    image.write(TABLES[1] + 60_000, b"change");
    seal(image, TABLES[1], 64 * 1024);
}

#[test]
fn a_sound_file_is_not_touched() {
    left(&[base()], |_| (), &[]);
    left(&[child(&base(), true)], |_| (), &[]);
}

#[test]
fn a_log_in_use_is_replayed() {
    cured_in_dirty_child(|_| ());
}

#[test]
fn headers_and_region_tables_are_written_anew_from_the_good_ones() {
    let edits: [fn(&mut Image); 5] = [
        damage_header,
        repeat_header,
        |image| image.write(TABLES[0] + 20, b"damage"),
        |image| image.write(TABLES[1] + 20, b"damage"),
        change_table,
    ];
    for edit in edits {
        let image = cured_in_base(edit, &CAREFUL);
        let [one, two] = TABLES.map(|at| bytes(&image, at, 64 * 1024));
        assert!(one == two);
        cured_in_dirty_child(edit);
    }
}

#[test]
fn a_file_of_no_whole_mib_is_made_longer() {
    for more in [1, 512, MIB - 1] {
        let image = cured_in_base(|image| image.set_length(image.length() + more), &CAREFUL);
        assert_eq!(image.length() % MIB, 0);
    }
}

#[test]
fn what_nobody_reads_becomes_zero() {
    let image = cured_in_base(state(0, 6 | 8), &CAREFUL);
    assert_eq!(entry(&image, 0), entry(&base(), 0));
    let image = cured_in_base(
        |image| {
            state(7, 1 << 19)(image);
            set_entry(image, 100, 3);
            set_entry(image, BITMAP_SLOT, (7 * MIB) | 6);
            set_entry(image, BITMAP_SLOT + 1, !0);
        },
        &CAREFUL,
    );
    assert_eq!([7, 100, BITMAP_SLOT, BITMAP_SLOT + 1].map(|slot| entry(&image, slot)), [0; 4]);
    let [image, _] = cured_in_child(
        |image| {
            state(BITMAP_SLOT, 6 | 1 << 10)(image);
            set_entry(image, 100, 4);
        },
        &CAREFUL,
    );
    assert_eq!((entry(&image, 100), entry(&image, BITMAP_SLOT) & (MIB - 1)), (0, 6));
}

#[test]
fn many_faults_are_cured_at_once() {
    cured_in_child(
        |image| {
            damage_header(image);
            change_table(image);
            image.set_length(image.length() + 512);
            (5..500).for_each(|slot| set_entry(image, 10 * slot, slot | 3));
        },
        &CAREFUL,
    );
}

#[test]
fn lost_blocks_are_left_unless_they_may_be_given_up() {
    let (base, taken) = (base(), entry(&base(), 3) & !(MIB - 1));
    let bases = [base.clone()];
    for to in [0, LOG, 1 << 40] {
        left(&bases, place(0, to), &[Kind::BlockMisplaced]);
    }
    left(&bases, place(0, taken), &[Kind::BlocksOverlap]);
    left(&bases, state(0, 4), &[Kind::BlockState]);
    // Made longer, the file would hold zeros where the block's end was.
    let shorter = |image: &mut Image| image.set_length(image.length() - MIB / 2);
    left(&bases, shorter, &[Kind::BlockCutOff, Kind::FileLength]);
    let past_end = |image: &mut Image| {
        image.set_length(40 * MIB);
        set_entry(image, 8, (39 * MIB) | 6);
    };
    left(&bases, past_end, &[Kind::BlockPastEnd]);
    let children = [child(&base, true), base];
    let missing = [Kind::BitmapMissing, Kind::BitmapMissing];
    left(&children, |image| set_entry(image, BITMAP_SLOT, 0), &missing);
}

#[test]
fn a_block_that_is_given_up_reads_zeros_and_not_its_parent() {
    let zeros = |layers: &[Image], block: u64| {
        let mut bytes = vec![1; MIB as usize];
        open(layers).read_at(block * MIB, &mut bytes).unwrap();
        bytes.iter().all(|byte| *byte == 0)
    };
    for to in [0, LOG, 1 << 40] {
        assert!(zeros(&[cured_in_base(place(0, to), &BOLD)], 0));
        assert!(zeros(&cured_in_child(place(0, to), &BOLD), 0));
        let layers = cured_in_child(place(BITMAP_SLOT, to), &BOLD);
        assert!(zeros(&layers, 0) && zeros(&layers, 4));
    }
    assert!(zeros(&cured_in_child(state(0, 4), &BOLD), 0));
    assert!(zeros(&cured_in_child(state(BITMAP_SLOT, 3), &BOLD), 4));
    let layers = cured_in_child(|image| set_entry(image, BITMAP_SLOT, 0), &BOLD);
    assert!(zeros(&layers, 0) && zeros(&layers, 4) && !zeros(&layers, 1));
}

#[test]
fn only_giving_up_blocks_counts_as_a_change_of_the_disk() {
    let image = base();
    let changed = |edit: &dyn Fn(&mut Image)| {
        let mut damaged = image.clone();
        edit(&mut damaged);
        guids(&mend(&damaged, &BOLD).1.image())[1] != guids(&image)[1]
    };
    assert!(changed(&state(0, 4)) && changed(&place(0, 1 << 40)));
    let taken = entry(&image, 3) & !(MIB - 1);
    assert!(!changed(&place(0, taken)) && !changed(&damage_header));
    assert!(!changed(&|image| {
        image.set_length(40 * MIB);
        set_entry(image, 8, (39 * MIB) | 6);
    }));
}

#[test]
fn a_block_that_was_cut_off_keeps_what_is_there() {
    let image = cured_in_base(|image| image.set_length(image.length() - MIB / 2), &BOLD);
    let mut bytes = vec![1; 5 * MIB as usize];
    open(&[image]).read_at(0, &mut bytes).unwrap();
    let (kept, lost) = bytes.split_at(bytes.len() - MIB as usize / 2);
    assert!(kept.iter().all(|byte| *byte == b'B') && lost.iter().all(|byte| *byte == 0));
}

#[test]
fn blocks_in_one_place_get_a_place_each() {
    let taken = entry(&base(), 3) & !(MIB - 1);
    let image = cured_in_base(place(0, taken), &BOLD);
    let disk = Chain::over(vec![storage(&image)], Access::ReadWrite).unwrap();
    disk.write_at(0, b"one of them").unwrap();
    let mut other = [0; 11];
    disk.read_at(3 * MIB, &mut other).unwrap();
    assert_eq!(&other, b"BBBBBBBBBBB");
    // A bitmap and a block: the block moves away.
    let layers = [child(&base(), true)];
    let bitmap = entry(&layers[0], BITMAP_SLOT) & !(MIB - 1);
    cured_in_child(place(1, bitmap), &BOLD);
}

#[test]
fn a_table_full_of_one_block_does_not_fill_the_host_s_disk() {
    let storage = CrashStorage::default();
    let options = CreateOptions { block_size: 32 << 20, ..CreateOptions::new(1 << 40) };
    vhdx::format(&storage, &options).unwrap();
    let mut image = storage.image();
    let end = image.length();
    image.set_length(end + 32 * MIB);
    (0..128).for_each(|slot| set_entry(&mut image, slot, end | 6));
    let (report, file) = mend(&image, &BOLD);
    assert_eq!(file.image().length(), image.length() + 32 * MIB);
    assert!(!report.is_sound());
}

#[test]
fn a_child_that_lost_its_mark_keeps_what_makes_it_one() {
    let mut image = child(&base(), true);
    image.write(ITEMS + 4, &[0]);
    let bat = bytes(&image, BAT, MIB as usize);
    let (report, file) = mend(&image, &BOLD);
    assert!(report.has(Kind::LocatorUnused) && report.repaired.is_empty());
    assert!(bytes(&file.image(), BAT, MIB as usize) == bat);
}

#[test]
fn a_file_that_does_not_open_is_not_touched() {
    let edits: [fn(&mut Image); 3] = [
        |image| image.write(METADATA, b"M"),
        |image| edit_header(image, 48, &[1; 16]),
        |image| edit_header(image, 68, &[0; 4]),
    ];
    for edit in edits {
        let mut image = base();
        edit(&mut image);
        change_table(&mut image);
        let (report, file) = mend(&image, &BOLD);
        assert_eq!(file.position(), 0);
        assert!(report.findings.iter().all(|finding| finding.repair.is_none()));
    }
}

#[test]
fn a_file_in_use_is_not_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.vhdx");
    vhdx::create(&path, &CreateOptions::new(64 * MIB)).unwrap();
    let reader = Chain::open(std::slice::from_ref(&path), Access::ReadOnly).unwrap();
    assert_eq!(repair(&path, &CAREFUL).unwrap_err().kind(), ErrorKind::InUse);
    drop(reader);
    assert_eq!(repair(&path, &CAREFUL).unwrap().findings, []);
}
