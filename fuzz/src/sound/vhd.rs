//! VHD files: a base, dynamic or fixed, and its child.
//!
//! ```text
//!   block   0        1        2        3 … 8
//!   leaf    partial  full     zeros    ·
//!   base    full     full     full     full
//! ```

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use ireko_disk::vhd::{self, ChildOptions, CreateOptions, ParentIdentity, Provision};
use ireko_disk::{Access, Chain, Disk, Guid};
use ireko_testkit::Image;

use super::{KIB, MIB, read};
use crate::sparse::Sparse;

/// Where a file has its parts; the footer itself ends it.
pub(crate) const COPY: u64 = 0;
pub(crate) const HEADER: u64 = 512;
pub(crate) const NAMES: u64 = 1536;
/// A base has no names and its table in their place.
pub(crate) const TABLES: [u64; 2] = [16 * KIB, 1536];
pub(crate) const FOOTER_LENGTH: u64 = 512;
pub(crate) const HEADER_LENGTH: u64 = 1024;

const BLOCK: u32 = 512 << 10;
const SIZE: u64 = 4 * MIB + 512 * KIB;

/// The leaf and the base.
pub(crate) fn chain(provision: Provision) -> [Image; 2] {
    static DYNAMIC: OnceLock<[Image; 2]> = OnceLock::new();
    static FIXED: OnceLock<[Image; 2]> = OnceLock::new();
    let chain = match provision {
        Provision::Dynamic => &DYNAMIC,
        Provision::Fixed { .. } => &FIXED,
    };
    chain.get_or_init(|| make(provision)).clone()
}

fn make(provision: Provision) -> [Image; 2] {
    let base = Arc::new(Sparse::new(Image::default()));
    let options = CreateOptions { block_size: BLOCK, provision, ..CreateOptions::new(SIZE) };
    vhd::format(&*base, &options).expect("format a base");
    let disk = Chain::over(vec![base.clone()], Access::ReadWrite).expect("open a base");
    for block in 0..9 {
        disk.write_at(block * u64::from(BLOCK), &[0xB0 + block as u8; 40_000]).expect("write");
    }
    disk.close().expect("close a base");
    let base = named(base.image());

    let identity = ParentIdentity::of(Arc::new(Sparse::new(base.clone())), SystemTime::UNIX_EPOCH);
    let leaf = Arc::new(Sparse::new(Image::default()));
    let options = ChildOptions { block_size: BLOCK, ..ChildOptions::default() };
    let identity = identity.expect("read the base");
    vhd::format_child(&*leaf, &identity, r".\base.vhd", &options).expect("format a child");
    let parent = Arc::new(Sparse::new(base.clone()));
    let disk = Chain::over(vec![leaf.clone(), parent], Access::ReadWrite).expect("open a chain");
    disk.write_at(4096, &[0x1E; 9000]).expect("write a part of a block");
    let block = u64::from(BLOCK);
    disk.write_at(block, &vec![0x1F; BLOCK as usize]).expect("write a block");
    disk.write_zeroes(2 * block, block).expect("zero a block");
    disk.close().expect("close a chain");
    [leaf.image(), base]
}

/// Gives a base the same identity in every process.
fn named(mut image: Image) -> Image {
    let unique_id = Guid::from_bytes([0xBA; 16]).to_bytes();
    for at in [COPY, image.length() - FOOTER_LENGTH] {
        if read(&image, at, 8) == b"conectix" {
            image.write(at + 68, &unique_id);
            seal_footer(&mut image, at);
        }
    }
    image
}

/// Makes a footer's checksum right.
pub(crate) fn seal_footer(image: &mut Image, at: u64) {
    seal(image, at, FOOTER_LENGTH, 64);
}

/// Makes a header's checksum right.
pub(crate) fn seal_header(image: &mut Image, at: u64) {
    seal(image, at, HEADER_LENGTH, 36);
}

/// Does nothing where the record would lie past the file's end.
fn seal(image: &mut Image, at: u64, length: u64, field: u64) {
    if at + length > image.length() {
        return;
    }
    image.write(at + field, &[0; 4]);
    let bytes = read(image, at, length as usize);
    let sum: u32 = bytes.iter().map(|&byte| u32::from(byte)).sum();
    image.write(at + field, &(!sum).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_our_files_are_where_targets_write_them() {
        for provision in [Provision::Dynamic, Provision::Fixed { preallocate: false }] {
            let [leaf, base] = chain(provision);
            for image in [&leaf, &base] {
                assert_eq!(read(image, image.length() - FOOTER_LENGTH, 8), b"conectix");
            }
            assert_eq!(read(&leaf, COPY, 8), b"conectix");
            assert_eq!(read(&leaf, HEADER, 8), b"cxsparse");
            let entries = read(&leaf, TABLES[0], 16);
            assert!(entries[..12].chunks(4).all(|entry| entry != [0xFF; 4]));
            assert_eq!(entries[12..], [0xFF; 4]);
            let layers = [leaf, base].map(|image| Arc::new(Sparse::new(image)) as _);
            Chain::over(layers.into(), Access::ReadOnly).expect("checksums are right");
        }
        let [_, base] = chain(Provision::Dynamic);
        assert_ne!(read(&base, TABLES[1], 4), [0xFF; 4]);
    }
}
