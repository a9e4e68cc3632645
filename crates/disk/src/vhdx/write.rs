//! Changing a layer: where bytes go, and which metadata follows them.
//!
//! Payload is written first, then the BAT entry or bitmap bits that make it visible are changed in
//! memory; [`super::commit`] syncs the one before it logs the other. A block is changed in place under
//! its stripe's shared lock and moved, allocated or given up under the exclusive one.
//!
//! ```text
//!                  part written             whole written      discarded, zeroed
//!   not present    full; in a child         full               unmapped, zero
//!                  partial + bitmap bits
//!   zero, unmapped full, rest zeros         full               as it was
//!   partial        bits; full when all set  full               unmapped, zero; space freed
//!   full           in place                 in place           unmapped, zero; space freed
//! ```
//! Blocks of a fixed disk stay full: what is discarded or zeroed becomes zeros in place.
//! Source: [MS-VHDX] 2.5.1.1.

use std::ops::Range;

use super::bat::{Payload, Piece, encode_bitmap};
use super::bitmap;
use super::bytes::FieldsMut;
use super::commit::{Edit, Writer};
use super::layer::{Block, Layer};
use super::space::Allocation;
use super::{Kind, MIB, PAGE};
use crate::error::{During, Error, ErrorKind, Result};
use crate::layer::{Below, Clearing, Place, Run};

/// What to store at a piece that needs a block or bits of its own.
enum Content<'a> {
    Bytes(&'a [u8]),
    Zeros,
}

impl Layer {
    pub(super) fn writer(&self) -> Result<&Writer> {
        let read_only = || Error::new(ErrorKind::ReadOnly, "the disk is open for reading");
        self.writer.as_ref().ok_or_else(read_only)
    }

    /// Writes bytes at an offset of the virtual disk; the range lies within the disk.
    pub(crate) fn write(&self, offset: u64, data: &[u8], below: &dyn Below) -> Result<()> {
        let mut rest = data;
        for piece in self.pieces(offset, data.len() as u64) {
            let (now, later) = rest.split_at(piece.length as usize);
            self.write_piece(&piece, now, below)?;
            rest = later;
        }
        Ok(())
    }

    fn write_piece(&self, piece: &Piece, data: &[u8], below: &dyn Below) -> Result<()> {
        let stripe = self.writer()?.stripe(piece.block);
        {
            let _shared = stripe.read();
            if self.change_in_place(piece, &Content::Bytes(data))? {
                return Ok(());
            }
        }
        let _alone = stripe.write();
        self.change_alone(piece, &Content::Bytes(data), below)
    }

    /// Makes a range of the virtual disk zeros.
    pub(crate) fn clear(&self, range: Range<u64>, how: Clearing, below: &dyn Below) -> Result<()> {
        for piece in self.pieces(range.start, range.end - range.start) {
            let _alone = self.writer()?.stripe(piece.block).write();
            if self.layout.is_whole(&piece) {
                self.clear_block(&piece, how, below)?;
            } else if how == Clearing::Zeroes {
                self.change_alone(&piece, &Content::Zeros, below)?;
            } else {
                self.punch_present(&piece)?;
            }
        }
        Ok(())
    }

    fn clear_block(&self, piece: &Piece, how: Clearing, below: &dyn Below) -> Result<()> {
        let freed = match self.block(piece.block)? {
            Block::Zero => return Ok(()),
            Block::NotPresent if self.reads_zeros_below(piece, below)? => return Ok(()),
            Block::NotPresent => None,
            Block::Full(data) if self.kind() == Kind::Fixed => {
                return self.punch(data, self.layout.block_size);
            }
            Block::Full(data) | Block::Partial { data, .. } => Some(data),
        };
        let state = match how {
            Clearing::Zeroes => Payload::Zero,
            Clearing::Discard => Payload::Unmapped,
        };
        self.publish_block(piece, state, &[], |edit| {
            if let Some(data) = freed {
                edit.free(data..data + self.layout.block_size);
            }
        })
    }

    /// Gives the host the space of sectors that are here. No metadata changes: they stay here, as zeros.
    fn punch_present(&self, piece: &Piece) -> Result<()> {
        let mut runs = Vec::new();
        self.map_piece(piece, &mut runs)?;
        for Run { length, place } in runs {
            if let Place::Here(at) = place {
                self.punch(at, length)?;
            }
        }
        Ok(())
    }

    /// Changes a block that has its space already; `false` when that is not enough.
    ///
    /// Enough is: the block is full, or it is partial and no sector is only partly covered that is not here yet.
    fn change_in_place(&self, piece: &Piece, content: &Content<'_>) -> Result<bool> {
        match self.block(piece.block)? {
            Block::Full(data) => {
                self.store(data + piece.start, piece.length, content)?;
                Ok(true)
            }
            Block::Partial { data, bitmap } => self.change_partial(piece, data, bitmap, content),
            Block::NotPresent | Block::Zero => Ok(false),
        }
    }

