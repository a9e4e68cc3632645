//! Compacting a VHDX file: blocks that are not needed go, the others close ranks.
//!
//! ```text
//!   before   │ log, metadata, BAT │ A │ zeros │ B │ b │ · · │ C │ D │      b: bitmap block that no block needs
//!   sweep    │ log, metadata, BAT │ A │ · · · │ B │ · · · · │ C │ D │
//!   fill     │ log, metadata, BAT │ A │ D │ · │ B │ C │                    from the end into holes
//!   slide    │ log, metadata, BAT │ A │ D │ B │ C │                        over holes that are smaller than a block
//! ```
//! A block moves by being copied, synced, and only then named by the BAT through the log; its old place is
//! free, and may be written to, once that is durable. The file is cut last. So a crash finds every block in one of its two
//! places, whole. DataWriteGuid stays; regions and log stay where they are.
//!
//! Filling moves each block at most once and leaves no hole that the file's last block would fit. Sliding moves everything behind the first hole
//! that is left, and so is done only where the holes are worth it.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::bat::Payload;
use super::commit::Owner;
use super::layer::{Block, Layer};
use super::{Kind, MIB};
use crate::compact::CompactOptions;
use crate::error::{During, Result};
use crate::piece::Piece;
use crate::storage::Storage;
use crate::watch::{self, Watch};
use crate::zeros;

const BUFFER: usize = MIB as usize;
/// So much is moved between two log entries: the host's space is needed twice for no more than that.
const BATCH: u64 = 128 * MIB;
/// Blocks slide when the holes are at least one part in so many of what has to be moved.
const WORTH: u64 = 32;

/// Compacts the file; durable on return.
pub(crate) fn compact(
    storage: Arc<dyn Storage>,
    options: &CompactOptions,
    watch: &dyn Watch,
) -> Result<()> {
    let layer = Layer::open(storage.clone())?.into_maintained(storage.clone())?;
    let outcome = Compaction::new(&layer, watch).run(options);
    // Also what was done before a failure or a cancellation counts.
    let settled = layer.settle();
    outcome?;
    settled?;
    storage.sync().during("sync the compacted file")
}

struct Compaction<'a> {
    layer: &'a Layer,
    watch: &'a dyn Watch,
    /// Bytes looked at and moved so far, and those that are to be.
    done: u64,
    total: u64,
    buffer: Vec<u8>,
    /// Bytes copied since the last log entry.
    pending: u64,
}

/// A block and the hole it moves to, in MiB of the file.
struct Move {
    block: Owner,
    to: u32,
}

impl<'a> Compaction<'a> {
    fn new(layer: &'a Layer, watch: &'a dyn Watch) -> Self {
        Self { layer, watch, done: 0, total: 0, buffer: vec![0; BUFFER], pending: 0 }
    }

    fn run(mut self, options: &CompactOptions) -> Result<()> {
        // A file whose blocks overlap is refused before anything moves.
        self.layer.with_space(|_| ())?;
        self.sweep(options.free_zeros && self.layer.kind() != Kind::Fixed)?;
        self.fill()?;
        self.slide()
    }

    /// Gives up the space of blocks that hold zeros or nothing, and of bitmap blocks that no partial block needs.
    fn sweep(&mut self, zeros: bool) -> Result<()> {
        let layout = self.layer.layout;
        let mut owners = self.layer.owners()?;
        // In the file's order: that is how it is read fastest.
        owners.sort_unstable_by_key(|owner| owner.mib);
        self.total = owners.iter().map(|owner| self.length(owner)).sum();
        let (mut bitmaps, mut needed) = (Vec::new(), HashSet::new());
        for owner in owners {
            let end = self.done + self.length(&owner);
            match layout.block_of(owner.slot.into()) {
                None => bitmaps.push(owner),
                Some(block) => {
                    if self.stays_partial(block, zeros)? {
                        needed.insert(layout.bitmap_slot(block));
                    }
                }
            }
            self.advance(end - self.done)?;
        }
        for bitmap in bitmaps {
            let slot = bitmap.slot.into();
            if !needed.contains(&slot) {
                self.layer.publish_slot(slot, 0, Some(self.place(&bitmap)))?;
            }
        }
        self.flush()
    }

    /// Simplifies a block's state; returns whether it is partial and has to be.
    fn stays_partial(&mut self, block: u64, zeros: bool) -> Result<bool> {
        let layout = self.layer.layout;
        let slot = layout.payload_slot(block);
        let whole = Piece { block, start: 0, length: layout.bytes_in(block) };
        let (data, was_partial) = match self.layer.block(block)? {
            Block::NotPresent | Block::Zero => return Ok(false),
            Block::Full(data) => (data, false),
            Block::Partial { data, bitmap } => {
                let (mut some, mut all) = (false, true);
                self.layer.each_bit_run(&whole, bitmap, |here, _| {
                    some |= here;
                    all &= here;
                })?;
                if !some {
                    let place = data..data + layout.block_size;
                    self.layer.publish_slot(slot, Payload::NotPresent.encode(), Some(place))?;
                    return Ok(false);
                }
                if !all {
                    return Ok(true);
                }
                (data, true)
            }
        };
        if zeros && self.is_zero(data..data + whole.length)? {
            let place = data..data + layout.block_size;
            self.layer.publish_slot(slot, Payload::Zero.encode(), Some(place))?;
        } else if was_partial {
            self.layer.publish_slot(slot, Payload::Full(data).encode(), None)?;
        }
        Ok(false)
    }

