//! Disks in storage that loses power, made for what is tried on them.

use std::sync::Arc;

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk, Storage};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Image};

use crate::support::{MIB, over, scribble};

pub fn options(block_mib: u32, sector: u32, size: u64) -> CreateOptions {
    CreateOptions {
        block_size: block_mib << 20,
        logical_sector: sector,
        ..CreateOptions::new(size)
    }
}

/// A base full of random bytes.
pub fn base(size: u64, block_mib: u32) -> Image {
    let storage = Arc::new(CrashStorage::default());
    vhdx::format(&*storage, &options(block_mib, 512, size)).unwrap();
    let disk = Chain::over(vec![storage.clone()], Access::ReadWrite).unwrap();
    let mut data = vec![0; size as usize];
    Random::new(size).fill(&mut data);
    disk.write_at(0, &data).unwrap();
    disk.close().unwrap();
    storage.image()
}

/// A child of the first of `layers`, which becomes the second, with some sectors in its last block and some blocks.
pub fn child_of(mut layers: Vec<Image>) -> Vec<Image> {
    let storage = Arc::new(CrashStorage::default());
    let parent = over(&layers, Access::ReadOnly).identity().unwrap();
    vhdx::format_child(&*storage, &parent, r".\parent.vhdx", &ChildOptions::default()).unwrap();
    let disk = Chain::over(storages(storage.clone(), &layers), Access::ReadWrite).unwrap();
    let size = disk.geometry().virtual_size;
    disk.write_at(size - 512, &[b'c'; 512]).unwrap();
    disk.write_at(2 * MIB, &vec![b'C'; 2 * MIB as usize]).unwrap();
    disk.write_at(100, &[b'd'; 3000]).unwrap();
    disk.close().unwrap();
    layers.insert(0, storage.image());
    layers
}

pub fn storages(leaf: Arc<dyn Storage>, parents: &[Image]) -> Vec<Arc<dyn Storage>> {
    let parents = parents.iter().map(|image| Arc::new(CrashStorage::new(image.clone())) as _);
    [leaf].into_iter().chain(parents).collect()
}

/// A base or a child of two layers, with anything in them.
pub fn any_layers(seed: u64) -> Vec<Image> {
    let (mut random, mut layers) = (Random::new(seed), Vec::new());
    let block_size = 1 << (20 + random.below(2));
    for depth in 0..=random.below(3) {
        let storage = Arc::new(CrashStorage::default());
        if depth == 0 {
            let options = CreateOptions { block_size, ..CreateOptions::new(7 * MIB + 4096) };
            vhdx::format(&*storage, &options).unwrap();
        } else {
            let parent = over(&layers, Access::ReadOnly).identity().unwrap();
            let options = ChildOptions { block_size, ..Default::default() };
            vhdx::format_child(&*storage, &parent, r".\parent.vhdx", &options).unwrap();
        }
        let parents = layers.iter().map(|image| Arc::new(CrashStorage::new(image.clone())) as _);
        let all: Vec<Arc<dyn Storage>> =
            [storage.clone() as _].into_iter().chain(parents).collect();
        let disk = Chain::over(all, Access::ReadWrite).unwrap();
        scribble(&disk, block_size.into(), &mut random);
        disk.close().unwrap();
        layers.insert(0, storage.image());
    }
    layers
}

pub fn alone<S: Storage + 'static>(storage: &Arc<S>) -> [Arc<dyn Storage>; 1] {
    [storage.clone()]
}

/// The bytes of a disk that got `size` bytes long.
pub fn resized(bytes: &[u8], size: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(size as usize, 0);
    bytes
}
