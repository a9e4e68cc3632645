//! Which parts of a writable file are free.
//!
//! The table is the only record of space, so the map is built by reading all of it, once, before the first
//! allocation of a session. Space that was ever used may hold other blocks' old bytes; it is marked so,
//! and whoever allocates it clears it first.
//!
//! A block is placed so that its data, behind the bitmap, starts at a multiple of 4 KiB: the host's pages and
//! ours are then the same. Gaps of up to 7 sectors before blocks come from that; Xen's writers leave them too.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::bat::Layout;
use super::{MAX_FILE, SECTOR};
use crate::error::{Error, ErrorKind, Result};

const ALIGNMENT: u64 = 4096;

/// Free space, in bytes of the file; every border is a multiple of 512.
#[derive(Debug)]
pub(super) struct Space {
    /// Free runs below `end`: start to length.
    holes: BTreeMap<u64, u64>,
    /// Starts of those that a block fits into.
    fitting: BTreeSet<u64>,
    /// Everything from here on is free.
    end: u64,
    /// From here on the file holds zeros only.
    fresh: u64,
    bitmap_size: u64,
    span: u64,
}

/// Space taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Allocation {
    /// Bytes of the file.
    pub place: Range<u64>,
    /// Whether old bytes may lie there.
    pub used_before: bool,
}

/// Collects what is in use while the table is read.
pub(super) struct Census {
    used: Vec<Range<u64>>,
    most: u64,
}

impl Census {
    /// `reserved` are the bytes of header and table; `limit` is where the file's footer begins.
    pub fn new(layout: &Layout, reserved: &[Range<u64>], limit: u64) -> Self {
        let most = limit / layout.span() + reserved.len() as u64;
        let used = reserved.iter().map(|range| sectors(range.clone())).collect();
        Self { used, most }
    }

    /// Counts a block. Fails when there are more blocks than the file has space for.
    pub fn add(&mut self, place: Range<u64>) -> Result<()> {
        if self.used.len() as u64 >= self.most {
            return Err(Error::corrupt("the table names more blocks than the file can hold"));
        }
        self.used.push(sectors(place));
        Ok(())
    }

    /// Fails when two blocks share space: writing to one would change the other.
    pub fn finish(mut self, layout: &Layout, limit: u64) -> Result<Space> {
        self.used.sort_unstable_by_key(|range| range.start);
        let mut space = Space {
            holes: BTreeMap::new(),
            fitting: BTreeSet::new(),
            end: 0,
            fresh: limit.next_multiple_of(SECTOR),
            bitmap_size: layout.bitmap_size,
            span: layout.span(),
        };
        for range in self.used {
            if range.start < space.end {
                let message = format!("two parts of the file overlap at {:#x}", range.start);
                return Err(Error::corrupt(message));
            }
            space.insert(space.end..range.start);
            space.end = range.end;
        }
        space.fresh = space.fresh.max(space.end);
        Ok(space)
    }
}

impl Space {
    /// Takes space for a block: in the first hole that is large enough, else at the end.
    pub fn take_block(&mut self) -> Result<Allocation> {
        match self.fitting.first() {
            Some(&hole) => Ok(self.take_from(hole)),
            None => {
                let start = self.aligned(self.end);
                self.take_at_end(start..start + self.span)
            }
        }
    }

    /// Takes space for a block in the first hole that is large enough, if that lies below `bound`.
    pub fn take_below(&mut self, bound: u64) -> Option<Allocation> {
        let hole = *self.fitting.first()?;
        (hole < bound).then(|| self.take_from(hole))
    }

    /// Takes what is free of the sectors of a range, which something else lies in or is to.
    pub fn reserve(&mut self, range: &Range<u64>) {
        let range = sectors(range.clone());
        let touched: Vec<u64> = self
            .holes
            .range(..range.end)
            .filter(|hole| *hole.0 + *hole.1 > range.start)
            .map(|hole| *hole.0)
            .collect();
        for hole in touched {
            let hole = self.remove(hole);
            self.insert(hole.start..range.start.max(hole.start));
            self.insert(range.end.min(hole.end)..hole.end);
        }
        if range.end > self.end {
            self.insert(self.end..range.start.max(self.end));
            self.end = range.end;
        }
    }

    /// Takes `length` bytes, in whole sectors, that end at or before `bound`; at the end where no hole there is large enough.
    ///
    /// For names and headers. What lies behind the table may belong to others who do not say so.
    pub fn take_metadata(&mut self, length: u64, bound: u64) -> Result<Allocation> {
        let length = length.next_multiple_of(SECTOR);
        let hole = self.holes.range(..bound).find(|hole| {
            let end = (*hole.0 + *hole.1).min(bound);
            end - *hole.0 >= length
        });
        match hole.map(|(start, _)| *start) {
            Some(start) => Ok(self.carve(start, start..start + length)),
            None => self.take_at_end(self.end..self.end + length),
        }
    }

    fn take_from(&mut self, hole: u64) -> Allocation {
        let hole_end = hole + self.holes[&hole];
        let aligned = self.aligned(hole);
        // Blocks of others are packed: what one of them leaves is just large enough.
        let start = if aligned + self.span <= hole_end { aligned } else { hole };
        self.carve(hole, start..start + self.span)
    }

    /// Takes a part of a hole.
    fn carve(&mut self, hole: u64, place: Range<u64>) -> Allocation {
        let hole = self.remove(hole);
        self.insert(hole.start..place.start);
        self.insert(place.end..hole.end);
        Allocation { place, used_before: true }
    }

