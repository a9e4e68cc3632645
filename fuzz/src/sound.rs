//! The files that a target damages: a base and its child, the same in every process. Here those of VHDX.
//!
//! ```text
//!   block   0        1        2        3        4 (half of it)
//!   leaf    partial  full     zero     unmapped ·
//!   base    full     full     full     full     full
//! ```

pub(crate) mod vhd;

use std::sync::{Arc, OnceLock};

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions, ParentIdentity};
use ireko_disk::{Access, Chain, Disk, Guid};
use ireko_testkit::Image;

use crate::log;
use crate::sparse::Sparse;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;

/// Where our files have their parts.
pub(crate) const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
pub(crate) const REGION_TABLES: [u64; 2] = [192 * KIB, 256 * KIB];
pub(crate) const LOG: u64 = MIB;
pub(crate) const METADATA: u64 = 5 * MIB;
pub(crate) const METADATA_ITEMS: u64 = METADATA + 64 * KIB;
pub(crate) const BAT: u64 = 6 * MIB;
/// Payload blocks in a chunk, whose bitmap's BAT entry follows theirs.
pub(crate) const CHUNK_RATIO: u64 = 4096;

/// The session whose entry lies in the leaf's log; the header does not name it.
pub(crate) const LOG_GUID: Guid = Guid::from_bytes([0x10; 16]);
const LEAF_GUID: Guid = Guid::from_bytes([0x1E; 16]);
const BASE_GUID: Guid = Guid::from_bytes([0xBA; 16]);

/// The leaf and the base.
pub(crate) fn chain() -> [Image; 2] {
    static CHAIN: OnceLock<[Image; 2]> = OnceLock::new();
    CHAIN.get_or_init(make).clone()
}

fn make() -> [Image; 2] {
    let (block_size, virtual_size) = (MIB as u32, 4 * MIB + 512 * KIB);
    let base = Arc::new(Sparse::new(Image::default()));
    let options = CreateOptions { block_size, ..CreateOptions::new(virtual_size) };
    vhdx::format(&*base, &options).expect("format a base");
    let disk = Chain::over(vec![base.clone()], Access::ReadWrite).expect("open a base");
    for block in 0..5 {
        disk.write_at(block * MIB, &[0xB0 + block as u8; 40_000]).expect("write");
    }
    let identity = disk.identity().expect("a VHDX has one");
    disk.close().expect("close a base");

    let leaf = Arc::new(Sparse::new(Image::default()));
    let page83 = Guid::from_bytes([0x83; 16]);
    let identity = ParentIdentity { data_write_guid: BASE_GUID, page83, ..identity };
    let options = ChildOptions { block_size, ..ChildOptions::default() };
    vhdx::format_child(&*leaf, &identity, r".\base.vhdx", &options).expect("format a child");
    let base = named(base.image(), BASE_GUID);
    let parent = Arc::new(Sparse::new(base.clone()));
    let disk = Chain::over(vec![leaf.clone(), parent], Access::ReadWrite).expect("open a chain");
    disk.write_at(4096, &[0x1E; 9000]).expect("write a part of a block");
    disk.write_at(MIB, &vec![0x1F; MIB as usize]).expect("write a block");
    disk.write_zeroes(2 * MIB, MIB).expect("zero a block");
    disk.discard(3 * MIB, MIB).expect("discard a block");
    disk.close().expect("close a chain");
    let mut leaf = named(leaf.image(), LEAF_GUID);
    let same = log::Change::Page { at: BAT, bytes: read(&leaf, BAT, 4096) };
    let length = leaf.length();
    let entry = log::Entry { number: 1, tail: 0, flushed: length, last: length };
    leaf.punch(LOG, 4 * MIB);
    leaf.write(LOG, &entry.encode(&[same]));
    [leaf, base]
}

/// Gives both headers the same GUIDs in every process.
fn named(mut image: Image, data_write_guid: Guid) -> Image {
    for at in HEADERS {
        image.write(at + 16, &data_write_guid.to_bytes());
        image.write(at + 32, &data_write_guid.to_bytes());
        image.write(at + 48, &Guid::NIL.to_bytes());
        seal(&mut image, at, 4096);
    }
    image
}

/// Makes the checksum of a record right.
pub(crate) fn seal(image: &mut Image, at: u64, length: usize) {
    image.write(at + 4, &[0; 4]);
    let crc = crc32c::crc32c(&read(image, at, length));
    image.write(at + 4, &crc.to_le_bytes());
}

/// Reads bytes of an image; those past its end are zeros.
pub(crate) fn read(image: &Image, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let there = image.length().saturating_sub(at).min(length as u64) as usize;
    image.read(at, &mut bytes[..there]).expect("within the image");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_our_files_are_where_targets_write_them() {
        let [leaf, _] = chain();
        for (at, signature) in [
            (0, &b"vhdxfile"[..]),
            (HEADERS[0], b"head"),
            (HEADERS[1], b"head"),
            (REGION_TABLES[0], b"regi"),
            (REGION_TABLES[1], b"regi"),
            (LOG, b"loge"),
            (METADATA, b"metadata"),
        ] {
            assert_eq!(read(&leaf, at, signature.len()), signature);
        }
        let states: Vec<u8> = (0..5).map(|slot| read(&leaf, BAT + slot * 8, 1)[0] & 7).collect();
        assert_eq!(states, [7, 6, 2, 3, 0]);
        assert_eq!(read(&leaf, BAT + CHUNK_RATIO * 8, 1)[0] & 7, 6);
    }

    #[test]
    fn the_entry_in_the_log_counts_once_a_header_names_it() {
        let [mut leaf, base] = chain();
        for at in HEADERS {
            leaf.write(at + 48, &LOG_GUID.to_bytes());
            seal(&mut leaf, at, 4096);
        }
        let open = |leaf| {
            let layers = [leaf, base.clone()].map(|image| Arc::new(Sparse::new(image)) as _);
            Chain::over(layers.into(), Access::ReadOnly).map(drop)
        };
        open(leaf.clone()).expect("the entry is valid");
        leaf.write(LOG, b"nope");
        open(leaf).expect_err("no entry is left");
    }
}
