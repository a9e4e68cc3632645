//! What gets exported to a virtual machine.

use crate::error::Result;

/// The size and sectors a guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the virtual disk in bytes; a multiple of `logical_sector`.
    pub virtual_size: u64,
    /// The smallest unit a guest may address, in bytes: 512 or 4096.
    pub logical_sector: u32,
    /// The smallest unit that is written without a read before it, in bytes: 512 or 4096.
    pub physical_sector: u32,
}

/// What is known about a range of a disk without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Some layer holds bytes for it.
    Data,
    /// Some layer says that it is zeros.
    Zero,
    /// No layer of the chain knows it; reads as zeros.
    Absent,
}

/// A range of a disk that is of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts on the virtual disk, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; never 0.
    pub length: u64,
    /// What is there.
    pub kind: ExtentKind,
}

/// A disk of bytes that several threads may use at once.
///
/// Offsets and lengths are bytes of the virtual disk and may have any alignment. A range that ends
/// past the disk fails with [`crate::ErrorKind::OutOfRange`] and changes nothing. Two requests that
/// overlap and run at the same time leave, per logical sector, the bytes of one of them.
///
/// A change is durable once a [`Disk::flush`] that began after it returned has itself returned. After a power
/// cut every logical sector holds either what was last flushed or something written to it since.
pub trait Disk: Send + Sync {
    /// Returns size and sectors; constant while the disk is open.
    fn geometry(&self) -> Geometry;

    /// Fills `buffer` with the bytes at `offset`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Writes `data` at `offset`.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Makes the range read as zeros, giving space back where whole blocks are covered.
    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()>;

    /// Tells that the guest no longer needs the range.
    ///
    /// Blocks that are covered whole read as zeros afterwards, never as a parent's old bytes; parts of blocks read
    /// as zeros or as before.
    fn discard(&self, offset: u64, length: u64) -> Result<()>;

    /// Lists what is known of the range: at most `limit` extents, contiguous from `offset`, neighbours of one kind merged.
    ///
    /// May stop before the end of the range; for a range and a limit that are not empty, at least one extent is returned.
    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>>;

    /// As [`Disk::extents`], for somebody who is going to read all of the data: what is no data in a layer's file, but a hole in
    /// the host's, is [`ExtentKind::Zero`] where the disk can tell.
    ///
    /// Asks the host's file system about each; nobody changes the disk meanwhile.
    fn extents_and_holes(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>> {
        self.extents(offset, length, limit)
    }

    /// Makes every completed change durable.
    fn flush(&self) -> Result<()>;
}