    fn take_at_end(&mut self, place: Range<u64>) -> Result<Allocation> {
        if place.end > MAX_FILE {
            let message = "the file is full: a VHD file has at most 2 TiB";
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        self.insert(self.end..place.start);
        self.end = place.end;
        Ok(Allocation { used_before: place.start < self.fresh, place })
    }

    /// Gives space back whose release is durable, or that was never published.
    pub fn free(&mut self, place: Range<u64>) {
        let mut free = place;
        if let Some((&before, &length)) = self.holes.range(..free.start).next_back()
            && before + length == free.start
        {
            free.start = self.remove(before).start;
        }
        if self.holes.contains_key(&free.end) {
            free.end = self.remove(free.end).end;
        }
        if free.end == self.end {
            self.fresh = self.fresh.max(self.end);
            self.end = free.start;
        } else {
            self.insert(free);
        }
    }

    /// Returns the first byte behind everything in use.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Returns the first place at or after `at` whose data would be aligned.
    fn aligned(&self, at: u64) -> u64 {
        (at + self.bitmap_size).next_multiple_of(ALIGNMENT) - self.bitmap_size
    }

    fn insert(&mut self, hole: Range<u64>) {
        let length = hole.end - hole.start;
        if length > 0 {
            self.holes.insert(hole.start, length);
        }
        if length >= self.span {
            self.fitting.insert(hole.start);
        }
    }

    fn remove(&mut self, start: u64) -> Range<u64> {
        self.fitting.remove(&start);
        let length = self.holes.remove(&start).expect("holes are removed by their starts");
        start..start + length
    }
}

/// Grows a range to whole sectors.
fn sectors(range: Range<u64>) -> Range<u64> {
    range.start / SECTOR * SECTOR..range.end.next_multiple_of(SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SPAN: u64 = 2 * MIB + 512;
    /// Where a block begins whose data begin at a multiple of 4 KiB.
    const LEAD: u64 = 4096 - 512;

    fn layout() -> Layout {
        Layout::new(1 << 30, 2 << 20)
    }

    /// A file of 20 MiB with 2 KiB of header and table.
    fn space(blocks: &[u64]) -> Result<Space> {
        let reserved = [0..512, 512..1536, 1536..2000];
        let mut census = Census::new(&layout(), &reserved, 20 * MIB);
        blocks.iter().try_for_each(|&at| census.add(at..at + SPAN))?;
        census.finish(&layout(), 20 * MIB)
    }

    #[track_caller]
    fn takes(space: &mut Space, at: u64, used_before: bool) {
        let place = at..at + SPAN;
        assert_eq!(space.take_block().unwrap(), Allocation { place, used_before });
    }

    #[test]
    fn data_is_aligned_and_holes_are_used_before_the_end() {
        let mut space = space(&[10 * MIB]).unwrap();
        takes(&mut space, LEAD, true);
        takes(&mut space, LEAD + 2 * MIB + 4096, true);
        takes(&mut space, LEAD + 4 * MIB + 8192, true);
        takes(&mut space, LEAD + 6 * MIB + 12288, true);
        takes(&mut space, LEAD + 12 * MIB, true);
        space.free(10 * MIB..10 * MIB + SPAN);
        takes(&mut space, LEAD + 8 * MIB + 16384, true);
    }

    #[test]
    fn what_a_packed_block_leaves_takes_one_block_again() {
        let packed = [2048, 2048 + SPAN, 2048 + 2 * SPAN];
        let mut space = space(&packed).unwrap();
        space.free(packed[1]..packed[2]);
        takes(&mut space, packed[1], true);
    }

    #[test]
    fn freed_neighbours_become_one_and_the_end_moves_back_over_gaps() {
        let mut space = space(&[]).unwrap();
        assert_eq!(space.end(), 2048);
        for block in 0..9 {
            takes(&mut space, LEAD + block * (2 * MIB + 4096), true);
        }
        takes(&mut space, LEAD + 9 * (2 * MIB + 4096), true);
        takes(&mut space, LEAD + 10 * (2 * MIB + 4096), false);
        for block in [3, 10, 8, 9, 4, 5, 7, 6] {
            let start = LEAD + block * (2 * MIB + 4096);
            space.free(start..start + SPAN);
        }
        assert_eq!(space.end(), LEAD + 2 * (2 * MIB + 4096) + SPAN);
        takes(&mut space, LEAD + 3 * (2 * MIB + 4096), true);
        takes(&mut space, LEAD + 4 * (2 * MIB + 4096), true);
        assert_eq!(space.fresh, LEAD + 10 * (2 * MIB + 4096) + SPAN);
    }

    #[test]
    fn metadata_goes_before_the_bound_or_to_the_end() {
        let mut space = space(&[8192]).unwrap();
        let small = space.take_metadata(600, 8192).unwrap();
        assert_eq!(small.place, 2048..3072);
        assert_eq!(space.take_metadata(6000, 8192).unwrap().place.start, 8192 + SPAN);
        assert_eq!(space.take_metadata(512, 1536).unwrap().place.start, 8192 + SPAN + 6144);
    }

    #[test]
    fn overlapping_blocks_are_refused() {
        assert!(space(&[MIB, 2 * MIB]).is_err());
        assert!(space(&[1536]).is_err());
    }

    #[test]
    fn a_table_that_names_one_block_again_and_again_costs_no_memory() {
        let mut census = Census::new(&layout(), &[], 20 * MIB);
        let refused_at = (0..1000).find(|_| census.add(4096..4096 + SPAN).is_err());
        assert!(refused_at.unwrap() <= 20);
    }

    #[test]
    fn a_file_ends_at_two_tebibytes() {
        let mut space = space(&[]).unwrap();
        space.end = MAX_FILE - MIB;
        assert_eq!(space.take_block().unwrap_err().kind(), ErrorKind::NoSpace);
    }
}
