//! Changing a dynamic or differencing disk: where bytes go, and which metadata follows them.
//!
//! Data is written first, then the table entry or the bits that make it visible are changed in memory;
//! [`super::commit`] makes the one durable before it writes the other. A block is changed in place under its
//! stripe's shared lock and allocated or given up under the exclusive one.
//!
//! ```text
//!                part written                  zeroed, discarded whole
//!   not there    new block; in a child         not there; in a child, where the parent
//!                bits for the part only        has data, a new block of zeros
//!   there        in place, bits set            given up; in a child, where the parent
//!                                              has data, zeros in place
//! ```
//! There is no state for zeros: a child hides its parent's data with zeros of its own, and nothing else.

use std::ops::Range;

use super::SECTOR;
use super::bat;
use super::bitmap;
use super::bytes::FieldsMut;
use super::commit::Edit;
use super::space::{Allocation, Space};
use super::sparse::{Sparse, bits};
use crate::error::{During, Result};
use crate::layer::{Below, Clearing, Place, Run};
use crate::piece::Piece;

/// What to store at a piece that needs a block or bits of its own.
enum Content<'a> {
    Bytes(&'a [u8]),
    Zeros,
}

impl Sparse {
    /// Writes bytes at an offset of the virtual disk; the range lies within the disk.
    pub fn write(&self, offset: u64, data: &[u8], below: &dyn Below) -> Result<()> {
        let mut rest = data;
        for piece in self.layout.pieces(offset, data.len() as u64) {
            let (now, later) = rest.split_at(piece.length as usize);
            self.write_piece(&piece, &Content::Bytes(now), below)?;
            rest = later;
        }
        Ok(())
    }

    fn write_piece(&self, piece: &Piece, content: &Content<'_>, below: &dyn Below) -> Result<()> {
        let stripe = self.writer()?.stripe(piece.block);
        {
            let _shared = stripe.read();
            if self.change_in_place(piece, content)? {
                return Ok(());
            }
        }
        let _alone = stripe.write();
        self.change_alone(piece, content, below)
    }

    /// Makes a range of the virtual disk zeros; the range lies within the disk.
    pub fn clear(&self, range: Range<u64>, how: Clearing, below: &dyn Below) -> Result<()> {
        for piece in self.layout.pieces(range.start, range.end - range.start) {
            let _alone = self.writer()?.stripe(piece.block).write();
            let whole = self.layout.is_whole(&piece);
            if self.reads_zeros_below(&piece, below)? {
                match self.block(piece.block)? {
                    None => {}
                    Some(at) if whole => self.give_up(piece.block, at)?,
                    Some(_) => self.punch_present(&piece)?,
                }
            } else if whole || how == Clearing::Zeroes {
                self.change_alone(&piece, &Content::Zeros, below)?;
            } else {
                self.punch_present(&piece)?;
            }
        }
        Ok(())
    }

    fn reads_zeros_below(&self, piece: &Piece, below: &dyn Below) -> Result<bool> {
        let start = self.layout.offset_of(piece);
        Ok(self.parent().is_none() || below.is_zero(start..start + piece.length)?)
    }

    /// Takes a block out of the table.
    pub fn give_up(&self, block: u64, at: u64) -> Result<()> {
        self.publish_entry(block, None, &[], |edit| edit.free(at..at + self.layout.span()))
    }

    /// Makes zeros of what is here, giving the host its space. No metadata changes: it stays here.
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

    /// Changes a block that is there; `false` when it is not, or when a sector would need the parent's bytes around its new ones.
    fn change_in_place(&self, piece: &Piece, content: &Content<'_>) -> Result<bool> {
        let Some(block) = self.block(piece.block)? else { return Ok(false) };
        let mut present = Vec::new();
        self.each_bit_run(piece, block, |bit, _| present.push(bit))?;
        let (head, tail) = ragged(piece);
        let has_parent = self.parent().is_some();
        if has_parent && ((head && !present[0]) || (tail && !present[present.len() - 1])) {
            return Ok(false);
        }
        let at = self.data(block) + piece.start;
        match content {
            Content::Bytes(data) => self.storage.write_at(at, data).during("write a block")?,
            Content::Zeros => self.punch(at, piece.length)?,
        }
        if present.contains(&false) {
            self.publish_bits(piece, block)?;
        }
        Ok(true)
    }

    /// Changes a block that nobody else uses meanwhile, allocating where needed.
    fn change_alone(&self, piece: &Piece, content: &Content<'_>, below: &dyn Below) -> Result<()> {
        if self.change_in_place(piece, content)? {
            return Ok(());
        }
        if self.parent().is_none() {
            return self.allocate_block(piece, content);
        }
        self.with_whole_sectors(piece, content, below, |piece, content| {
            match self.block(piece.block)? {
                Some(_) => self.change_in_place(piece, content).map(drop),
                None => self.allocate_block(piece, content),
            }
        })
    }

