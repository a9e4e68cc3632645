//! Damaged and hostile files: an error or a disk, never a panic.

use std::ops::Range;
use std::sync::Arc;

use ireko_disk::merge::storages_into_parent;
use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{
    Access, Chain, CompactOptions, Disk, ErrorKind, ResizeOptions, Storage, compact_storage,
    resize_storage,
};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Image};

use crate::support::{MIB, over};

const KIB: u64 = 1024;
const METADATA: u64 = 5 * MIB;
const BAT: u64 = 6 * MIB;

/// A base and a child of it that hold a little of everything.
fn chain() -> [Image; 2] {
    let base = CrashStorage::default();
    let options = CreateOptions { block_size: 1 << 20, ..CreateOptions::new(5 * MIB + 4096) };
    vhdx::format(&base, &options).unwrap();
    let base = Arc::new(base);
    let disk = Chain::over(vec![base.clone()], Access::ReadWrite).unwrap();
    disk.write_at(0, &[1; 5000]).unwrap();
    disk.write_at(3 * MIB, &[2; 5000]).unwrap();
    disk.write_at(5 * MIB, &[3; 4096]).unwrap();
    disk.discard(0, MIB).unwrap();
    disk.close().unwrap();
    let identity = over(&[base.image()], Access::ReadOnly).identity().unwrap();
    let leaf = Arc::new(CrashStorage::default());
    let options = ChildOptions { block_size: 1 << 20, ..ChildOptions::default() };
    vhdx::format_child(&*leaf, &identity, r".\base.vhdx", &options).unwrap();
    let disk = Chain::over(vec![leaf.clone(), base.clone()], Access::ReadWrite).unwrap();
    disk.write_at(512, &[4; 2000]).unwrap();
    disk.write_at(MIB, &vec![5; MIB as usize]).unwrap();
    disk.write_at(5 * MIB, &[6; 512]).unwrap();
    disk.close().unwrap();
    [leaf.image(), base.image()]
}

/// Compacts and resizes; whether it works does not matter here.
fn exercise(layers: &[Image]) {
    let chain = || -> Vec<Arc<dyn Storage>> {
        layers.iter().map(|image| Arc::new(CrashStorage::new(image.clone())) as _).collect()
    };
    let _ = compact_storage(chain()[0].clone(), &CompactOptions::default(), &());
    for (size, allow_loss) in
        [(9 * MIB, false), (200 << 30, false), (2 * MIB + 512, true), (5 * MIB, false)]
    {
        let _ = resize_storage(&chain(), size, &ResizeOptions { allow_loss }, &());
    }
}

/// Makes the checksum of a record right again.
fn seal(image: &mut Image, at: u64, length: usize) {
    image.write(at + 4, &[0; 4]);
    let mut record = vec![0; length];
    image.read(at, &mut record).unwrap();
    image.write(at + 4, &crc32c::crc32c(&record).to_le_bytes());
}

/// Changes each byte of a range in turn, in a base and in a child; `sealed` is the record around it.
fn mutate(range: Range<u64>, sealed: Option<(u64, usize)>) {
    let [leaf, base] = chain();
    let mut random = Random::new(range.start);
    for at in range {
        for layers in [vec![leaf.clone(), base.clone()], vec![base.clone()]] {
            let mut old = [0];
            layers[0].read(at, &mut old).unwrap();
            for new in [0, 0xFF, old[0] ^ (1 << random.below(8)), old[0].wrapping_add(1)] {
                let mut bad = layers.clone();
                bad[0].write(at, &[new]);
                if let Some((start, length)) = sealed {
                    seal(&mut bad[0], start, length);
                }
                exercise(&bad);
            }
        }
    }
}

#[test]
fn any_byte_of_the_headers() {
    mutate(128 * KIB + 8..128 * KIB + 16, Some((128 * KIB, 4096)));
    mutate(128 * KIB + 64..128 * KIB + 80, Some((128 * KIB, 4096)));
}

#[test]
fn any_byte_of_the_region_table() {
    mutate(192 * KIB + 8..192 * KIB + 80, Some((192 * KIB, 64 * 1024)));
}

#[test]
fn any_byte_of_the_metadata() {
    mutate(METADATA + 8..METADATA + 32 * 7, None);
    mutate(METADATA + 64 * KIB..METADATA + 64 * KIB + 48, None);
}

#[test]
fn any_byte_of_the_bat() {
    mutate(BAT..BAT + 7 * 8, None);
    // The bitmap's entry.
    mutate(BAT + 4096 * 8..BAT + 4097 * 8, None);
}

#[test]
fn a_disk_whose_last_block_lies_over_another_is_neither_merged_into_nor_resized() {
    let [leaf, mut base] = chain();
    let mut entry = [0; 8];
    base.read(BAT + 3 * 8, &mut entry).unwrap();
    base.write(BAT + 5 * 8, &entry);
    let bytes = |image: &Image| {
        let mut bytes = vec![0; image.length() as usize];
        image.read(0, &mut bytes).unwrap();
        bytes
    };
    let files = [&leaf, &base].map(|image| Arc::new(CrashStorage::new(image.clone())));
    let [leaf_file, base_file] = files.clone().map(|file| file as Arc<dyn Storage>);
    let resize = |size| {
        let options = ResizeOptions { allow_loss: true };
        resize_storage(std::slice::from_ref(&base_file), size, &options, &())
    };
    let outcomes = [
        resize(9 * MIB),
        resize(5 * MIB + 512),
        storages_into_parent(vec![leaf_file, base_file.clone()], &()),
    ];
    for outcome in outcomes {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    for (file, image) in files.iter().zip([&leaf, &base]) {
        assert!(bytes(&file.image()) == bytes(image), "changed all the same");
    }
}
