//! What must hold of a disk file before another program may convert it.
//!
//! These formats can name further files, a parent or the place of their data, and their reader would
//! open whatever is named: any file of the host could be read into an image. Here a file is read
//! just far enough to know that it names none. What passes may still be damaged: whoever converts it
//! is confined, and what comes out is checked as any disk is.

mod qcow2;
mod vdi;
mod vmdk;

use crate::error::{During, Error, Result};
use crate::recognise::DiskFormat;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The largest virtual disk: as much as a VHDX can have.
pub(crate) const MAX_DISK: u64 = 64 << 40;

/// The largest table that is read: more than 64 TiB need in any of the formats.
const MAX_TABLE: u64 = 64 << 20;

/// Checks that a file names no other one, and returns its disk's size in bytes.
///
/// Fails with [`crate::ErrorKind::BadInput`] where it does, is damaged or is not of this format.
pub(crate) fn vet(path: &Path, format: DiskFormat) -> Result<u64> {
    let file = File::open(path).during(|| format!("look at {}", path.display()))?;
    let header = Header { file: &file, path };
    let size = match format {
        DiskFormat::Qcow2 => qcow2::check(&header)?,
        DiskFormat::Vmdk => vmdk::check(&header)?,
        DiskFormat::Vdi => vdi::check(&header)?,
        DiskFormat::Vhdx | DiskFormat::Vhd | DiskFormat::Raw => {
            return Err(header.refused(format_args!("is no file for another program ({format})")));
        }
    };
    match size {
        0 => Err(header.refused("is a disk of 0 bytes")),
        1..=MAX_DISK => Ok(size),
        _ => Err(header.refused(format_args!("is a disk of {size} bytes; 64 TiB is the most"))),
    }
}

/// The beginning of a file, and the words for what is wrong with it.
struct Header<'a> {
    file: &'a File,
    path: &'a Path,
}

impl Header<'_> {
    /// Reads `N` bytes at `offset`; a file that ends before is refused.
    fn bytes<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.refused("is cut off"))
            }
            Err(error) => Err(error).during(|| format!("read {}", self.path.display())),
        }
    }

    /// Reads up to `length` bytes at `offset`, fewer where the file ends.
    fn up_to(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            let at = offset.saturating_add(filled as u64);
            match self.file.read_at(&mut bytes[filled..], at) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).during(|| format!("read {}", self.path.display())),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Reads a table that lies within the file, as was checked.
    fn table(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        if length > MAX_TABLE {
            return Err(self.refused(format_args!("has a table of {length} bytes")));
        }
        let length = length as usize;
        let table = self.up_to(offset, length)?;
        match table.len() == length {
            true => Ok(table),
            false => Err(self.refused("is cut off")),
        }
    }

    fn length(&self) -> Result<u64> {
        let metadata = self.file.metadata();
        metadata.map(|file| file.len()).during(|| format!("look at {}", self.path.display()))
    }

    fn refused(&self, what: impl std::fmt::Display) -> Error {
        Error::bad_input(format!("{} {what}", self.path.display()))
    }
}

#[cfg(test)]
mod tests;
