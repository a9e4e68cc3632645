//! Reading zip archives that may be hostile: one reading of them, in bounded memory.
//!
//! A zip says most things twice, and readers that believe different places see different files. Here
//! the central directory counts, the local headers must agree with it, and what an honest archiver
//! never writes refuses the archive: bytes that belong to two entries, two entries of one name, a
//! directory that is larger than it says. What a name may be used for is the reader's affair.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::io::Write;
//!
//! let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
//! writer.start_file("etc/hostname", zip::write::SimpleFileOptions::default())?;
//! writer.write_all(b"ireko")?;
//! let bytes = writer.finish()?.into_inner();
//!
//! let archive = ireko_zip::Archive::open(bytes)?;
//! let entry = &archive.entries()[0];
//! assert_eq!((entry.name.as_str(), entry.length), ("etc/hostname", 5));
//! let mut plain = Vec::new();
//! archive.read(entry, &mut |_, piece| Ok::<_, ireko_zip::Error>(plain.extend_from_slice(piece)))?;
//! assert_eq!(plain, b"ireko");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod archive;
mod directory;
mod entry;
mod error;
mod fields;
mod source;

pub use archive::{Archive, Take};
pub use entry::{Entry, Kind, Method, Time};
pub use error::{Error, Result};
pub use source::Source;

#[cfg(test)]
mod tests;
