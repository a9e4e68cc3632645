//! Where the next entry goes in the ring.
//!
//! Everything an entry describes is applied and synced before the next is written, so that at most the
//! previous entry is still needed: an entry's tail is the entry itself. Small entries alternate between
//! the ring's start and the place behind, and the rest of a large log stays a hole in the file.
//!
//! ```text
//!   │ A │                A is durable
//!   │ A │ B │            B goes behind A: a torn B leaves A
//!   │ C │ B │            C goes to the start: a torn C leaves B
//! ```

use std::ops::Range;

use super::super::PAGE;
use super::entry;

/// Bounds the memory of a batch in files whose log is large.
const MAX_PAGES: usize = 1024;

/// The log's ring and its last entry.
#[derive(Debug)]
pub(crate) struct Ring {
    sectors: usize,
    previous: Range<usize>,
}

impl Ring {
    /// A ring of `length` bytes in which nothing is needed any more.
    pub fn new(length: u32) -> Self {
        Self { sectors: length as usize / PAGE, previous: 0..0 }
    }

    /// Returns the number of pages that one entry may hold.
    ///
    /// A third of the ring: there is room for it behind a previous entry that lies behind one before it.
    pub fn max_pages(&self) -> usize {
        let mut pages = (self.sectors / 3).min(MAX_PAGES);
        while pages > 0 && entry::sectors(pages) > self.sectors / 3 {
            pages -= 1;
        }
        pages
    }

    /// Returns the sectors for an entry of so many pages; at most [`Ring::max_pages`].
    pub fn place(&self, pages: usize) -> Range<usize> {
        let sectors = entry::sectors(pages);
        let start = if sectors <= self.previous.start { 0 } else { self.previous.end };
        start..start + sectors
    }

    /// Remembers that the entry at `place` is durable.
    pub fn advance(&mut self, place: Range<usize>) {
        self.previous = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_never_touches_its_predecessor_and_never_wraps() {
        for length in [1 << 20, 4 << 20] {
            let mut ring = Ring::new(length);
            let max = ring.max_pages();
            assert!(max >= 64);
            for step in 0..10_000usize {
                let place = ring.place((step * 7919) % max + 1);
                assert!(place.end <= ring.sectors);
                assert!(place.end <= ring.previous.start || ring.previous.end <= place.start);
                ring.advance(place);
            }
        }
    }

    #[test]
    fn small_entries_reuse_the_start_of_the_ring() {
        let mut ring = Ring::new(4 << 20);
        for _ in 0..100 {
            let place = ring.place(3);
            assert!(place.end <= 8);
            ring.advance(place);
        }
    }
}
