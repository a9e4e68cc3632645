//! Doing with a chain what its users do. Much of it may fail; panics, hangs, mountains of memory may not happen, nor what
//! a promise of the engine rules out.

use std::sync::Arc;

use ireko_disk::check::{
    Finding, FindingKind, RepairOptions, Severity, check_storage, repair_storage,
};
use ireko_disk::merge::storages_into_parent;
use ireko_disk::{
    Access, Chain, CompactOptions, Disk, Error, ErrorKind, ResizeOptions, Storage, compact_storage,
    resize_storage,
};
use ireko_testkit::Image;

use crate::sound::{KIB, MIB};
use crate::sparse::Sparse;

/// What a reader finds at some places of a disk: the place, what is there.
type Sight = Vec<(u64, Result<Vec<u8>, ErrorKind>)>;

/// Checks, reads, writes, reopens; then repairs, compacts, merges or resizes, as the fuzzer's `data` has it. Leaf first.
///
/// Panics where opening for writing or one of these verbs changes what could be read, and where a file that a check
/// finds sound does not work.
pub(crate) fn exercise(images: &[Image], data: &[u8]) {
    let before = open(&storages(images), Access::ReadOnly).map(|disk| look(&disk));
    let is_sound = storages(images).iter().all(is_sound);
    match &before {
        Ok(sight) if is_sound => sight.iter().for_each(|(at, bytes)| {
            assert!(bytes.is_ok(), "a sound disk fails at {at:#x}: {bytes:?}");
        }),
        // Not what one file can tell.
        Err(error) if is_sound => {
            let kinds = [ErrorKind::ParentMismatch, ErrorKind::NotFound];
            assert!(kinds.contains(&error.kind()), "a sound disk does not open: {error:?}");
        }
        _ => {}
    }
    write(images, before.as_ref().ok(), is_sound);
    let Ok(before) = before else { return maintain_alone(images) };
    // One of them, so that there is time for more inputs.
    stays_readable(images, &before, |layers| match crc32c::crc32c(data) % 5 {
        0 => compact_storage(layers[0].clone(), &CompactOptions::default(), &()),
        1 => {
            let size = open(layers, Access::ReadOnly)?.geometry().virtual_size;
            resize_storage(layers, size.saturating_add(MIB), &ResizeOptions::default(), &())
        }
        2 => {
            storages_into_parent(layers.clone(), &())?;
            layers.remove(0);
            Ok(())
        }
        choice => {
            let options = RepairOptions { discard_lost_blocks: choice == 3 };
            repair_storage(&layers[0], &options).map(drop)
        }
    });
}

fn storages(images: &[Image]) -> Vec<Arc<dyn Storage>> {
    images.iter().map(|image| Arc::new(Sparse::new(image.clone())) as _).collect()
}

fn open(layers: &[Arc<dyn Storage>], access: Access) -> Result<Chain, Error> {
    Chain::over(layers.to_vec(), access)
}

/// A file that cannot be checked is not known to be sound.
fn is_sound(layer: &Arc<dyn Storage>) -> bool {
    match check_storage(layer) {
        Ok(report) => report.is_sound(),
        Err(error) => {
            let kinds = [ErrorKind::Corrupt, ErrorKind::Unsupported];
            assert!(kinds.contains(&error.kind()), "memory does not fail: {error:?}");
            false
        }
    }
}

fn write(images: &[Image], before: Option<&Sight>, is_sound: bool) {
    let layers = storages(images);
    let disk = match open(&layers, Access::ReadWrite) {
        Ok(disk) => disk,
        Err(error) => {
            assert!(!is_sound || before.is_none(), "a sound disk cannot be written: {error:?}");
            return;
        }
    };
    let before = before.expect("what can be opened for writing can be opened for reading");
    assert!(look(&disk) == *before, "opening for writing changed what is read");
    let outcome = change(&disk);
    if is_sound {
        outcome.expect("a sound disk takes writes");
    }
    look(&disk);
    let _ = disk.close();
    if is_sound {
        let report = check_storage(&layers[0]).expect("memory does not fail");
        // Each session takes some numbers of those that are left.
        let is_new = |finding: &&Finding| {
            finding.severity == Severity::Error && finding.what != FindingKind::SequenceExhausted
        };
        let damage = report.findings.iter().find(is_new);
        assert!(damage.is_none(), "writing damaged a sound disk: {damage:#?}");
    }
    if let Ok(disk) = open(&layers, Access::ReadWrite) {
        look(&disk);
        let _ = change(&disk);
    }
}

/// What could be read before is read after, in the layers that `verb` leaves.
fn stays_readable(
    images: &[Image],
    before: &Sight,
    verb: impl FnOnce(&mut Vec<Arc<dyn Storage>>) -> Result<(), Error>,
) {
    let mut layers = storages(images);
    let outcome = verb(&mut layers);
    let disk = open(&layers, Access::ReadOnly);
    let disk = disk.unwrap_or_else(|error| panic!("{error:?} after {outcome:?}"));
    for (at, bytes) in before {
        let Ok(bytes) = bytes else { continue };
        let mut now = vec![0; bytes.len()];
        let read = disk.read_at(*at, &mut now);
        read.unwrap_or_else(|error| panic!("{error:?} at {at:#x} after {outcome:?}"));
        assert!(now == *bytes, "the bytes at {at:#x} changed by {outcome:?}");
    }
}

/// Files that do not open are repaired and compacted all the same.
fn maintain_alone(images: &[Image]) {
    let layers = storages(images);
    let options = RepairOptions { discard_lost_blocks: true };
    let _ = repair_storage(&layers[0], &options);
    let _ = compact_storage(layers[0].clone(), &CompactOptions::default(), &());
}

fn look(disk: &Chain) -> Sight {
    let size = disk.geometry().virtual_size;
    let window = size.min(8 * MIB);
    for at in [0, size - window] {
        let _ = disk.extents(at, window, 10);
        let _ = disk.stretches(at, window, 3);
    }
    let look = |at| {
        let mut bytes = vec![0; (20 * KIB).min(size.saturating_sub(at)) as usize];
        let outcome = disk.read_at(at, &mut bytes);
        (at, outcome.map(|()| bytes).map_err(|error| error.kind()))
    };
    let places = [0, 1000, MIB - 2000, 2 * MIB, 3 * MIB, 4 * MIB, size.saturating_sub(5000)];
    places.into_iter().filter(|&at| at < size).map(look).collect()
}

/// Writes near the start and the end, and reads it back.
fn change(disk: &Chain) -> Result<(), Error> {
    let size = disk.geometry().virtual_size;
    let clip = |at: u64, length: u64| {
        let at = at.min(size);
        (at, length.min(size - at))
    };
    let write = |at, length, value| {
        let (at, length) = clip(at, length);
        let data = vec![value; length as usize];
        disk.write_at(at, &data)?;
        let mut back = vec![0; data.len()];
        disk.read_at(at, &mut back)?;
        Ok::<_, Error>(back == data)
    };
    let mut kept = true;
    kept &= write(100, 3000, 4)?;
    kept &= write(3 * MIB, 512, 5)?;
    kept &= write(size.saturating_sub(700), 700, 6)?;
    disk.flush()?;
    let (at, length) = clip(MIB, MIB);
    disk.discard(at, length)?;
    let (at, length) = clip(700, MIB);
    disk.write_zeroes(at, length)?;
    kept &= write(2 * MIB - 100, 5000, 7)?;
    disk.flush()?;
    // Blocks of a damaged file may share a place, never a page of another block's metadata.
    assert!(kept, "what was written is not what is read");
    Ok(())
}