    /// Calls `change` with the piece grown to whole sectors, filled up with what the disk reads there now.
    fn with_whole_sectors(
        &self,
        piece: &Piece,
        content: &Content<'_>,
        below: &dyn Below,
        change: impl FnOnce(&Piece, &Content<'_>) -> Result<()>,
    ) -> Result<()> {
        if ragged(piece) == (false, false) {
            return change(piece, content);
        }
        let start = piece.start / SECTOR * SECTOR;
        let end = (piece.start + piece.length).next_multiple_of(SECTOR);
        let grown = Piece { block: piece.block, start, length: end - start };
        let mut bytes = vec![0; grown.length as usize];
        for edge in [0..SECTOR as usize, bytes.len() - SECTOR as usize..bytes.len()] {
            let edge_piece = Piece { start: start + edge.start as u64, length: SECTOR, ..grown };
            self.read_piece(&edge_piece, &mut bytes[edge], below)?;
        }
        let within = (piece.start - start) as usize;
        let target = &mut bytes[within..within + piece.length as usize];
        match content {
            Content::Bytes(data) => target.copy_from_slice(data),
            Content::Zeros => target.fill(0),
        }
        change(&grown, &Content::Bytes(&bytes))
    }

    /// Allocates a block for a piece. Around it the block reads zeros, or what the parent holds.
    fn allocate_block(&self, piece: &Piece, content: &Content<'_>) -> Result<()> {
        self.allocated(Space::take_block, |block| {
            if let Content::Bytes(data) = content {
                let at = self.data(block) + piece.start;
                self.storage.write_at(at, data).during("write a block")?;
            }
            if self.parent().is_none() {
                // Durable before the entry is: nobody ever sees a block without them.
                let ones = vec![0xFF; self.layout.bitmap_size as usize];
                self.storage.write_at(block, &ones).during("write a block's bitmap")?;
                self.forget_bitmap(block);
                return self.publish_entry(piece.block, Some(block), &[], |_| ());
            }
            self.forget_bitmap(block);
            let sectors: Vec<u64> = bitmap_sectors(piece, block).collect();
            self.publish_entry(piece.block, Some(block), &sectors, |edit| {
                edit.set_bits(piece, block);
            })
        })
    }

    /// Calls `publish` with the place of zeroed space, and takes the space back if it fails.
    pub fn allocated<T>(
        &self,
        take: impl FnOnce(&mut Space) -> Result<Allocation>,
        publish: impl FnOnce(u64) -> Result<T>,
    ) -> Result<T> {
        let Allocation { place, used_before } = self.allocate(take)?;
        let cleared = match used_before {
            true => self.punch(place.start, place.end - place.start),
            false => Ok(()),
        };
        let outcome = cleared.and_then(|()| publish(place.start));
        if outcome.is_err() {
            self.release(place);
        }
        outcome
    }

    /// Drops what is in memory of a bitmap that was changed in the file.
    pub fn forget_bitmap(&self, block: u64) {
        self.sectors.write().forget(block..self.data(block));
    }

    fn publish_bits(&self, piece: &Piece, block: u64) -> Result<()> {
        let sectors: Vec<u64> = bitmap_sectors(piece, block).collect();
        self.publish(&sectors, |edit| edit.set_bits(piece, block))
    }

    /// Changes a block's table entry and, in the same step, the sectors in `more`.
    pub fn publish_entry(
        &self,
        block: u64,
        at: Option<u64>,
        more: &[u64],
        change: impl FnOnce(&mut Edit<'_>),
    ) -> Result<()> {
        let (sector, within) = self.entry_place(block);
        let sectors: Vec<u64> = more.iter().copied().chain([sector]).collect();
        self.publish(&sectors, |edit| {
            edit.sector(sector).put(within, &bat::encode(at).to_be_bytes());
            change(edit);
        })
    }

    fn punch(&self, at: u64, length: u64) -> Result<()> {
        self.storage.punch_hole(at, length).during("clear a part of the file")
    }
}

impl Edit<'_> {
    fn set_bits(&mut self, piece: &Piece, block: u64) {
        for (sector, bits) in bitmap::by_sector(bits(piece)) {
            bitmap::set(self.sector(block + sector * SECTOR), bits);
        }
    }
}

/// File offsets of the bitmap's sectors for a piece.
fn bitmap_sectors(piece: &Piece, block: u64) -> impl Iterator<Item = u64> {
    bitmap::by_sector(bits(piece)).map(move |(sector, _)| block + sector * SECTOR)
}

/// Returns whether the first and the last sector of a piece are covered only in part.
fn ragged(piece: &Piece) -> (bool, bool) {
    let end = piece.start + piece.length;
    (!piece.start.is_multiple_of(SECTOR), !end.is_multiple_of(SECTOR))
}