    fn change_partial(
        &self,
        piece: &Piece,
        data: u64,
        bitmap: u64,
        content: &Content<'_>,
    ) -> Result<bool> {
        if self.layout.is_whole(piece) {
            self.store(data, piece.length, content)?;
            self.publish_block(piece, Payload::Full(data), &[], |_| ())?;
            return Ok(true);
        }
        let mut runs = Vec::new();
        self.each_bit_run(piece, bitmap, |present, _| runs.push(present))?;
        let (head, tail) = self.ragged(piece);
        if (head && !runs[0]) || (tail && !runs[runs.len() - 1]) {
            return Ok(false);
        }
        self.store(data + piece.start, piece.length, content)?;
        if runs.contains(&false) {
            self.publish_bits(piece, data, bitmap)?;
        }
        Ok(true)
    }

    /// Changes a block that nobody else uses meanwhile, allocating where needed.
    fn change_alone(&self, piece: &Piece, content: &Content<'_>, below: &dyn Below) -> Result<()> {
        if self.change_in_place(piece, content)? {
            return Ok(());
        }
        let zeros = matches!(content, Content::Zeros);
        match self.block(piece.block)? {
            Block::Zero if zeros => Ok(()),
            Block::NotPresent if zeros && self.reads_zeros_below(piece, below)? => Ok(()),
            Block::NotPresent if self.parent().is_some() && !self.layout.is_whole(piece) => self
                .with_whole_sectors(piece, content, below, |piece, content| {
                    self.allocate_partial(piece, content)
                }),
            Block::NotPresent | Block::Zero => self.allocate_full(piece, content),
            Block::Full(_) | Block::Partial { .. } => {
                self.with_whole_sectors(piece, content, below, |piece, content| {
                    self.change_in_place(piece, content).map(drop)
                })
            }
        }
    }

    fn reads_zeros_below(&self, piece: &Piece, below: &dyn Below) -> Result<bool> {
        let start = self.offset_of(piece);
        Ok(self.parent().is_none() || below.is_zero(start..start + piece.length)?)
    }

    /// Returns whether the first and the last sector of a piece are covered only in part.
    fn ragged(&self, piece: &Piece) -> (bool, bool) {
        let sector = self.layout.sector;
        let end = piece.start + piece.length;
        (!piece.start.is_multiple_of(sector), !end.is_multiple_of(sector))
    }

