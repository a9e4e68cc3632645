//! Raw disks: a file whose bytes are the virtual disk's.
//!
//! A file that ends within a sector reads as if zeros followed; opened for writing, it is made whole.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::Geometry;
use crate::error::{During, Error, ErrorKind, Result};
use crate::layer::{Place, Run};
use crate::storage::{Storage, in_new_file};

/// Raw files say nothing of sectors; this is what every reader takes them for.
const SECTOR: u64 = 512;
/// How much of the disk one look at it covers.
const STEP: u32 = 64 << 20;
const MAX_SIZE: u64 = 64 << 40;

/// Makes a raw disk of zeros in a new file, sparse; synced, its folder is not.
///
/// `virtual_size` is in bytes: a multiple of 512, up to 64 TiB. Refuses a path that exists.
pub fn create(path: &Path, virtual_size: u64) -> Result<()> {
    check_size(virtual_size)?;
    in_new_file(path, |file| {
        file.set_len(virtual_size).during("grow the new file")?;
        file.sync().during("sync the new file")
    })
}

/// Checks the size of a raw disk in bytes.
pub(crate) fn check_size(size: u64) -> Result<()> {
    if size == 0 || size > MAX_SIZE || !size.is_multiple_of(SECTOR) {
        let message = format!("a disk of {size} bytes; it is a multiple of 512, up to 64 TiB");
        return Err(Error::new(ErrorKind::OutOfRange, message));
    }
    Ok(())
}

/// An open raw file.
pub(crate) struct Layer {
    storage: Arc<dyn Storage>,
    /// Bytes in the file that are the disk's.
    length: u64,
    writable: bool,
    /// Set by a failed sync: what it should have made durable may be lost, and no later one can tell.
    broken: AtomicBool,
}

impl Layer {
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        let length = storage.len().during("read the file's length")?;
        if length == 0 || length > MAX_SIZE {
            let message = format!("a raw disk of {length} bytes; it has 1 byte to 64 TiB");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        Ok(Self { storage, length, writable: false, broken: AtomicBool::new(false) })
    }

    /// Opens the first `length` bytes of a file as a disk; the rest is another format's. The length is whole sectors.
    pub fn beginning(storage: Arc<dyn Storage>, length: u64) -> Result<Self> {
        let layer = Self::open(storage)?;
        match length <= layer.length {
            true => Ok(Self { length, ..layer }),
            false => Err(Error::corrupt("the file is shorter than its disk")),
        }
    }

    pub fn into_writable(self, storage: Arc<dyn Storage>) -> Result<Self> {
        let length = self.length.next_multiple_of(SECTOR);
        if length != self.length {
            storage.set_len(length).during("make the last sector whole")?;
        }
        Ok(Self { storage, length, writable: true, ..self })
    }

    pub fn geometry(&self) -> Geometry {
        Geometry {
            virtual_size: self.length.next_multiple_of(SECTOR),
            logical_sector: SECTOR as u32,
            physical_sector: SECTOR as u32,
        }
    }

    pub fn block_size(&self) -> u32 {
        STEP
    }

    /// The file, as far as its bytes are the disk's.
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    pub fn is_writable(&self) -> bool {
        self.writable
    }

    pub fn map(&self, range: Range<u64>, runs: &mut Vec<Run>) -> Result<()> {
        let mut at = range.start;
        let end = range.end.min(self.length);
        let mut push = |length, place| {
            if length > 0 {
                runs.push(Run { length, place });
            }
        };
        while at < end {
            let data = self.storage.next_data(at).during("look for holes")?;
            let (start, stop) = match data {
                Some(data) => (data.start.clamp(at, end), data.end.clamp(at, end)),
                None => (end, end),
            };
            push(start - at, Place::Zero);
            push(stop - start, Place::Here(start));
            at = stop.max(start);
        }
        push(range.end - at.max(range.start), Place::Zero);
        Ok(())
    }

    pub fn read_here(&self, place: u64, buffer: &mut [u8]) -> Result<()> {
        let present = self.length.saturating_sub(place).min(buffer.len() as u64);
        let (file, rest) = buffer.split_at_mut(present as usize);
        self.storage.read_at(place, file).during("read the file")?;
        rest.fill(0);
        Ok(())
    }

    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.storage.write_at(offset, data).during("write the file")
    }

    pub fn clear(&self, range: Range<u64>) -> Result<()> {
        self.storage.punch_hole(range.start, range.end - range.start).during("clear a range")
    }

    pub fn flush(&self) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Io, "an earlier sync of the disk failed"));
        }
        let outcome = self.storage.sync().during("sync the disk");
        if outcome.is_err() {
            self.broken.store(true, Ordering::Release);
        }
        outcome
    }

    pub fn settle(&self) -> Result<()> {
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;
    use crate::{Access, Chain, Disk, Extent, ExtentKind, Format};

    #[test]
    fn a_file_that_ends_within_a_sector_reads_zeros_after_it() {
        let storage = Arc::new(MemoryStorage::new(vec![7; 1000]));
        let disk = Chain::over_as(vec![storage.clone()], Format::Raw, Access::ReadOnly).unwrap();
        assert_eq!(disk.geometry().virtual_size, 1024);
        let mut bytes = [1; 1024];
        disk.read_at(0, &mut bytes).unwrap();
        assert!(bytes[..1000] == [7; 1000] && bytes[1000..] == [0; 24]);
        let disk = Chain::over_as(vec![storage.clone()], Format::Raw, Access::ReadWrite).unwrap();
        disk.write_at(1020, &[9; 4]).unwrap();
        assert_eq!(storage.snapshot()[1000..], [[0; 20].as_slice(), &[9; 4]].concat());
    }

    #[test]
    fn holes_are_zeros_without_being_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        create(&path, 8 << 20).unwrap();
        let disk = Chain::open_as(&path, Format::Raw, Access::ReadWrite).unwrap();
        disk.write_at(4 << 20, &[1; 1 << 20]).unwrap();
        let extents = disk.extents(0, 8 << 20, 10).unwrap();
        let extent = |offset: u64, length: u64, kind| Extent { offset, length, kind };
        assert_eq!(
            extents,
            [
                extent(0, 4 << 20, ExtentKind::Zero),
                extent(4 << 20, 1 << 20, ExtentKind::Data),
                extent(5 << 20, 3 << 20, ExtentKind::Zero),
            ]
        );
    }
}
