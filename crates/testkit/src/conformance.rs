//! What every disk must do, whatever is behind it.

use std::thread;

use ireko_disk::{Disk, ErrorKind, Extent, ExtentKind};

use crate::random::Random;

const MIB: u64 = 1 << 20;

/// Puts a writable disk through the whole suite; panics where it fails.
///
/// The disk is at least 16 MiB large. Its content is overwritten.
pub fn check(disk: &dyn Disk) {
    let size = disk.geometry().virtual_size;
    assert!(size >= 16 * MIB, "the suite needs 16 MiB");
    geometry_is_sound(disk);
    ranges_past_the_end_fail_and_change_nothing(disk);
    empty_requests_succeed(disk);
    writes_of_any_alignment_are_read_back(disk);
    zeroes_read_as_zeros(disk);
    discarded_blocks_never_show_old_bytes(disk);
    extents_cover_the_range_in_order(disk);
    parallel_writers_do_not_disturb_each_other(disk);
    recycled_space_never_shows_what_others_wrote(disk);
    disk.flush().expect("flush");
}

fn read(disk: &dyn Disk, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xEE; length];
    disk.read_at(offset, &mut bytes).expect("read");
    bytes
}

fn geometry_is_sound(disk: &dyn Disk) {
    let geometry = disk.geometry();
    for sector in [geometry.logical_sector, geometry.physical_sector] {
        assert!(sector == 512 || sector == 4096);
    }
    assert!(geometry.virtual_size.is_multiple_of(geometry.logical_sector.into()));
}

fn ranges_past_the_end_fail_and_change_nothing(disk: &dyn Disk) {
    let size = disk.geometry().virtual_size;
    let last = read(disk, size - 1, 1);
    for (offset, length) in [(size - 1, 2), (size, 1), (u64::MAX, 1), (u64::MAX - 1, 2)] {
        let buffer = &mut vec![!last[0]; length as usize];
        for outcome in [
            disk.write_at(offset, buffer),
            disk.write_zeroes(offset, length),
            disk.discard(offset, length),
            disk.extents(offset, length, 1).map(drop),
            disk.read_at(offset, buffer),
        ] {
            assert_eq!(outcome.expect_err("past the end").kind(), ErrorKind::OutOfRange);
        }
    }
    assert_eq!(read(disk, size - 1, 1), last);
}

fn empty_requests_succeed(disk: &dyn Disk) {
    let size = disk.geometry().virtual_size;
    for offset in [0, 17, size] {
        disk.read_at(offset, &mut []).expect("empty read");
        disk.write_at(offset, &[]).expect("empty write");
        disk.write_zeroes(offset, 0).expect("empty write zeroes");
        disk.discard(offset, 0).expect("empty discard");
        assert_eq!(disk.extents(offset, 0, 5).expect("empty extents"), []);
    }
}

fn writes_of_any_alignment_are_read_back(disk: &dyn Disk) {
    let size = disk.geometry().virtual_size;
    let mut random = Random::new(1);
    let window = 4 * MIB;
    for start in [0, size - window] {
        let mut model = read(disk, start, window as usize);
        for _ in 0..100 {
            let length = match random.below(4) {
                0 => random.below(64) + 1,
                1 => (random.below(16) + 1) * 512,
                2 => random.below(100_000) + 1,
                _ => (random.below(8) + 1) * 4096,
            };
            let at = random.below(window - length);
            let mut data = vec![0; length as usize];
            random.fill(&mut data);
            disk.write_at(start + at, &data).expect("write");
            model[at as usize..(at + length) as usize].copy_from_slice(&data);
        }
        assert!(read(disk, start, window as usize) == model, "the window at {start:#x} differs");
    }
}

fn zeroes_read_as_zeros(disk: &dyn Disk) {
    for (at, length) in [(1, 1), (511, 2), (4096, 4096), (100, 3 * MIB), (0, 8 * MIB)] {
        disk.write_at(0, &vec![0xAB; 9 * MIB as usize]).expect("write");
        disk.write_zeroes(at, length).expect("write zeroes");
        let bytes = read(disk, 0, 9 * MIB as usize);
        let (start, end) = (at as usize, (at + length) as usize);
        assert!(bytes[start..end].iter().all(|&b| b == 0), "{length} bytes at {at}");
        assert!(bytes[..start].iter().chain(&bytes[end..]).all(|&b| b == 0xAB));
    }
}

fn discarded_blocks_never_show_old_bytes(disk: &dyn Disk) {
    let size = disk.geometry().virtual_size;
    disk.write_at(0, &vec![0xCD; 2 * MIB as usize]).expect("write");
    disk.discard(1000, MIB).expect("discard a part");
    let bytes = read(disk, 0, 2 * MIB as usize);
    assert!(bytes.iter().all(|&b| b == 0 || b == 0xCD));
    disk.discard(0, size).expect("discard all");
    for at in (0..size - MIB + 1).step_by(MIB as usize).take(32) {
        assert!(read(disk, at, MIB as usize).iter().all(|&b| b == 0));
    }
}

fn extents_cover_the_range_in_order(disk: &dyn Disk) {
    let size = disk.geometry().virtual_size;
    disk.discard(0, size).expect("discard");
    disk.write_at(5 * MIB, &[1; 4096]).expect("write");
    let mut at = 0;
    while at < size {
        let extents = disk.extents(at, size - at, 3).expect("extents");
        assert!((1..=3).contains(&extents.len()));
        for Extent { offset, length, kind } in extents {
            assert!(offset == at && length > 0);
            at += length;
            if offset <= 5 * MIB && 5 * MIB < offset + length {
                assert_eq!(kind, ExtentKind::Data);
            }
        }
    }
    assert_eq!(at, size);
}

fn parallel_writers_do_not_disturb_each_other(disk: &dyn Disk) {
    const WRITERS: u64 = 4;
    const UNIT: usize = 4096;
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let mut random = Random::new(writer);
                for round in 0..200u64 {
                    // Each writer owns every fourth unit, so that all of them share blocks.
                    let at = (random.below(500) * WRITERS + writer) * UNIT as u64;
                    let value = (round * WRITERS + writer) as u8;
                    match random.below(8) {
                        0 => disk.write_zeroes(at, UNIT as u64).expect("write zeroes"),
                        1 => disk.flush().expect("flush"),
                        _ => {
                            disk.write_at(at, &[value; UNIT]).expect("write");
                            assert_eq!(read(disk, at, UNIT), [value; UNIT]);
                        }
                    }
                }
            });
        }
    });
}

fn recycled_space_never_shows_what_others_wrote(disk: &dyn Disk) {
    const WRITERS: u64 = 4;
    const OWN: u64 = 4 * MIB;
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let (start, value) = (writer * OWN, writer as u8 + 1);
                for round in 0..12 {
                    disk.discard(start, OWN).expect("discard");
                    disk.write_zeroes(start, OWN).expect("write zeroes");
                    let at = start + round * 100_000;
                    disk.write_at(at, &[value; 5000]).expect("write");
                    if round % 3 == 0 {
                        disk.flush().expect("flush");
                    }
                    let bytes = read(disk, start, OWN as usize);
                    let mine = (at - start) as usize..(at - start) as usize + 5000;
                    assert!(bytes[mine.clone()].iter().all(|&b| b == value));
                    assert!(bytes[..mine.start].iter().chain(&bytes[mine.end..]).all(|&b| b == 0));
                }
            });
        }
    });
}
