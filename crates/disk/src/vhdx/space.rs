//! Which MiB of a writable file are free.
//!
//! The BAT is the only record of space, so the map is built by reading all of it, once, before the
//! first allocation of a session. Space that was ever used may hold other blocks' old bytes; it is
//! marked so, and whoever allocates it clears it first.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{MAX_FILE, MIB};
use crate::error::{Error, Result};

/// Free space, in MiB.
#[derive(Debug)]
pub(super) struct Space {
    /// Free runs below `end`: start to length.
    holes: BTreeMap<u64, u64>,
    /// Everything from here on is free.
    end: u64,
    /// From here on the file holds zeros only.
    fresh: u64,
}

/// Space taken for a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Allocation {
    /// Bytes of the file.
    pub place: Range<u64>,
    /// Whether old bytes may lie there.
    pub used_before: bool,
}

/// Collects what is in use while the BAT is read.
pub(super) struct Census {
    used: Vec<Range<u64>>,
    file_length: u64,
}

impl Census {
    /// `reserved` are the bytes of headers, log and regions.
    pub fn new(file_length: u64, reserved: &[Range<u64>]) -> Self {
        let first_mib = std::iter::once(0..MIB);
        let reserved = first_mib.chain(reserved.iter().cloned());
        let used = reserved.map(|range| range.start / MIB..range.end / MIB).collect();
        Self { used, file_length }
    }

    /// Counts a block; its offset is a multiple of 1 MiB. Fails when there are more blocks than MiB for them.
    pub fn add(&mut self, place: Range<u64>) -> Result<()> {
        if self.used.len() as u64 > self.file_length / MIB {
            return Err(Error::corrupt("the BAT names more blocks than the file can hold"));
        }
        self.used.push(place.start / MIB..place.end.div_ceil(MIB));
        Ok(())
    }

    /// Fails when two blocks share space: writing to one would change the other.
    pub fn finish(mut self) -> Result<Space> {
        self.used.sort_unstable_by_key(|range| range.start);
        let (mut holes, mut end) = (BTreeMap::new(), 0);
        for range in self.used {
            if range.start < end {
                let message = format!("two blocks of the file overlap at {:#x}", range.start * MIB);
                return Err(Error::corrupt(message));
            }
            if range.start > end {
                holes.insert(end, range.start - end);
            }
            end = range.end;
        }
        Ok(Space { holes, end, fresh: self.file_length.div_ceil(MIB).max(end) })
    }
}

impl Space {
    /// Takes `length` bytes, a multiple of 1 MiB: from the first hole that is large enough, else at the end.
    pub fn allocate(&mut self, length: u64) -> Result<Allocation> {
        match self.first_hole(length, 0) {
            Some(start) => {
                self.take(start, length);
                Ok(Allocation { place: start..start + length, used_before: true })
            }
            None => self.allocate_at_end(length),
        }
    }

    /// Takes `length` bytes behind everything in use.
    pub fn allocate_at_end(&mut self, length: u64) -> Result<Allocation> {
        let (start, wanted) = (self.end, length / MIB);
        if (start + wanted) * MIB > MAX_FILE {
            return Err(Error::corrupt("the file is larger than any disk"));
        }
        self.end += wanted;
        let place = start * MIB..(start + wanted) * MIB;
        Ok(Allocation { place, used_before: start < self.fresh })
    }

    /// Returns the start of the first hole, at or behind `from`, of at least `length` bytes.
    pub fn first_hole(&self, length: u64, from: u64) -> Option<u64> {
        let mut holes = self.holes.range(from / MIB..);
        holes.find(|hole| *hole.1 >= length / MIB).map(|hole| hole.0 * MIB)
    }

    /// Returns the start of the smallest hole of at least `length` bytes.
    pub fn smallest_hole(&self, length: u64) -> Option<u64> {
        let holes = self.holes.iter().filter(|hole| *hole.1 >= length / MIB);
        holes.min_by_key(|hole| *hole.1).map(|hole| hole.0 * MIB)
    }

    /// Returns the length of the hole that ends at `end`; 0 if there is none.
    pub fn hole_before(&self, end: u64) -> u64 {
        let hole = self.holes.range(..end / MIB).next_back();
        hole.filter(|hole| hole.0 + hole.1 == end / MIB).map_or(0, |hole| hole.1 * MIB)
    }

