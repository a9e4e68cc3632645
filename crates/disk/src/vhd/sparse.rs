//! A dynamic or differencing disk: blocks that are found through a table.
//!
//! ```text
//!                     dynamic            differencing
//!   not there         zeros              parent
//!   there, bit 1      data               data
//!   there, bit 0      data, and zeros    parent
//! ```
//! Of a dynamic disk the format demands that sectors whose bit is 0 hold zeros, so that it does not matter
//! whether a reader looks at the bits. QEMU does not, Hyper-V and QEMU set all of them with a new block; here a
//! block that is there is data, whole.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};

use super::bat::{self, ENTRY, Layout};
use super::bitmap;
use super::bytes::{Checksums, Fields};
use super::commit::Writer;
use super::footer::{FOOTER, Footer, Found};
use super::header::{HEADER, Header};
use super::locator::{self, ParentLink};
use super::{Kind, MAX_FILE, SECTOR};
use crate::error::{During, Error, ErrorKind, Result};
use crate::layer::{Below, Place, Run};
use crate::pages::Pages;
use crate::piece::Piece;
use crate::storage::Storage;

/// A sector of metadata: what a disk writes whole or not at all.
pub(super) type Sector = [u8; SECTOR as usize];

/// Sectors of metadata that a layer keeps in memory when it is alone; parents of long chains keep fewer.
const LEAF_SECTORS: usize = 32_768;
/// Sectors kept for each page of 4 KiB that a caller allows.
const SECTORS_PER_PAGE: usize = 8;

/// An open dynamic or differencing disk.
pub(super) struct Sparse {
    pub storage: Arc<dyn Storage>,
    pub header: Header,
    pub layout: Layout,
    link: Option<ParentLink>,
    /// Bytes of the file that no block may take: the footer's copy, the header, the table.
    pub reserved: Vec<Range<u64>>,
    /// Bytes of the file that no new block takes: the parent's names, wherever they claim to lie.
    pub names: Vec<Range<u64>>,
    /// Where the footer begins, and blocks end.
    pub limit: AtomicU64,
    pub sectors: RwLock<Pages<{ SECTOR as usize }>>,
    pub writer: Option<Writer>,
}

impl Sparse {
    /// Opens a disk by its footer; reads the header and the parent's names, whatever the disk's size.
    pub fn open(
        storage: Arc<dyn Storage>,
        footer: &Footer,
        found: Found,
        checksums: Checksums,
    ) -> Result<Self> {
        let length = storage.len().during("read the file's length")?;
        let limit = match found {
            Found::AtEnd => length - FOOTER,
            Found::Copy => length,
            Found::Short => length - FOOTER + 1,
        };
        let at = footer.header_offset();
        let header = Header::read(&*storage, at, checksums)?;
        if at + HEADER > limit {
            return Err(Error::corrupt("the dynamic header lies over the footer"));
        }
        let layout = Layout::new(footer.virtual_size(), header.block_size());
        if u64::from(header.table_entries()) < layout.blocks() {
            return Err(Error::corrupt("the block table is too small for the disk"));
        }
        let start = header.table_offset();
        // Read and written in sectors, all of which the format has in the file.
        let end = start + u64::from(header.table_entries()) * ENTRY;
        let table = start..end.next_multiple_of(SECTOR);
        if table.end > limit {
            return Err(Error::corrupt("the block table lies outside the file"));
        }
        let link = (footer.kind() == Kind::Differencing)
            .then(|| ParentLink::read(&*storage, &header, length));
        let reserved = vec![0..FOOTER, at..at + HEADER, table];
        let names = match link {
            Some(_) => locator::ranges(&header, limit).collect(),
            None => Vec::new(),
        };
        Ok(Self {
            storage,
            header,
            layout,
            link,
            reserved,
            names,
            limit: AtomicU64::new(limit),
            sectors: RwLock::new(Pages::new(LEAF_SECTORS)),
            writer: None,
        })
    }

