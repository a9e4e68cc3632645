//! Doing with a chain what its users do. Whether it works does not matter; panics, hangs and memory do.

use std::sync::Arc;

use ireko_disk::{Access, Chain, Disk, ErrorKind, Storage};
use ireko_testkit::Image;

use crate::sound::{KIB, MIB};
use crate::sparse::Sparse;

/// What a reader finds at some places of a disk.
type Sight = Vec<Result<Vec<u8>, ErrorKind>>;

/// Reads, writes, flushes, reopens. Leaf first.
///
/// Panics where opening for writing alone changes what is read: a log replayed on disk must give what it gives
/// replayed in memory.
pub(crate) fn exercise(images: &[Image]) {
    let storages = || -> Vec<Arc<dyn Storage>> {
        images.iter().map(|image| Arc::new(Sparse::new(image.clone())) as _).collect()
    };
    let before = Chain::over(storages(), Access::ReadOnly).map(|disk| look(&disk));
    let layers = storages();
    let Ok(disk) = Chain::over(layers.clone(), Access::ReadWrite) else { return };
    let before = before.expect("what can be opened for writing can be opened for reading");
    assert!(look(&disk) == before, "opening for writing changed what is read");
    change(&disk);
    let _ = disk.flush();
    look(&disk);
    let _ = disk.close();
    if let Ok(disk) = Chain::over(layers, Access::ReadWrite) {
        look(&disk);
        change(&disk);
    }
}

fn look(disk: &Chain) -> Sight {
    let size = disk.geometry().virtual_size;
    let window = size.min(8 * MIB);
    for at in [0, size - window] {
        let _ = disk.extents(at, window, 10);
        let _ = disk.stretches(at, window, 3);
    }
    let mut sight = Vec::new();
    for at in [0, 1000, MIB - 2000, 2 * MIB, 3 * MIB, 4 * MIB, size.saturating_sub(5000)] {
        let mut bytes = vec![0; (20 * KIB).min(size.saturating_sub(at)) as usize];
        let outcome = disk.read_at(at, &mut bytes);
        sight.push(outcome.map(|()| bytes).map_err(|error| error.kind()));
    }
    sight
}

fn change(disk: &Chain) {
    let size = disk.geometry().virtual_size;
    let _ = disk.write_at(100, &[4; 3000]);
    let _ = disk.write_at(3 * MIB, &[5; 512]);
    let _ = disk.write_at(size.saturating_sub(700), &[6; 700]);
    let _ = disk.flush();
    let _ = disk.discard(MIB, MIB);
    let _ = disk.write_zeroes(700, MIB);
    let _ = disk.write_at(2 * MIB - 100, &[7; 5000]);
}
