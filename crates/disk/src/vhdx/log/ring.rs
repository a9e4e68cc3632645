//! Where the next entry goes in the ring.
//!
//! Everything an entry describes is applied and synced before the next is written, so that at most the
//! previous entry is still needed: an entry's tail is the entry itself. Entries take turns at two places, and the
//! rest of a large log stays a hole in the file.
//!
//! ```text
//!   │ A  ·          │      ·        │      A is durable
//!   │ A  ·          │ B    ·        │      a torn B leaves A
//!   │ C      ·      │ B    ·        │      a torn C leaves B
//! ```
//! None reaches the other's place, so that no entry lies directly behind another. QEMU (7.2 to 10 at least)
//! takes the second entry of a sequence whatever its number: with B directly behind C it would replay C, then the older B.

use super::super::PAGE;
use super::entry;

/// Bounds the memory of a batch in files whose log is large.
const MAX_PAGES: usize = 1024;

/// The log's ring and where its next entry goes.
#[derive(Debug)]
pub(crate) struct Ring {
    sectors: usize,
    next: usize,
}

impl Ring {
    /// A ring of `length` bytes in which nothing is needed any more.
    pub fn new(length: u32) -> Self {
        Self { sectors: length as usize / PAGE, next: 0 }
    }

    /// Returns the number of pages that one entry may hold: it ends short of the other place.
    pub fn max_pages(&self) -> usize {
        let mut pages = self.half().min(MAX_PAGES);
        while pages > 0 && entry::sectors(pages) >= self.half() {
            pages -= 1;
        }
        pages
    }

    /// Returns the sector where an entry of at most [`Ring::max_pages`] goes.
    pub fn next(&self) -> usize {
        self.next
    }

    /// Remembers that the entry at [`Ring::next`] is durable.
    pub fn advance(&mut self) {
        self.next = if self.next == 0 { self.half() } else { 0 };
    }

    fn half(&self) -> usize {
        self.sectors / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_neither_touches_another_nor_lies_directly_behind_it() {
        for length in [1 << 20, 4 << 20, 64 << 20] {
            let mut ring = Ring::new(length);
            let longest = entry::sectors(ring.max_pages());
            assert!(ring.max_pages() >= 100);
            let first = ring.next()..ring.next() + longest;
            ring.advance();
            let second = ring.next()..ring.next() + longest;
            ring.advance();
            assert_eq!(ring.next(), first.start);
            assert!(first.end < second.start && second.end < ring.sectors + first.start);
        }
    }
}
