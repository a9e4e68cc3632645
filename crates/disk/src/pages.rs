//! Pages of metadata in memory: allocation tables, sector bitmaps and the like.
//!
//! ```text
//!   clean ──edit──► dirty ──taken to be written──► taken ──applied──► clean
//!     ▲                ▲                             │
//!   evictable          └────────edited again─────────┘
//! ```
//! Only clean pages leave memory: what lies at their place in the file is what they hold. How taken pages
//! reach the file, by a log or in an order that is safe, is the format's affair.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{During, Result};
use crate::number_map::NumberMap;
use crate::storage::Storage;

/// A page's offset in the file, and its bytes.
pub(crate) type Taken<const N: usize> = (u64, Box<[u8; N]>);

/// A bounded cache of pages of `N` bytes, with the changes that are not yet durable.
pub(crate) struct Pages<const N: usize> {
    map: NumberMap<Page<N>>,
    capacity: usize,
    dirty: usize,
    /// Space that changes not yet taken gave up, in bytes of the file.
    freed: Vec<Range<u64>>,
}

struct Page<const N: usize> {
    bytes: Box<[u8; N]>,
    dirty: bool,
    taken: bool,
    used: AtomicBool,
}

/// Changes taken to be made durable together.
pub(crate) struct Batch<const N: usize> {
    /// In the order of their offsets.
    pub pages: Vec<Taken<N>>,
    /// Space that is free once they are durable.
    pub freed: Vec<Range<u64>>,
}

impl<const N: usize> Pages<N> {
    /// Keeps at most `capacity` clean pages.
    pub fn new(capacity: usize) -> Self {
        Self { map: NumberMap::default(), capacity, dirty: 0, freed: Vec::new() }
    }

    /// Returns a page that is in memory.
    pub fn get(&self, at: u64) -> Option<&[u8; N]> {
        let page = self.map.get(&at)?;
        if !page.used.load(Ordering::Relaxed) {
            page.used.store(true, Ordering::Relaxed);
        }
        Some(&page.bytes)
    }

    /// Returns a page, reading it from its place in the file if it is not in memory.
    pub fn load(&mut self, storage: &dyn Storage, at: u64) -> Result<&[u8; N]> {
        if !self.map.contains_key(&at) {
            self.make_room(1);
            let mut bytes = Box::new([0; N]);
            storage.read_at(at, bytes.as_mut_slice()).during("read a page of metadata")?;
            let page = Page { bytes, dirty: false, taken: false, used: AtomicBool::new(true) };
            self.map.insert(at, page);
        }
        Ok(&self.map[&at].bytes)
    }

    /// Makes sure that loading so many pages drops none.
    pub fn make_room(&mut self, count: usize) {
        if self.map.len() + count > self.capacity {
            self.evict();
        }
    }

    /// Drops an eighth of the pages, first those not used since the last time.
    fn evict(&mut self) {
        let mut excess = self.map.len() / 8 + 1;
        for second_chance in [true, false] {
            self.map.retain(|_, page| {
                let kept = excess == 0
                    || page.dirty
                    || page.taken
                    || (second_chance && page.used.swap(false, Ordering::Relaxed));
                excess -= usize::from(!kept);
                kept
            });
        }
    }

    /// Returns how many of these pages are not dirty yet.
    pub fn newly_dirty(&self, places: &[u64]) -> usize {
        places.iter().filter(|at| self.map.get(at).is_none_or(|page| !page.dirty)).count()
    }

    /// Number of dirty pages.
    pub fn dirty(&self) -> usize {
        self.dirty
    }

    /// Returns a page to change; it was loaded before under the same lock, and counts as dirty from now on.
    pub fn edit(&mut self, at: u64) -> &mut [u8; N] {
        let page = self.map.get_mut(&at).expect("a page is loaded before it is edited");
        self.dirty += usize::from(!page.dirty);
        page.dirty = true;
        &mut page.bytes
    }

    /// Replaces a whole page.
    pub fn replace(&mut self, at: u64, bytes: Box<[u8; N]>) {
        let page = Page { bytes, dirty: false, taken: false, used: AtomicBool::new(true) };
        let taken = self.map.insert(at, page).is_some_and(|old| {
            self.dirty -= usize::from(old.dirty);
            old.taken
        });
        self.map.get_mut(&at).expect("just inserted").taken = taken;
        self.edit(at);
    }

