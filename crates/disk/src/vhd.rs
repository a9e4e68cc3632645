//! VHD files, version 1.0: fixed, dynamic and differencing disks.
//!
//! ```text
//!   fixed                     dynamic, differencing
//!   the guest's bytes         0      copy of the footer
//!                             512    header: block size, parent       header, locator
//!                                    names of the parent
//!                                    table: block → sector of the file  bat
//!                                    blocks: a bitmap of sectors, data  bitmap
//!   footer                    footer: size, identity                  footer
//! ```
//! A `layer` is one open file. A disk in blocks (`sparse`) reads its table's sectors only as they are touched;
//! writing (`write`) changes sectors in memory, and a flush (`commit`) writes them when what they name is durable: VHD has no log.
//! A differencing disk reads sectors it does not hold from the next file of its chain; the parent is
//! known by its unique id, which writing to it does not change.
//!
//! All numbers are big-endian, sectors are of 512 bytes, a file has at most 2 TiB. Sources: the Virtual Hard Disk Image Format
//! Specification of 2006, and what Hyper-V, QEMU and Azure write and expect.

mod bat;
mod bitmap;
mod bytes;
pub(crate) mod check;
mod chs;
mod commit;
pub(crate) mod compact;
mod create;
mod footer;
mod header;
mod info;
pub(crate) mod layer;
mod locator;
mod relink;
pub(crate) mod repair;
pub(crate) mod resize;
mod space;
mod sparse;
mod write;

pub use chs::Chs;
pub use create::{
    ChildOptions, CreateOptions, ParentIdentity, create, create_child, format, format_child,
};
pub use info::{Info, info};
pub use locator::ParentLink;
pub use relink::set_parent_path;

pub use crate::kind::{Kind, Provision};

use bytes::Checksums;
use footer::{Footer, Found};

use crate::error::{During, Result};
use crate::storage::Storage;

/// The only sector size there is, and the unit of metadata.
const SECTOR: u64 = 512;
/// The largest disk that Hyper-V and QEMU take.
const MAX_SPARSE: u64 = 2040 << 30;
/// What Azure takes as a fixed disk is larger; such a file is read.
const MAX_FIXED: u64 = 64 << 40;
/// Where the numbers of sectors end, in bytes; the last one means that a block is not there.
const MAX_FILE: u64 = (1 << 41) - 512;

/// Whether a file claims to be a VHD, at its end or at its beginning; it may be damaged all the same.
pub(crate) fn has_signature(storage: &dyn Storage) -> Result<bool> {
    let length = storage.len().during("read the file's length")?;
    let places = [length.checked_sub(512), Some(0), length.checked_sub(511)];
    for at in places.into_iter().flatten().filter(|at| at + 8 <= length) {
        let mut signature = [0; 8];
        storage.read_at(at, &mut signature).during("read the file's signature")?;
        if &signature == footer::COOKIE {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a file is a fixed disk with its footer and nothing else.
pub(crate) fn is_whole_fixed(storage: &dyn Storage) -> bool {
    let Ok((footer, found)) = Footer::find(storage, Checksums::Required) else { return false };
    let footer_length = if found == Found::Short { 511 } else { 512 };
    let length = footer.virtual_size() + footer_length;
    footer.kind() == Kind::Fixed && storage.len().is_ok_and(|found| found == length)
}

/// Whether a block may have so many bytes: a power of two of whole sectors.
fn block_size_in_limits(block_size: u32) -> bool {
    block_size.is_power_of_two() && u64::from(block_size) >= SECTOR
}
