//! Making changes durable: one log entry for everything since the last one.
//!
//! ```text
//!   take the dirty pages ─► sync payload ─► entry into the log ─► sync ─► acknowledge
//!                               │                                   └► pages to their places, unsynced;
//!                               └ also syncs what the last entry applied     the next commit syncs them
//! ```
//! The first sync is what keeps a crash from showing a new block's old bytes; the second is the promise
//! of a flush. Space that the entry gave up is cleared and free from then on. A flush without changed
//! pages is one sync. Flushes that wait for one another are served by one.
//!
//! Lock order: stripe, bitmaps, log, pages, space.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use super::bat::{Layout, Payload, decode_bitmap};
use super::bytes::{Fields, FieldsMut};
use super::header::Current;
use super::layer::Layer;
use super::log::entry::{self, LoggedPage};
use super::log::ring::Ring;
use super::space::{Allocation, Census, Space};
use super::{MIB, PAGE};
use crate::error::{During, Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::pages::{Batch, Pages};

const STRIPES: usize = 256;
/// The file grows by at least this much, so that its length rarely changes.
const GROWTH: u64 = 32 * MIB;

/// What a layer needs to be written.
pub(crate) struct Writer {
    stripes: Box<[RwLock<()>]>,
    /// Held while a bitmap block is allocated, so that a chunk gets one.
    pub(super) bitmaps: Mutex<()>,
    log: Mutex<Log>,
    /// Built before the first allocation.
    space: Mutex<Option<Space>>,
    /// Flushes asked for so far.
    flushes: AtomicU64,
    /// Pages that fit one log entry.
    max_pages: usize,
}

struct Log {
    header: Current,
    ring: Ring,
    /// The GUID of this session's entries.
    session: Guid,
    /// Whether the header names the session: the log is replayed after a crash.
    in_use: bool,
    sequence: u64,
    /// Logged, not yet at their places.
    unapplied: Vec<LoggedPage>,
    /// Flushes that the last successful commit served.
    served: u64,
    /// Set by a failed sync: what it should have made durable may be lost, and no later one can tell.
    broken: bool,
}

/// A BAT slot whose block has space, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub slot: u32,
    /// The block's offset in the file, in MiB.
    pub mib: u32,
}

/// Changes to pages that reach the log together or not at all.
pub(super) struct Edit<'a> {
    pages: RwLockWriteGuard<'a, Pages<PAGE>>,
}

impl Edit<'_> {
    /// Returns one of the pages named to [`Layer::publish`].
    pub fn page(&mut self, at: u64) -> &mut [u8; PAGE] {
        self.pages.edit(at)
    }

    /// Gives up space; it is free once this edit is durable.
    pub fn free(&mut self, place: Range<u64>) {
        self.pages.free(place);
    }
}

impl Writer {
    /// Fails with [`ErrorKind::Unsupported`] when the file has no log to write to.
    pub(super) fn new(header: Current) -> Result<Self> {
        let ring = Ring::new(header.header().log_length);
        let max_pages = ring.max_pages();
        if max_pages == 0 {
            return Err(Error::new(ErrorKind::Unsupported, "the file has no room for a log"));
        }
        let log = Log {
            header,
            ring,
            session: Guid::random(),
            in_use: false,
            sequence: 0,
            unapplied: Vec::new(),
            served: 0,
            broken: false,
        };
        Ok(Self {
            stripes: (0..STRIPES).map(|_| RwLock::new(())).collect(),
            bitmaps: Mutex::new(()),
            log: Mutex::new(log),
            space: Mutex::new(None),
            flushes: AtomicU64::new(0),
            max_pages,
        })
    }

    pub fn stripe(&self, block: u64) -> &RwLock<()> {
        &self.stripes[block as usize % STRIPES]
    }
}

impl Layer {
    /// Makes every completed change durable.
    pub(crate) fn flush(&self) -> Result<()> {
        let writer = self.writer()?;
        let ticket = writer.flushes.fetch_add(1, Ordering::SeqCst) + 1;
        let mut log = writer.log.lock();
        if log.served >= ticket {
            return Ok(());
        }
        let serving = writer.flushes.load(Ordering::SeqCst);
        self.commit(&mut log)?;
        log.served = serving;
        Ok(())
    }

    /// Ends the session: everything durable and in place, log not in use, unused space at the end cut off.
    ///
    /// The layer can still be written afterwards; the log starts anew.
    pub(crate) fn settle(&self) -> Result<()> {
        let writer = self.writer()?;
        let mut log = writer.log.lock();
        self.commit(&mut log)?;
        if log.in_use {
            self.apply(&mut log)?;
            self.sync(&mut log)?;
            self.name_session(&mut log, Guid::NIL)?;
            log.session = Guid::random();
            log.in_use = false;
            log.ring = Ring::new(log.header.header().log_length);
        }
        let space = writer.space.lock();
        if let Some(end) = space.as_ref().map(Space::end)
            && end < self.length.load(Ordering::Acquire)
        {
            self.storage.set_len(end).during("cut the file's unused end")?;
            self.length.store(end, Ordering::Release);
        }
        Ok(())
    }