    /// Calls `change` with the piece grown to whole sectors, filled up with what the disk reads there now.
    fn with_whole_sectors(
        &self,
        piece: &Piece,
        content: &Content<'_>,
        below: &dyn Below,
        change: impl FnOnce(&Piece, &Content<'_>) -> Result<()>,
    ) -> Result<()> {
        if self.ragged(piece) == (false, false) {
            return change(piece, content);
        }
        let sector = self.layout.sector;
        let start = piece.start / sector * sector;
        let end = (piece.start + piece.length).next_multiple_of(sector);
        let grown = Piece { block: piece.block, start, length: end - start };
        let mut bytes = vec![0; grown.length as usize];
        let within = (piece.start - start) as usize;
        for edge in [0..sector as usize, bytes.len() - sector as usize..bytes.len()] {
            let edge_piece = Piece { start: start + edge.start as u64, length: sector, ..grown };
            self.read_piece(&edge_piece, &mut bytes[edge], below)?;
        }
        let target = &mut bytes[within..within + piece.length as usize];
        match content {
            Content::Bytes(data) => target.copy_from_slice(data),
            Content::Zeros => target.fill(0),
        }
        change(&grown, &Content::Bytes(&bytes))
    }

    /// Reads a piece through this layer and those below; the caller holds its block.
    pub(super) fn read_piece(
        &self,
        piece: &Piece,
        buffer: &mut [u8],
        below: &dyn Below,
    ) -> Result<()> {
        let (data, bitmap) = match self.block(piece.block)? {
            Block::Full(data) => return self.read_here(data + piece.start, buffer),
            Block::NotPresent => return below.read(self.offset_of(piece), buffer),
            Block::Zero => {
                buffer.fill(0);
                return Ok(());
            }
            Block::Partial { data, bitmap } => (data, bitmap),
        };
        let mut runs = Vec::new();
        self.map_partial(piece, data, bitmap, &mut runs)?;
        let (mut offset, mut rest) = (self.offset_of(piece), buffer);
        for run in runs {
            let (now, later) = rest.split_at_mut(run.length as usize);
            match run.place {
                Place::Here(at) => self.read_here(at, now)?,
                Place::Zero => now.fill(0),
                Place::Below => below.read(offset, now)?,
            }
            offset += run.length;
            rest = later;
        }
        Ok(())
    }

    /// Allocates a block that reads zeros around the piece.
    fn allocate_full(&self, piece: &Piece, content: &Content<'_>) -> Result<()> {
        self.allocated(self.layout.block_size, |data| {
            self.store_fresh(data + piece.start, content)?;
            self.publish_block(piece, Payload::Full(data), &[], |_| ())
        })
    }

    /// Allocates a block that reads the parent around the piece, which is of whole sectors.
    fn allocate_partial(&self, piece: &Piece, content: &Content<'_>) -> Result<()> {
        let bitmap = self.ensure_bitmap(piece.block)?;
        let whole = Piece { start: 0, length: self.layout.block_size, ..*piece };
        self.allocated(self.layout.block_size, |data| {
            self.store_fresh(data + piece.start, content)?;
            let pages: Vec<u64> = bitmap_pages(bitmap, self.bits(&whole)).collect();
            // Bits may be left from an earlier life of the block.
            self.publish_block(piece, Payload::Partial(data), &pages, |edit| {
                edit.fill_bits(bitmap, self.bits(&whole), false);
                edit.fill_bits(bitmap, self.bits(piece), true);
            })
        })
    }

    /// Returns the bitmap block of a chunk, allocating it; all its bits are 0 then.
    fn ensure_bitmap(&self, block: u64) -> Result<u64> {
        if let Some(bitmap) = self.bitmap_block(block)? {
            return Ok(bitmap);
        }
        let _one_at_a_time = self.writer()?.bitmaps.lock();
        if let Some(bitmap) = self.bitmap_block(block)? {
            return Ok(bitmap);
        }
        self.allocated(MIB, |bitmap| {
            let (page, within) = self.bat_place(self.layout.bitmap_slot(block));
            self.publish(&[page], |edit| {
                edit.page(page).put(within, &encode_bitmap(bitmap).to_le_bytes());
            })?;
            Ok(bitmap)
        })
    }

    /// Calls `publish` with the file offset of zeroed space, and takes the space back if it fails.
    pub(super) fn allocated<T>(
        &self,
        length: u64,
        publish: impl FnOnce(u64) -> Result<T>,
    ) -> Result<T> {
        let Allocation { place, used_before } = self.allocate(length)?;
        let outcome = match used_before {
            true => self.punch(place.start, length),
            false => Ok(()),
        };
        let outcome = outcome.and_then(|()| publish(place.start));
        if outcome.is_err() {
            self.release(place);
        }
        outcome
    }

    /// Sets the bits of a piece, and makes the block full when no bit is missing.
    fn publish_bits(&self, piece: &Piece, data: u64, bitmap: u64) -> Result<()> {
        let all = Piece { start: 0, length: self.layout.bytes_in(piece.block), ..*piece };
        let pages: Vec<u64> = bitmap_pages(bitmap, self.bits(piece)).collect();
        self.publish(&pages, |edit| edit.fill_bits(bitmap, self.bits(piece), true))?;
        for (page, bits) in bitmap::by_page(self.bits(&all)) {
            let at = bitmap + page * PAGE as u64;
            if !self.with_page(at, |page| bitmap::is_full(page, bits))? {
                return Ok(());
            }
        }
        self.publish_block(piece, Payload::Full(data), &[], |_| ())
    }

    /// Changes a block's BAT entry and, in the same log entry, the pages in `more`.
    fn publish_block(
        &self,
        piece: &Piece,
        state: Payload,
        more: &[u64],
        change: impl FnOnce(&mut Edit<'_>),
    ) -> Result<()> {
        let (page, within) = self.bat_place(self.layout.payload_slot(piece.block));
        let pages: Vec<u64> = more.iter().copied().chain([page]).collect();
        self.publish(&pages, |edit| {
            edit.page(page).put(within, &state.encode().to_le_bytes());
            change(edit);
        })
    }

    fn store(&self, at: u64, length: u64, content: &Content<'_>) -> Result<()> {
        match content {
            Content::Bytes(data) => self.storage.write_at(at, data).during("write a payload block"),
            Content::Zeros => self.punch(at, length),
        }
    }

    /// Stores into space that holds zeros.
    fn store_fresh(&self, at: u64, content: &Content<'_>) -> Result<()> {
        match content {
            Content::Bytes(data) => self.storage.write_at(at, data).during("write a payload block"),
            Content::Zeros => Ok(()),
        }
    }

    pub(super) fn punch(&self, at: u64, length: u64) -> Result<()> {
        self.storage.punch_hole(at, length).during("clear a payload block")
    }
}

impl Edit<'_> {
    fn fill_bits(&mut self, bitmap: u64, bits: Range<u64>, value: bool) {
        for (page, bits) in bitmap::by_page(bits) {
            bitmap::fill(self.page(bitmap + page * PAGE as u64), bits, value);
        }
    }
}

/// File offsets of the pages that hold these bits.
fn bitmap_pages(bitmap: u64, bits: Range<u64>) -> impl Iterator<Item = u64> {
    bitmap::by_page(bits).map(move |(page, _)| bitmap + page * PAGE as u64)
}