    /// Takes the first bytes of the hole at `start`, which is long enough.
    pub fn take(&mut self, start: u64, length: u64) {
        let (start, wanted) = (start / MIB, length / MIB);
        let free = self.holes.remove(&start).expect("a hole that was just found");
        if free > wanted {
            self.holes.insert(start + wanted, free - wanted);
        }
    }

    /// Gives space back whose release is durable, or that was never published.
    pub fn free(&mut self, place: Range<u64>) {
        let (mut start, mut end) = (place.start / MIB, place.end / MIB);
        if let Some((&before, &length)) = self.holes.range(..start).next_back()
            && before + length == start
        {
            self.holes.remove(&before);
            start = before;
        }
        if let Some(length) = self.holes.remove(&end) {
            end += length;
        }
        if end == self.end {
            self.end = start;
            self.fresh = self.fresh.max(end);
        } else {
            self.holes.insert(start, end - start);
        }
    }

    /// Returns the first byte behind everything in use.
    pub fn end(&self) -> u64 {
        self.end * MIB
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of 20 MiB with log and regions in MiB 1 to 3.
    fn census() -> Census {
        Census::new(20 * MIB, std::slice::from_ref(&(MIB..4 * MIB)))
    }

    fn space(used: &[Range<u64>]) -> Space {
        let mut census = census();
        used.iter().for_each(|range| census.add(range.start * MIB..range.end * MIB).unwrap());
        census.finish().unwrap()
    }

    #[track_caller]
    fn takes(space: &mut Space, mib: u64, at: u64, used_before: bool) {
        let place = at * MIB..(at + mib) * MIB;
        assert_eq!(space.allocate(mib * MIB).unwrap(), Allocation { place, used_before });
    }

    #[test]
    fn holes_are_used_before_the_end() {
        let mut space = space(&[6..8, 9..10]);
        takes(&mut space, 2, 4, true);
        takes(&mut space, 2, 10, true);
        takes(&mut space, 1, 8, true);
        takes(&mut space, 12, 12, true);
        takes(&mut space, 1, 24, false);
    }

    #[test]
    fn freed_neighbours_become_one_hole_and_the_tail_shrinks() {
        let mut space = space(std::slice::from_ref(&(4..12)));
        space.free(4 * MIB..6 * MIB);
        space.free(8 * MIB..10 * MIB);
        space.free(6 * MIB..8 * MIB);
        assert_eq!(space.holes, BTreeMap::from([(4, 6)]));
        space.free(10 * MIB..12 * MIB);
        assert_eq!((space.end(), space.holes.len()), (4 * MIB, 0));
        takes(&mut space, 1, 4, true);
    }

    #[test]
    fn space_given_back_at_the_end_counts_as_used_before() {
        let mut space = space(&[]);
        takes(&mut space, 32, 4, true);
        takes(&mut space, 2, 36, false);
        space.free(36 * MIB..38 * MIB);
        takes(&mut space, 2, 36, true);
    }

    #[test]
    fn holes_are_found_by_place_by_size_and_by_what_follows() {
        let mut space = space(&[6..8, 9..10, 14..15]);
        assert_eq!(
            (space.first_hole(MIB, 0), space.first_hole(3 * MIB, 0)),
            (Some(4 * MIB), Some(10 * MIB))
        );
        assert_eq!(space.first_hole(MIB, 5 * MIB), Some(8 * MIB));
        assert_eq!((space.smallest_hole(MIB), space.smallest_hole(5 * MIB)), (Some(8 * MIB), None));
        assert_eq!([6, 9, 14, 15].map(|end| space.hole_before(end * MIB) / MIB), [2, 1, 4, 0]);
        space.take(10 * MIB, MIB);
        assert_eq!((space.hole_before(14 * MIB), space.end()), (3 * MIB, 15 * MIB));
    }

    #[test]
    fn overlapping_blocks_are_refused() {
        let mut census = census();
        census.add(3 * MIB..5 * MIB).unwrap();
        assert!(census.finish().is_err());
    }

    #[test]
    fn a_bat_that_names_one_block_again_and_again_costs_no_memory() {
        let mut census = census();
        let refused_at = (0..1000).find(|_| census.add(5 * MIB..6 * MIB).is_err());
        assert!(refused_at.unwrap() <= 20);
    }
}
