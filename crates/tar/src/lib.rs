//! Reading tar archives that may be hostile: what their entries say, in bounded memory.
//!
//! Used where an archive is unpacked (in the guest) and where one is only looked into (on the host).
//! What an entry means for a disk, and whether its name may be used, is the reader's affair.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut builder = tar::Builder::new(Vec::new());
//! let mut header = tar::Header::new_gnu();
//! header.set_size(5);
//! builder.append_data(&mut header, "etc/hostname", &b"ireko"[..])?;
//! let bytes = builder.into_inner()?;
//!
//! let mut archive = ireko_tar::Archive::new(&bytes[..]);
//! let entry = archive.next_entry()?.unwrap();
//! assert_eq!((&entry.path[..], entry.size), (&b"etc/hostname"[..], 5));
//! assert!(archive.next_entry()?.is_none());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod archive;
mod error;
mod pax;

pub use archive::{Archive, Entry, Kind, begins_archive};
pub use error::{Error, Result};
