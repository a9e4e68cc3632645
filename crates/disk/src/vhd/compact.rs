//! Compacting a VHD file: blocks that are not needed go, those at the end fill the holes.
//!
//! ```text
//!   before   │ header, table │ A │ zeros │ B │ · · │ C │ D │ footer
//!   sweep    │ header, table │ A │ · · · │ B │ · · │ C │ D │ footer
//!   fill     │ header, table │ A │ D     │ B │ C   │ footer
//! ```
//! A block moves by being copied, synced, and only then named by the table; its old place is free, and may be written to, once
//! that is durable. The file is cut last, behind a footer. So a crash finds every block in one of its two places, whole. All blocks are
//! of one size: no hole is left that one fits, and the gaps before blocks are too small to be worth moving any.

use std::ops::Range;
use std::sync::Arc;

use super::layer::{Body, Layer};
use super::sparse::Sparse;
use crate::compact::CompactOptions;
use crate::error::{During, Result};
use crate::storage::Storage;
use crate::watch::{self, Watch};
use crate::zeros;

const BUFFER: usize = 1 << 20;
/// So much is moved between two flushes: the host's space is needed twice for no more than that.
const BATCH: u64 = 128 << 20;

/// Compacts the file; durable on return. A fixed disk's file is as long as it has to be, and stays so.
pub(crate) fn compact(
    storage: Arc<dyn Storage>,
    options: &CompactOptions,
    watch: &dyn Watch,
) -> Result<()> {
    let layer = Layer::open(storage.clone())?.into_writable(storage.clone())?;
    let outcome = match &layer.body {
        Body::Fixed(_) => Ok(()),
        Body::Sparse(sparse) => Compaction::new(sparse, watch).run(options),
    };
    // Also what was done before a failure or a cancellation counts.
    let settled = layer.settle();
    outcome?;
    settled?;
    storage.sync().during("sync the compacted file")
}

struct Compaction<'a> {
    disk: &'a Sparse,
    watch: &'a dyn Watch,
    /// Bytes looked at and moved so far, and those that are to be.
    done: u64,
    total: u64,
    buffer: Vec<u8>,
    /// Bytes copied since the last flush.
    pending: u64,
}

impl<'a> Compaction<'a> {
    fn new(disk: &'a Sparse, watch: &'a dyn Watch) -> Self {
        Self { disk, watch, done: 0, total: 0, buffer: vec![0; BUFFER], pending: 0 }
    }

    fn run(mut self, options: &CompactOptions) -> Result<()> {
        // A file whose blocks overlap is refused before anything moves.
        self.disk.with_space(|_| ())?;
        self.sweep(options.free_zeros)?;
        self.fill()
    }

    /// Gives up the space of blocks that hold zeros or nothing.
    fn sweep(&mut self, zeros: bool) -> Result<()> {
        let mut places = self.disk.places()?;
        // In the file's order: that is how it is read fastest.
        places.sort_unstable_by_key(|place| place.1);
        self.total = places.len() as u64 * self.disk.layout.block_size;
        for (block, at) in places {
            let end = self.done + self.disk.layout.block_size;
            let needed = match self.disk.parent() {
                Some(_) => self.has_bits(block, at)?,
                None => !zeros || !self.is_zero(block, at)?,
            };
            if !needed {
                self.disk.give_up(block, at)?;
            }
            self.advance(end - self.done)?;
        }
        self.flush()
    }

    /// Whether any sector of a child's block is here.
    fn has_bits(&self, block: u64, at: u64) -> Result<bool> {
        let mut some = false;
        let whole = self.disk.layout.whole(block);
        self.disk.each_bit_run(&whole, at, |here, _| some |= here)?;
        Ok(some)
    }

    fn is_zero(&mut self, block: u64, at: u64) -> Result<bool> {
        let (storage, mut buffer) = (&*self.disk.storage, std::mem::take(&mut self.buffer));
        let data = self.disk.data(at);
        let range = data..data + self.disk.layout.bytes_in(block);
        let zeros = zeros::holds_zeros(storage, range, &mut buffer, |bytes| self.advance(bytes));
        self.buffer = buffer;
        zeros
    }

    /// Moves blocks from the file's end into holes, as long as there is one for the last.
    fn fill(&mut self) -> Result<()> {
        let mut places = self.disk.places()?;
        places.sort_unstable_by_key(|place| std::cmp::Reverse(place.1));
        let mut moves = Vec::new();
        self.disk.with_space(|space| {
            for (block, at) in places {
                let Some(hole) = space.take_below(at) else { break };
                moves.push((block, at, hole.place.start));
            }
        })?;
        self.total += moves.len() as u64 * self.disk.layout.span();
        for (block, from, to) in moves {
            let place = from..from + self.disk.layout.span();
            copy(&*self.disk.storage, place, to, &mut self.buffer)?;
            self.disk.rename_block(block, from, to)?;
            self.pending += self.disk.layout.span();
            if self.pending >= BATCH {
                self.flush()?;
            }
            self.advance(self.disk.layout.span())?;
        }
        self.flush()
    }

    /// Makes what was moved durable; old places are free from now on.
    fn flush(&mut self) -> Result<()> {
        self.pending = 0;
        self.disk.flush()
    }

    fn advance(&mut self, bytes: u64) -> Result<()> {
        self.done += bytes;
        watch::advance(self.watch, self.done, self.total)
    }
}

/// Copies a part of a file to free space, which stays a hole where the part is one.
pub(super) fn copy(
    storage: &dyn Storage,
    from: Range<u64>,
    to: u64,
    buffer: &mut [u8],
) -> Result<()> {
    storage.punch_hole(to, from.end - from.start).during("clear a hole")?;
    let mut at = from.start;
    while let Some(chunk) = zeros::next_chunk(storage, at..from.end, buffer.len() as u64)? {
        let bytes = &mut buffer[..(chunk.end - chunk.start) as usize];
        storage.read_at(chunk.start, bytes).during("read a block to move")?;
        storage.write_at(to + (chunk.start - from.start), bytes).during("move a block")?;
        at = chunk.end;
    }
    Ok(())
}

impl Sparse {
    /// Lists the blocks that are there with their places, which are checked.
    pub(super) fn places(&self) -> Result<Vec<(u64, u64)>> {
        let mut places = Vec::new();
        let sectors = self.sectors.write();
        self.each_entry(&sectors, |block, at| {
            places.push((block, at));
            Ok(())
        })?;
        Ok(places)
    }

    /// Names the new place of a block that was copied; the old one is free once that is durable.
    pub(super) fn rename_block(&self, block: u64, from: u64, to: u64) -> Result<()> {
        self.forget_bitmap(to);
        let old = from..from + self.layout.span();
        self.publish_entry(block, Some(to), &[], |edit| edit.free(old))
    }
}
