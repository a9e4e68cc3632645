//! Headers, log and region tables.

use ireko_testkit::Image;

use crate::support::*;

#[test]
fn sound_files_are_clean() {
    finds_in_base(|_| (), &[]);
    finds_in_child(|_| (), &[]);
    finds_in_dirty_child(|_| (), &[(Kind::LogInUse, Note)]);
    let base = base();
    finds(&[new_child(&base), base], |_| (), &[]);
}

#[test]
fn faults_of_the_headers_are_found() {
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
fn faults_of_the_log_are_found() {
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
fn faults_of_the_region_tables_are_found() {
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