    /// Drops the clean pages of a part of the file that was written by other means, or that something else may lie in from now on.
    ///
    /// The part begins and ends with pages.
    pub fn forget(&mut self, range: Range<u64>) {
        if (range.end - range.start) / N as u64 > self.map.len() as u64 {
            self.map.retain(|at, page| !range.contains(at) || page.dirty || page.taken);
            return;
        }
        for at in range.step_by(N) {
            if self.map.get(&at).is_some_and(|page| !page.dirty && !page.taken) {
                self.map.remove(&at);
            }
        }
    }

    /// Notes space that is free once the changes made so far are durable.
    pub fn free(&mut self, range: Range<u64>) {
        self.freed.push(range);
    }

    /// Space that changes not yet taken have given up.
    pub fn freed(&self) -> &[Range<u64>] {
        &self.freed
    }

    /// Takes every change. End with [`Pages::applied`] or [`Pages::give_back`].
    pub fn take(&mut self) -> Batch<N> {
        let mut pages = Vec::with_capacity(self.dirty);
        for (&at, page) in &mut self.map {
            if page.dirty {
                (page.dirty, page.taken) = (false, true);
                pages.push((at, page.bytes.clone()));
            }
        }
        self.dirty = 0;
        pages.sort_unstable_by_key(|page| page.0);
        Batch { pages, freed: std::mem::take(&mut self.freed) }
    }

    /// The batch could not be made durable: its changes wait for the next one.
    pub fn give_back(&mut self, batch: Batch<N>) {
        for (at, _) in batch.pages {
            let page = self.map.get_mut(&at).expect("a taken page stays in memory");
            page.taken = false;
            self.dirty += usize::from(!page.dirty);
            page.dirty = true;
        }
        self.freed.extend(batch.freed);
    }

    /// The pages lie at their places in the file.
    pub fn applied(&mut self, pages: &[Taken<N>]) {
        for (at, _) in pages {
            self.map.get_mut(at).expect("a taken page stays in memory").taken = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    const PAGE: usize = 4096;

    fn storage() -> MemoryStorage {
        MemoryStorage::new((0..64).flat_map(|page| [page; PAGE]).collect())
    }

    #[test]
    fn memory_stays_bounded_and_changes_stay_in_memory() {
        let (storage, mut pages) = (storage(), Pages::<PAGE>::new(8));
        pages.load(&storage, 0).unwrap();
        pages.edit(0)[0] = 99;
        for round in 0..1000 {
            let at = round % 64 * PAGE as u64;
            let expected = if at == 0 { 99 } else { round as u8 % 64 };
            assert_eq!(pages.load(&storage, at).unwrap()[0], expected);
            assert!(pages.map.len() <= 8);
        }
    }

    #[test]
    fn forgotten_pages_are_read_anew_and_changed_ones_are_kept() {
        let (storage, mut pages) = (storage(), Pages::<PAGE>::new(8));
        for at in [0, 1, 2].map(|page| page * PAGE as u64) {
            pages.load(&storage, at).unwrap();
        }
        pages.edit(0)[0] = 99;
        pages.forget(0..2 * PAGE as u64);
        assert_eq!(pages.get(0).unwrap()[0], 99);
        assert!(pages.get(PAGE as u64).is_none() && pages.get(2 * PAGE as u64).is_some());
    }

    #[test]
    fn a_page_changed_while_it_is_taken_is_taken_again() {
        let (storage, mut pages) = (storage(), Pages::<PAGE>::new(8));
        pages.load(&storage, 0).unwrap();
        pages.edit(0)[0] = 1;
        let first = pages.take();
        pages.edit(0)[1] = 2;
        pages.applied(&first.pages);
        let second = pages.take();
        assert_eq!((first.pages.len(), second.pages.len()), (1, 1));
        assert_eq!(second.pages[0].1[..2], [1, 2]);
        pages.give_back(second);
        assert_eq!(pages.dirty(), 1);
    }
}