    /// Moves blocks from the file's end into holes, as long as there is one for the last.
    fn fill(&mut self) -> Result<()> {
        let mut owners = self.layer.owners()?;
        owners.sort_unstable_by_key(|owner| std::cmp::Reverse(owner.mib));
        let block_size = self.layer.layout.block_size;
        let moves = self.layer.with_space(|space| {
            let (mut moves, mut from) = (Vec::new(), 0);
            for block in owners {
                let length = self.length(&block);
                let hole = match length == block_size {
                    true => space.first_hole(length, from),
                    // Bitmap blocks are what fits into holes that no other block fits.
                    false => space.smallest_hole(length),
                };
                let Some(to) = hole.filter(|to| *to < self.place(&block).start) else { break };
                if length == block_size {
                    from = to;
                }
                space.take(to, length);
                moves.push(Move { block, to: (to / MIB) as u32 });
            }
            moves
        })?;
        self.total += moves.iter().map(|step| self.length(&step.block)).sum::<u64>();
        for Move { block, to } in moves {
            self.relocate(&block, u64::from(to) * MIB)?;
        }
        self.flush()
    }

    /// Moves blocks down over the holes below them, in the file's order, if that is worth it.
    fn slide(&mut self) -> Result<()> {
        let mut owners = self.layer.owners()?;
        owners.sort_unstable_by_key(|owner| owner.mib);
        let (mut gain, mut first) = (0, None);
        for (index, block) in owners.iter().enumerate() {
            let hole = self.hole_below(block)?;
            gain += hole;
            first = first.or((hole > 0).then_some(index));
        }
        let Some(first) = first else { return Ok(()) };
        let cost = owners[first..].iter().map(|block| self.length(block)).sum::<u64>();
        if gain * WORTH < cost {
            return Ok(());
        }
        self.total += cost;
        let room = (cost / 16).min(BATCH / 2);
        let mut queue = VecDeque::from(owners.split_off(first));
        while let Some(block) = queue.pop_front() {
            let mut to = self.take_lower(&block)?;
            if to.is_none() && self.pending > 0 {
                // What has moved away gives its space only now.
                self.flush()?;
                to = self.take_lower(&block)?;
            }
            match to {
                Some(to) => self.relocate(&block, to)?,
                None if self.hole_below(&block)? == 0 => {}
                None => {
                    queue.push_front(block);
                    self.evacuate(&mut queue, room)?;
                }
            }
        }
        self.flush()
    }

    /// Returns the length of the hole that ends where a block starts.
    fn hole_below(&self, block: &Owner) -> Result<u64> {
        self.layer.with_space(|space| space.hole_before(self.place(block).start))
    }

    /// Takes the lowest hole that a block fits and that lies below it.
    fn take_lower(&self, block: &Owner) -> Result<Option<u64>> {
        let length = self.length(block);
        self.layer.with_space(|space| {
            let hole = space.first_hole(length, 0).filter(|to| *to < self.place(block).start);
            hole.inspect(|to| space.take(*to, length))
        })
    }

    /// Moves the next blocks, of at least `room` bytes, behind all others: to leave a hole into which those after them slide.
    fn evacuate(&mut self, queue: &mut VecDeque<Owner>, room: u64) -> Result<()> {
        let mut moved = 0;
        for _ in 0..queue.len() {
            let Some(block) = queue.pop_front() else { break };
            let length = self.length(&block);
            let place = self.layer.allocate_by(|space| space.allocate_at_end(length))?.place;
            self.total += length;
            self.relocate(&block, place.start)?;
            queue.push_back(Owner { mib: (place.start / MIB) as u32, ..block });
            moved += length;
            if moved >= room {
                break;
            }
        }
        self.flush()
    }

    /// Copies a block to space that was taken for it, and names its new place.
    fn relocate(&mut self, block: &Owner, to: u64) -> Result<()> {
        let (from, slot) = (self.place(block), u64::from(block.slot));
        self.copy(from.clone(), to)?;
        let state = self.layer.bat_entry(slot)? & 7;
        self.pending += from.end - from.start;
        self.layer.publish_slot(slot, to | state, Some(from))?;
        match self.pending < BATCH {
            true => Ok(()),
            false => self.flush(),
        }
    }

    /// Copies bytes of the file into a hole, which stays one where they are a hole.
    fn copy(&mut self, from: Range<u64>, to: u64) -> Result<()> {
        let storage = &*self.layer.storage;
        storage.punch_hole(to, from.end - from.start).during("clear a hole")?;
        let mut at = from.start;
        while let Some(chunk) = zeros::next_chunk(storage, at..from.end, BUFFER as u64)? {
            let bytes = &mut self.buffer[..(chunk.end - chunk.start) as usize];
            storage.read_at(chunk.start, bytes).during("read a block to move")?;
            storage.write_at(to + (chunk.start - from.start), bytes).during("move a block")?;
            self.advance(chunk.end - at)?;
            at = chunk.end;
        }
        self.advance(from.end - at)
    }

    /// Returns whether bytes of the file are all zeros.
    fn is_zero(&mut self, range: Range<u64>) -> Result<bool> {
        let (storage, mut buffer) = (&*self.layer.storage, std::mem::take(&mut self.buffer));
        let zeros = zeros::holds_zeros(storage, range, &mut buffer, |bytes| self.advance(bytes));
        self.buffer = buffer;
        zeros
    }

    /// Makes what was moved durable; old places are free from now on.
    fn flush(&mut self) -> Result<()> {
        self.pending = 0;
        self.layer.flush()
    }

    fn advance(&mut self, bytes: u64) -> Result<()> {
        self.done += bytes;
        watch::advance(self.watch, self.done, self.total)
    }

    fn length(&self, owner: &Owner) -> u64 {
        match self.layer.layout.is_bitmap_slot(owner.slot.into()) {
            true => MIB,
            false => self.layer.layout.block_size,
        }
    }

    fn place(&self, owner: &Owner) -> Range<u64> {
        let start = u64::from(owner.mib) * MIB;
        start..start + self.length(owner)
    }
}
