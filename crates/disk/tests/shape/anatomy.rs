//! Where things lie in a VHDX file: read here without the engine, and checked on the way.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use ireko_disk::{FileStorage, Lock};
use ireko_testkit::{CrashStorage, Image};

use crate::support::{MIB, is_sound};

/// What a file consists of.
#[derive(Debug)]
pub struct Anatomy {
    pub length: u64,
    pub virtual_size: u64,
    pub bat: Range<u64>,
    /// Bytes of headers, log, BAT and metadata.
    pub overhead: u64,
    /// States of the payload blocks.
    pub states: Vec<u8>,
    /// Bytes of the file that blocks and bitmap blocks have.
    pub used: u64,
}

impl Anatomy {
    #[track_caller]
    pub fn of_file(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let length = file.metadata().unwrap().len();
        is_sound(Arc::new(FileStorage::open(path, Lock::Read).unwrap()));
        Self::read(length, &|at, bytes| file.read_exact_at(bytes, at).unwrap())
    }

    #[track_caller]
    pub fn of_image(image: &Image) -> Self {
        is_sound(Arc::new(CrashStorage::new(image.clone())));
        Self::read(image.length(), &|at, bytes| image.read(at, bytes).unwrap())
    }

    /// Space that neither the file's own parts nor its blocks need.
    pub fn waste(&self) -> u64 {
        self.length - self.overhead - self.used
    }

    #[track_caller]
    fn read(length: u64, read: &dyn Fn(u64, &mut [u8])) -> Self {
        let get = |at: u64, size: usize| {
            let mut bytes = vec![0; size];
            read(at, &mut bytes);
            bytes
        };
        let header = current(get(64 * 1024, 4096), get(128 * 1024, 4096));
        assert!(header[48..64].iter().all(|&byte| byte == 0), "the log is in use");
        let mut places =
            vec![0..MIB, u64_at(&header, 72)..u64_at(&header, 72) + u64::from(u32_at(&header, 68))];
        let table = get(192 * 1024, 64 * 1024);
        assert!(table == get(256 * 1024, 64 * 1024), "the region tables differ");
        let region = |id: u32| {
            let entry = table[16..].chunks(32).find(|entry| u32_at(entry, 0) == id).unwrap();
            u64_at(entry, 16)..u64_at(entry, 16) + u64::from(u32_at(entry, 24))
        };
        let (bat, metadata) = (region(0x2DC2_7766), region(0x8B7C_A206));
        places.extend([bat.clone(), metadata.clone()]);
        let overhead = places.iter().map(|place| place.end - place.start).sum();

        let items = get(metadata.start, 64 * 1024);
        let item = |id: u32| {
            let entry = items[32..].chunks(32).find(|entry| u32_at(entry, 0) == id).unwrap();
            get(metadata.start + u64::from(u32_at(entry, 16)), 8)
        };
        let parameters = item(0xCAA1_6737);
        let (block_size, has_parent) = (u64::from(u32_at(&parameters, 0)), parameters[4] & 2 != 0);
        let virtual_size = u64_at(&item(0x2FA5_4224), 0);
        let ratio = (u64::from(u32_at(&item(0x8141_BF1D), 0)) << 23) / block_size;
        let blocks = virtual_size.div_ceil(block_size);

        let (mut states, mut used) = (Vec::new(), 0);
        for (slot, entry) in (0..).zip(get(bat.start, (bat.end - bat.start) as usize).chunks(8)) {
            let entry = u64_at(entry, 0);
            let (chunk, within) = (slot / (ratio + 1), slot % (ratio + 1));
            let (exists, size) = match within == ratio {
                true => (has_parent && chunk * ratio < blocks, MIB),
                false => (chunk * ratio + within < blocks, block_size),
            };
            assert!(exists || entry == 0, "entry {slot} beyond the disk is {entry:#x}");
            if exists && within != ratio {
                states.push((entry & 7) as u8);
            }
            if entry & 7 >= 6 {
                let start = entry & !(MIB - 1);
                places.push(start..start + size);
                used += size;
            }
        }
        places.sort_by_key(|place| place.start);
        assert!(places.windows(2).all(|pair| pair[0].end <= pair[1].start), "overlap: {places:x?}");
        assert!(places[places.len() - 1].end <= length, "blocks past the file's end");
        Self { length, virtual_size, bat, overhead, states, used }
    }
}

/// The header with the greater number; checksums are not looked at.
fn current(first: Vec<u8>, second: Vec<u8>) -> Vec<u8> {
    if u64_at(&first, 8) > u64_at(&second, 8) { first } else { second }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