    /// Settles, and then gives the file a DataWriteGuid that others know already; durable on return.
    pub(crate) fn settle_as(mut self, data_write_guid: Guid) -> Result<()> {
        self.settle()?;
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let mut header = writer.log.into_inner().header;
        header.update(&*self.storage, |header| header.data_write_guid = data_write_guid)
    }

    /// Lets go of a layer without settling it: it was settled and not written since, or its file is of no use.
    pub(crate) fn retire(mut self) {
        self.writer = None;
    }

    /// Changes pages as one step. `change` may edit the pages at `places` and no others.
    pub(super) fn publish(&self, places: &[u64], change: impl FnOnce(&mut Edit<'_>)) -> Result<()> {
        let writer = self.writer()?;
        loop {
            let mut pages = self.pages.write();
            if pages.dirty() + pages.newly_dirty(places) <= writer.max_pages {
                pages.make_room(places.len());
                for &at in places {
                    pages.load(&*self.storage, at)?;
                }
                change(&mut Edit { pages });
                return Ok(());
            }
            drop(pages);
            self.commit(&mut writer.log.lock())?;
        }
    }

    /// Changes a BAT entry, and gives up space with it.
    pub(super) fn publish_slot(
        &self,
        slot: u64,
        entry: u64,
        freed: Option<Range<u64>>,
    ) -> Result<()> {
        let (page, within) = self.bat_place(slot);
        self.publish(&[page], |edit| {
            edit.page(page).put(within, &entry.to_le_bytes());
            freed.into_iter().for_each(|place| edit.free(place));
        })
    }

    /// Replaces whole pages, and gives up space with them, as one step.
    pub(super) fn publish_pages(
        &self,
        replacements: Vec<LoggedPage>,
        freed: Option<Range<u64>>,
    ) -> Result<()> {
        let places: Vec<u64> = replacements.iter().map(|page| page.0).collect();
        self.publish(&places, |edit| {
            for (at, bytes) in replacements {
                edit.pages.replace(at, bytes);
            }
            freed.into_iter().for_each(|place| edit.free(place));
        })
    }

    fn commit(&self, log: &mut Log) -> Result<()> {
        if log.broken {
            return Err(Error::new(ErrorKind::Io, "an earlier sync of the disk failed"));
        }
        self.apply(log)?;
        let batch = self.pages.write().take();
        // Taken before the sync, so that it is no more than what the sync makes durable.
        let outcome = self.storage.len().during("read the file's length").and_then(|length| {
            self.sync(log)?;
            self.write_entry(log, &batch, length)
        });
        if let Err(error) = outcome {
            self.pages.write().give_back(batch);
            return Err(error);
        }
        log.unapplied = batch.pages;
        // Durable already: a failure here is met again, and reported, by the next commit.
        let _ = self.apply(log);
        for place in batch.freed {
            // For the host's sake; a failure is harmless, as space is cleared again before its next use.
            let _ = self.storage.punch_hole(place.start, place.end - place.start);
            self.release(place);
        }
        Ok(())
    }

    /// Writes and syncs an entry; puts the log in use before the first.
    fn write_entry(&self, log: &mut Log, batch: &Batch<PAGE>, file_length: u64) -> Result<()> {
        if batch.pages.is_empty() {
            return Ok(());
        }
        let tail = (log.ring.next() * PAGE) as u32;
        let bytes = entry::encode(log.session, log.sequence + 1, tail, file_length, &batch.pages);
        let at = log.header.header().log_offset + u64::from(tail);
        self.storage.write_at(at, &bytes).during("write the log")?;
        self.sync(log)?;
        log.sequence += 1;
        log.ring.advance();
        if !log.in_use {
            // The entry is there before the header says so: a log in use is never empty.
            self.name_session(log, log.session)?;
            log.in_use = true;
        }
        Ok(())
    }

    /// Changes what children remember the disk by, durably.
    pub(super) fn set_data_write_guid(&mut self, guid: Guid) -> Result<()> {
        let mut log = self.writer()?.log.lock();
        let next = log.header.write_next(&*self.storage, |header| header.data_write_guid = guid)?;
        self.sync(&mut log)?;
        log.header = next.clone();
        drop(log);
        self.header = next;
        Ok(())
    }

    /// Names the log's session in the header, durably.
    fn name_session(&self, log: &mut Log, session: Guid) -> Result<()> {
        let next = log.header.write_next(&*self.storage, |header| header.log_guid = session)?;
        self.sync(log)?;
        log.header = next;
        Ok(())
    }

    /// Writes logged pages to their places. They are durable in the log until a later commit syncs them here.
    fn apply(&self, log: &mut Log) -> Result<()> {
        for (at, page) in &log.unapplied {
            self.storage.write_at(*at, page.as_slice()).during("write metadata")?;
        }
        self.pages.write().applied(&log.unapplied);
        log.unapplied.clear();
        Ok(())
    }

    fn sync(&self, log: &mut Log) -> Result<()> {
        let outcome = self.storage.sync().during("sync the disk");
        log.broken |= outcome.is_err();
        outcome
    }

    /// Takes space for a block and grows the file to hold it.
    pub(super) fn allocate(&self, length: u64) -> Result<Allocation> {
        self.allocate_by(|space| space.allocate(length))
    }

    /// Takes space that `choose` finds and grows the file to hold it.
    pub(super) fn allocate_by(
        &self,
        choose: impl FnOnce(&mut Space) -> Result<Allocation>,
    ) -> Result<Allocation> {
        self.with_space(|space| {
            let allocation = choose(space)?;
            let present = self.length.load(Ordering::Acquire);
            if allocation.place.end > present {
                let grown = allocation.place.end.max(present.next_multiple_of(MIB) + GROWTH);
                if let Err(error) = self.storage.set_len(grown) {
                    space.free(allocation.place);
                    return Err(Error::io("grow the file", error));
                }
                self.length.store(grown, Ordering::Release);
            }
            Ok(allocation)
        })?
    }

    /// Shows the map of free space, making it first if need be. Fails when the BAT contradicts itself.
    pub(super) fn with_space<T>(&self, look: impl FnOnce(&mut Space) -> T) -> Result<T> {
        let writer = self.writer()?;
        if writer.space.lock().is_none() {
            self.build_space(writer)?;
        }
        let mut space = writer.space.lock();
        Ok(look(space.as_mut().expect("built once, kept while the layer is open")))
    }

    /// Takes space back that is in no BAT entry: never published, or durably given up.
    pub(super) fn release(&self, place: Range<u64>) {
        if let Some(writer) = &self.writer
            && let Some(space) = writer.space.lock().as_mut()
        {
            space.free(place);
        }
    }

    /// Reads the whole BAT. No commit and no publishing happen meanwhile.
    fn build_space(&self, writer: &Writer) -> Result<()> {
        let _no_commit = writer.log.lock();
        let pages = self.pages.write();
        let mut space = writer.space.lock();
        if space.is_some() {
            return Ok(());
        }
        *space = Some(self.census(&pages)?);
        Ok(())
    }

    /// Fails with [`ErrorKind::Corrupt`] where blocks share space: a write to one would change the other.
    ///
    /// Reads the whole BAT, which opening does not.
    pub(crate) fn check_space(&self) -> Result<()> {
        self.census(&self.pages.read()).map(drop)
    }

    fn census(&self, pages: &Pages<PAGE>) -> Result<Space> {
        let mut census = Census::new(self.length.load(Ordering::Acquire), &self.regions.reserved);
        self.each_owner(pages, |_, place| census.add(place))?;
        // Given up, but not durably: a crash would find it in use.
        pages.freed().iter().try_for_each(|place| census.add(place.clone()))?;
        census.finish()
    }

    /// Lists the blocks and bitmap blocks that have space, in the order of their BAT slots.
    pub(super) fn owners(&self) -> Result<Vec<Owner>> {
        let mut owners = Vec::new();
        self.each_owner(&self.pages.read(), |slot, place| {
            owners.push(Owner { slot: slot as u32, mib: (place.start / MIB) as u32 });
            Ok(())
        })?;
        Ok(owners)
    }

    /// Calls `visit(slot, place)` for each BAT entry that owns bytes of the file.
    fn each_owner(
        &self,
        pages: &Pages<PAGE>,
        mut visit: impl FnMut(u64, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let mut from_file = [0; PAGE];
        for slot in 0..self.entries(&self.layout) {
            let (at, within) = self.bat_place(slot);
            let page = match pages.get(at) {
                Some(page) => page,
                None => {
                    if within == 0 {
                        self.storage.read_at(at, &mut from_file).during("read the BAT")?;
                    }
                    &from_file
                }
            };
            if let Some(place) = self.used_by(&self.layout, slot, page.as_slice().u64(within))? {
                visit(slot, place)?;
            }
        }
        Ok(())
    }

    /// Returns the bytes of the file that a BAT entry owns in a disk of this layout.
    pub(super) fn used_by(
        &self,
        layout: &Layout,
        slot: u64,
        entry: u64,
    ) -> Result<Option<Range<u64>>> {
        let (offset, length) = if layout.is_bitmap_slot(slot) {
            match self.parent() {
                Some(_) => (decode_bitmap(entry)?, MIB),
                None => (None, MIB),
            }
        } else if layout.block_of(slot) >= Some(layout.blocks()) {
            // Behind the disk's end: whatever it says, no block of the disk lies there.
            (None, 0)
        } else {
            match Payload::decode(entry)? {
                Payload::Full(at) | Payload::Partial(at) => (Some(at), layout.block_size),
                _ => (None, 0),
            }
        };
        let bounded = offset.map(|offset| self.bounded(offset, length)).transpose()?;
        Ok(bounded.map(|offset| offset..offset + length))
    }
}

impl Drop for Layer {
    /// Closes cleanly as far as that is possible; use [`Layer::settle`] first to learn of failures.
    fn drop(&mut self) {
        if self.writer.is_some() {
            let _ = self.settle();
        }
    }
}
