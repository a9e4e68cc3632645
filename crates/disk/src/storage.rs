//! Where the bytes of a disk file lie: a file, memory, or a simulation in tests.

mod file;
mod memory;

use std::io;
use std::ops::Range;

pub(crate) use file::in_new_file;
pub use file::{FileStorage, Lock};
pub use memory::MemoryStorage;

/// A growable array of bytes that outlives the process, as a file is.
///
/// All methods may be called by several threads at once. Writes are durable after the next
/// [`Storage::sync`]; before it, a power cut may keep, lose, tear or reorder them.
#[allow(clippy::len_without_is_empty, reason = "the length of a file, not of a collection")]
pub trait Storage: Send + Sync {
    /// Fills `buffer` from `offset`; fails with [`io::ErrorKind::UnexpectedEof`] past the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset`, growing the storage where needed.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes all completed writes, holes and the length durable.
    fn sync(&self) -> io::Result<()>;

    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Cuts or grows; new bytes are zeros.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Takes the space of the range, so that writing there cannot run out of it; what it reads stays.
    ///
    /// Storage that never runs out, or cannot tell, does nothing.
    fn reserve(&self, offset: u64, length: u64) -> io::Result<()> {
        let _ = (offset, length);
        Ok(())
    }

    /// Makes the range read as zeros, giving its space back where possible; the length stays.
    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Returns the next range at or after `offset` that may hold other bytes than zeros; `None` when there is none.
    ///
    /// May call zeros data where it does not know better, never data zeros.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let length = self.len()?;
        Ok((offset < length).then_some(offset..length))
    }
}
