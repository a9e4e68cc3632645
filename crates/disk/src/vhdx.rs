//! VHDX files, version 1: fixed, dynamic and differencing disks.
//!
//! ```text
//!   0      file identifier        written once
//!   64 KiB two headers            GUIDs; is the log in use?      header
//!   192 KiB two region tables     where the BAT and metadata are region
//!   1 MiB… log                    metadata on its way            log
//!          metadata               sizes, identity, parent        metadata, locator
//!          BAT                    block → offset in the file     bat
//!          payload blocks         the guest's bytes
//!          sector bitmap blocks   child: which sectors are here  bitmap
//! ```
//! A `layer` is one open file. Reading it needs the BAT's pages only as they are touched (`pages`);
//! writing (`write`) changes pages in memory, and a flush (`commit`) puts all of them in one log entry.
//! Source: [MS-VHDX]; a differencing disk reads sectors it does not hold from the next file of its chain.

mod bat;
mod bitmap;
mod bytes;
pub(crate) mod check;
pub(crate) mod commit;
pub(crate) mod compact;
mod create;
pub(crate) mod header;
mod info;
pub(crate) mod layer;
mod locator;
mod log;
mod metadata;
mod region;
mod relink;
pub(crate) mod repair;
pub(crate) mod resize;
mod space;
mod write;

use std::ops::Range;

pub use create::{
    ChildOptions, CreateOptions, ParentIdentity, create, create_child, format, format_child,
};
pub use info::{Info, info};
pub use locator::ParentLink;

pub use crate::kind::{Kind, Provision};

/// The unit of the log and of the page cache.
pub(crate) const PAGE: usize = 4096;
pub(crate) const MIB: u64 = 1 << 20;
/// No file of ours or anybody's is larger: twice the largest virtual disk.
const MAX_FILE: u64 = 128 << 40;

fn overlap<T: PartialOrd>(a: &Range<T>, b: &Range<T>) -> bool {
    a.start < b.end && b.start < a.end
}
