//! Power cuts and failures while a disk is resized: the old size or the new one, with the right bytes.

use std::sync::Arc;

use ireko_disk::vhdx::{self, CreateOptions, Provision};
use ireko_disk::{Access, Chain, Disk, ErrorKind, ResizeOptions, resize_storage};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Damage, Image};

use crate::anatomy::Anatomy;
use crate::disks::{alone, any_layers, base, child_of, options, resized, storages};
use crate::faults::Failing;
use crate::support::{MIB, bytes, is_readable, over, soak};

/// Where our files have their BAT.
const BAT: u64 = 6 * MIB;
const LOSSY: ResizeOptions = ResizeOptions { allow_loss: true };
const CAREFUL: ResizeOptions = ResizeOptions { allow_loss: false };

/// Resizes the first of `layers`, and cuts the power at every write, with every damage.
#[track_caller]
fn survives_power_cuts(layers: &[Image], size: u64, options: &ResizeOptions) {
    let old = bytes(&over(layers, Access::ReadOnly));
    let new = resized(&old, size);
    let leaf = Arc::new(CrashStorage::new(layers[0].clone()));
    resize_storage(&storages(leaf.clone(), &layers[1..]), size, options, &()).unwrap();
    let (trace, mut random) = (leaf.trace(), Random::new(size));
    let mut sizes = [0; 2];
    for cut in 0..=trace.positions() {
        for damage in Damage::ALL {
            let context = format!("cut after {cut} changes, {damage:?}");
            let mut now = layers.to_vec();
            now[0] = trace.cut(cut, damage, &mut random);
            is_readable(&now[0]);
            let left = bytes(&over(&now, Access::ReadOnly));
            let is_new = left.len() == new.len();
            assert!(left == if is_new { &new[..] } else { &old[..] }, "{context}");
            sizes[usize::from(is_new)] += 1;
            if damage == Damage::Tears(512) || damage == Damage::LosesAll {
                // Taken up again, and there and back: what a crash left behind does not show.
                let leaf = Arc::new(CrashStorage::new(now[0].clone()));
                let chain = storages(leaf.clone(), &layers[1..]);
                resize_storage(&chain, size, options, &()).unwrap();
                now[0] = leaf.image();
                assert!(bytes(&over(&now, Access::ReadOnly)) == new, "{context}, resumed");
                resize_storage(&chain, size + 3 * MIB, options, &()).unwrap();
                now[0] = leaf.image();
                Anatomy::of_image(&now[0]);
                let larger = resized(&new, size + 3 * MIB);
                assert!(bytes(&over(&now, Access::ReadOnly)) == larger, "{context}, grown");
            }
        }
    }
    assert!(sizes[0] > 0 && sizes[1] > 0);
}

#[test]
fn a_base_has_one_of_both_sizes_whenever_the_power_goes() {
    let base = [base(3 * MIB + 512, 1)];
    survives_power_cuts(&base, 5 * MIB, &CAREFUL);
    survives_power_cuts(&base, MIB + 512, &LOSSY);
}

#[test]
fn a_child_has_one_of_both_sizes_whenever_the_power_goes() {
    let layers = child_of(vec![base(4 * MIB + 1024, 1)]);
    survives_power_cuts(&layers, 9 * MIB, &CAREFUL);
    let leaf = Arc::new(CrashStorage::new(layers[0].clone()));
    let chain = storages(leaf.clone(), &layers[1..]);
    resize_storage(&chain, 9 * MIB, &CAREFUL, &()).unwrap();
    let disk = Chain::over(chain, Access::ReadWrite).unwrap();
    disk.write_at(5 * MIB, &vec![b'n'; 4 * MIB as usize]).unwrap();
    disk.close().unwrap();
    survives_power_cuts(&[leaf.image(), layers[1].clone()], 5 * MIB + 512, &LOSSY);
}

#[test]
fn a_fixed_disk_has_one_of_both_sizes_whenever_the_power_goes() {
    let storage = Arc::new(CrashStorage::default());
    let provision = Provision::Fixed { preallocate: false };
    vhdx::format(&*storage, &CreateOptions { provision, ..options(1, 512, 3 * MIB) }).unwrap();
    let disk = Chain::over(vec![storage.clone()], Access::ReadWrite).unwrap();
    disk.write_at(0, &vec![7; 3 * MIB as usize]).unwrap();
    disk.close().unwrap();
    survives_power_cuts(&[storage.image()], 5 * MIB, &CAREFUL);
    survives_power_cuts(&[storage.image()], 2 * MIB - 512, &LOSSY);
}

#[test]
fn any_disk_has_one_of_both_sizes_whenever_the_power_goes() {
    for seed in 0..2 * soak() {
        let (layers, mut random) = (any_layers(seed), Random::new(seed));
        let least = if layers.len() > 1 { 7 * MIB + 4096 } else { 512 };
        survives_power_cuts(&layers, least + random.below(24_000) * 512, &LOSSY);
    }
}

/// Larger than any disk whose BAT fits 1 MiB.
const HUGE: u64 = 200 << 30;