    pub fn with_page_limit(mut self, pages: usize) -> Self {
        self.sectors = RwLock::new(Pages::new(pages * SECTORS_PER_PAGE));
        self
    }

    /// What the file knows of its parent; `None` for a dynamic disk.
    pub fn parent(&self) -> Option<&ParentLink> {
        self.link.as_ref()
    }

    /// Keeps a block where it is while the guard lives. Read-only files need no guard.
    pub fn hold(&self, block: u64) -> Option<RwLockReadGuard<'_, ()>> {
        self.writer.as_ref().map(|writer| writer.stripe(block).read())
    }

    /// Reads through this layer and those below; the range lies within the disk.
    pub fn read(&self, offset: u64, buffer: &mut [u8], below: &dyn Below) -> Result<()> {
        let mut rest = buffer;
        for piece in self.layout.pieces(offset, rest.len() as u64) {
            let (now, later) = rest.split_at_mut(piece.length as usize);
            let _held = self.hold(piece.block);
            self.read_piece(&piece, now, below)?;
            rest = later;
        }
        Ok(())
    }

    /// Reads a piece through this layer and those below; the caller holds its block.
    pub fn read_piece(&self, piece: &Piece, buffer: &mut [u8], below: &dyn Below) -> Result<()> {
        let mut runs = Vec::new();
        self.map_piece(piece, &mut runs)?;
        let (mut offset, mut rest) = (self.layout.offset_of(piece), buffer);
        for run in runs {
            let (now, later) = rest.split_at_mut(run.length as usize);
            match run.place {
                Place::Here(at) => self.read_here(at, now)?,
                Place::Zero => now.fill(0),
                Place::Below if self.link.is_none() => now.fill(0),
                Place::Below => below.read(offset, now)?,
            }
            offset += run.length;
            rest = later;
        }
        Ok(())
    }

    /// Reads bytes of this file that a [`Place::Here`] pointed at.
    pub fn read_here(&self, place: u64, buffer: &mut [u8]) -> Result<()> {
        self.storage.read_at(place, buffer).during("read a block")
    }

    /// Appends the runs of a range of the virtual disk. What lies past this layer's disk is below.
    pub fn map(&self, range: Range<u64>, runs: &mut Vec<Run>) -> Result<()> {
        let end = range.end.min(self.layout.virtual_size).max(range.start);
        for piece in self.layout.pieces(range.start, end - range.start) {
            let _held = self.hold(piece.block);
            self.map_piece(&piece, runs)?;
        }
        if range.end > end {
            runs.push(Run { length: range.end - end, place: Place::Below });
        }
        Ok(())
    }

    /// Appends the runs of a part of a block.
    pub fn map_piece(&self, piece: &Piece, runs: &mut Vec<Run>) -> Result<()> {
        let whole = |place| Run { length: piece.length, place };
        match self.block(piece.block)? {
            None => runs.push(whole(Place::Below)),
            Some(at) if self.link.is_none() => {
                runs.push(whole(Place::Here(self.data(at) + piece.start)));
            }
            Some(at) => self.map_bits(piece, at, runs)?,
        }
        Ok(())
    }

    fn map_bits(&self, piece: &Piece, block: u64, runs: &mut Vec<Run>) -> Result<()> {
        let (data, end) = (self.data(block), piece.start + piece.length);
        let mut at = piece.start;
        // Where the present run of bits ends, in bytes of the block.
        let mut border = piece.start / SECTOR * SECTOR;
        self.each_bit_run(piece, block, |present, count| {
            border += count * SECTOR;
            let length = border.min(end) - at;
            let place = if present { Place::Here(data + at) } else { Place::Below };
            runs.push(Run { length, place });
            at += length;
        })
    }

    /// Calls `visit(bit, sectors)` for the sectors that a piece of the block at `block` touches, in order.
    pub fn each_bit_run(
        &self,
        piece: &Piece,
        block: u64,
        mut visit: impl FnMut(bool, u64),
    ) -> Result<()> {
        for (sector, bits) in bitmap::by_sector(bits(piece)) {
            self.with_sector(block + sector * SECTOR, |bytes| {
                bitmap::runs(bytes, bits, &mut visit);
            })?;
        }
        Ok(())
    }

    /// Where the data of the block at `block` begin.
    pub fn data(&self, block: u64) -> u64 {
        block + self.layout.bitmap_size
    }

    /// Returns where a block lies in the file, its bitmap first; the place is checked.
    pub fn block(&self, block: u64) -> Result<Option<u64>> {
        let (sector, within) = self.entry_place(block);
        let entry = self.with_sector(sector, |bytes| bytes.as_slice().u32(within))?;
        bat::decode(entry).map(|at| self.bounded(at)).transpose()
    }

    /// Returns the sector a block's entry lies in, and where in it.
    pub fn entry_place(&self, block: u64) -> (u64, usize) {
        let at = self.header.table_offset() + block * ENTRY;
        (at / SECTOR * SECTOR, (at % SECTOR) as usize)
    }

    /// Checks that a block lies in the file and in nothing else's place, a name's excepted: the file may have grown over
    /// what a wrong one claims, and bytes of the disk are worth more.
    pub fn bounded(&self, at: u64) -> Result<u64> {
        let place = at..at + self.layout.span();
        let outside = place.end > self.limit.load(Ordering::Acquire);
        if outside || self.reserved.iter().any(|range| overlap(range, &place)) {
            let message = format!("a block lies at {at:#x}, outside the file's space for blocks");
            return Err(Error::corrupt(message));
        }
        Ok(at)
    }

    fn with_sector<T>(&self, at: u64, look: impl FnOnce(&Sector) -> T) -> Result<T> {
        if let Some(sector) = self.sectors.read().get(at) {
            return Ok(look(sector));
        }
        // Reading under the lock: a sector read outside it could be stale by the time it is kept.
        Ok(look(self.sectors.write().load(&*self.storage, at)?))
    }

    /// Makes the disk ready to be written: both footers are there, durably.
    ///
    /// After a crash the end of the file may be without one, and the copy at the beginning out of date. Fails with
    /// [`ErrorKind::Corrupt`] where the copy, the header and the table share space: a new copy would change the table.
    pub fn into_writable(
        mut self,
        storage: Arc<dyn Storage>,
        footer: &Footer,
        found: Found,
    ) -> Result<Self> {
        let mut reserved = self.reserved.iter();
        while let Some(range) = reserved.next() {
            if reserved.as_slice().iter().any(|other| overlap(range, other)) {
                let message = "the footer's copy, the dynamic header and the block table overlap";
                return Err(Error::corrupt(message));
            }
        }
        match found {
            Found::AtEnd => {
                let copy = Footer::copy(&*storage, Checksums::Required);
                if copy.ok().as_ref() != Some(footer) {
                    storage.write_at(0, footer.record()).during("write the footer's copy")?;
                    storage.sync().during("sync the footer's copy")?;
                }
            }
            Found::Copy => {
                let end = self.limit.load(Ordering::Acquire).next_multiple_of(SECTOR);
                if end > MAX_FILE {
                    return Err(Error::corrupt("the file is larger than 2 TiB"));
                }
                storage.write_at(end, footer.record()).during("write the footer")?;
                storage.sync().during("sync the footer")?;
                self.limit = AtomicU64::new(end);
            }
            Found::Short => {
                let message = "the footer is a byte short, as old versions of Virtual PC wrote it: \
                               the disk can be read and copied, not written to";
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
        self.writer = Some(Writer::new(footer.clone()));
        self.storage = storage;
        Ok(self)
    }
}

/// Bits of a block's bitmap for the sectors that a piece touches.
pub(super) fn bits(piece: &Piece) -> Range<u64> {
    piece.start / SECTOR..(piece.start + piece.length).div_ceil(SECTOR)
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}
