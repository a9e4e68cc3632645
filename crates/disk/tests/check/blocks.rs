//! The BAT and the bitmaps.

use std::sync::Arc;

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk};
use ireko_testkit::{CrashStorage, Image};

use crate::support::*;

#[test]
fn states_that_are_unknown_or_illegal_are_found() {
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
fn blocks_that_are_nowhere_or_over_others_are_found() {
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
fn entries_behind_the_disk_s_end_are_found() {
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
fn blocks_that_a_fixed_disk_lacks_are_found() {
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
fn bits_that_make_no_sense_are_found() {
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
    finds(&layers, last_bits(0b1010), &[(Kind::BitmapBits, Note)]);
}

#[test]
fn faults_of_later_chunks_are_found_where_they_are() {
    let base = Arc::new(CrashStorage::default());
    vhdx::format(&*base, &CreateOptions::new(10 << 30)).unwrap();
    let base = base.image();
    let identity = Chain::over(vec![storage(&base)], Access::ReadOnly).unwrap().identity();
    let leaf = Arc::new(CrashStorage::default());
    let options = ChildOptions { block_size: 32 << 20, ..Default::default() };
    vhdx::format_child(&*leaf, &identity.unwrap(), r".\base.vhdx", &options).unwrap();
    let disk = Chain::over(vec![leaf.clone(), storage(&base)], Access::ReadWrite).unwrap();
    // A chunk has 128 blocks: these are in the first and the last of three.
    for block in [5, 288, 319] {
        disk.write_at(block * 32 * MIB, &[1; 512]).unwrap();
    }
    disk.close().unwrap();
    let image = leaf.image();
    let found = |slot, entry| -> Vec<(Kind, String)> {
        let mut image = image.clone();
        set_entry(&mut image, slot, entry);
        let mut findings = check_image(&image).findings;
        findings.retain(|finding| finding.what != Kind::Leaked);
        findings.into_iter().map(|finding| (finding.what, finding.message)).collect()
    };
    assert_eq!(found(0, 0), []);
    let [one, two] = <[_; 2]>::try_from(found(3 * 129 - 1, 0)).unwrap();
    assert_eq!((one.0, two.0), (Kind::BitmapMissing, Kind::BitmapMissing));
    assert!(one.1.contains("block 288 ") && two.1.contains("block 319 "), "{one:?} {two:?}");
    let [misplaced] = <[_; 1]>::try_from(found(290, (1 << 40) | 7)).unwrap();
    let place = format!("block 288 (at {:#x} of the disk, BAT entry at ", 9u64 << 30);
    assert!(misplaced.0 == Kind::BlockMisplaced && misplaced.1.contains(&place), "{misplaced:?}");
    let [behind] = <[_; 1]>::try_from(found(3 * 129 - 2, 6)).unwrap();
    assert_eq!(behind.0, Kind::EntryPastEnd);
}