/// The disk is one of 3 MiB, or the same with zeros behind it.
#[track_caller]
fn is_small_or_huge(image: &Image, expected: &[u8], context: &str) -> u64 {
    let disk = over(std::slice::from_ref(image), Access::ReadOnly);
    let size = disk.geometry().virtual_size;
    let mut first = vec![0; size.min(10 * MIB) as usize];
    disk.read_at(0, &mut first).unwrap();
    assert!(first == resized(expected, first.len() as u64), "{context}");
    let mut last = [1; 4096];
    disk.read_at(size - 4096, &mut last).unwrap();
    assert!(size == 3 * MIB || (size == HUGE && last == [0; 4096]), "{context}");
    size
}

#[test]
fn the_bat_is_here_or_there_whenever_the_power_goes() {
    let base = base(3 * MIB, 1);
    let expected = bytes(&over(std::slice::from_ref(&base), Access::ReadOnly));
    let storage = Arc::new(CrashStorage::new(base));
    resize_storage(&alone(&storage), HUGE, &CAREFUL, &()).unwrap();
    let (trace, mut random) = (storage.trace(), Random::new(3));
    let mut sizes = std::collections::BTreeSet::new();
    for cut in 0..=trace.positions() {
        for damage in Damage::ALL {
            let context = format!("cut after {cut} changes, {damage:?}");
            let image = trace.cut(cut, damage, &mut random);
            is_readable(&image);
            let size = is_small_or_huge(&image, &expected, &context);
            sizes.insert(size);
            if size < HUGE {
                let again = Arc::new(CrashStorage::new(image));
                resize_storage(&alone(&again), HUGE, &CAREFUL, &()).unwrap();
                assert_eq!(is_small_or_huge(&again.image(), &expected, &context), HUGE);
                assert_ne!(Anatomy::of_image(&again.image()).bat.start, BAT);
            }
        }
    }
    assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [3 * MIB, HUGE]);
}

#[test]
fn a_failure_at_any_write_leaves_one_of_both_sizes() {
    let base = base(3 * MIB, 1);
    let expected = bytes(&over(std::slice::from_ref(&base), Access::ReadOnly));
    let guid = |image: &Image| {
        over(std::slice::from_ref(image), Access::ReadOnly).identity().unwrap().data_write_guid
    };
    let mut still_linked = 0;
    for allowed in 0.. {
        let storage = Arc::new(Failing::after(allowed, base.clone()));
        let outcome = resize_storage(&alone(&storage), HUGE, &CAREFUL, &());
        let context = format!("after {allowed} writes");
        let size = is_small_or_huge(&storage.image(), &expected, &context);
        let Err(error) = outcome else { break };
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        if guid(&storage.image()) == guid(&base) {
            assert_eq!(size, 3 * MIB, "{context}");
            still_linked += 1;
        }
    }
    // The first header, the file's length, the new BAT: its children are not given up before that is there.
    assert!(still_linked >= 3);
}

#[test]
fn what_was_cut_off_in_several_log_entries_never_comes_back() {
    const BLOCKS: u64 = 800;
    // Entries of neighbours lie in different pages of the BAT.
    const STEP: u64 = 600 * MIB;
    let storage = Arc::new(CrashStorage::default());
    vhdx::format(&*storage, &options(1, 512, BLOCKS * STEP)).unwrap();
    let disk = Chain::over(vec![storage.clone()], Access::ReadWrite).unwrap();
    (0..BLOCKS).for_each(|block| disk.write_at(block * STEP, &[7; 512]).unwrap());
    disk.close().unwrap();
    let full = storage.image();
    let storage = Arc::new(CrashStorage::new(full));
    resize_storage(&alone(&storage), MIB, &LOSSY, &()).unwrap();
    assert_eq!(storage.image().length(), Anatomy::of_image(&storage.image()).overhead + MIB);
    let (trace, mut random) = (storage.trace(), Random::new(3));
    let holds = |image: &Image, expected: u8| {
        let disk = over(std::slice::from_ref(image), Access::ReadOnly);
        let mut sector = [0; 512];
        (0..BLOCKS).all(|block| {
            disk.read_at(block * STEP, &mut sector).unwrap();
            sector == [if block == 0 { 7 } else { expected }; 512]
        })
    };
    for cut in (0..trace.positions()).step_by(97).chain([trace.positions()]) {
        for damage in [Damage::LosesAll, Damage::Reorders] {
            let context = format!("cut after {cut} changes, {damage:?}");
            let image = trace.cut(cut, damage, &mut random);
            let disk = over(std::slice::from_ref(&image), Access::ReadOnly);
            let size = disk.geometry().virtual_size;
            if size == MIB {
                let again = Arc::new(CrashStorage::new(image));
                resize_storage(&alone(&again), BLOCKS * STEP, &CAREFUL, &()).unwrap();
                Anatomy::of_image(&again.image());
                assert!(holds(&again.image(), 0), "{context}");
            } else {
                assert!(size == BLOCKS * STEP && holds(&image, 7), "{context}");
            }
        }
    }
}
