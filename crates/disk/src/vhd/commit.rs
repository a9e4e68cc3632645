//! Making changes durable: VHD has no log, so the order of writes is all there is.
//!
//! ```text
//!   take the changed sectors ─► sync ─► write them to their places ─► sync ─► acknowledge
//!                                │      table entries, bits                └► space given up is free
//!                                └ data, cleared space
//! ```
//! A sector is written whole or not at all, and each names data that is durable by then: whichever of them a
//! power cut leaves, every sector of the disk is old or new. A flush without changed sectors is one sync. Flushes
//! that wait for one another are served by one.
//!
//! The file grows before its new space is used: one write puts a footer behind that space, and only when it is
//! durable may blocks overwrite the old one. So the file ends with a footer at every instant, and never with
//! bytes of the guest.
//!
//! Lock order: stripe, turn, sectors, ground.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use super::bat;
use super::bytes::Fields;
use super::footer::{FOOTER, Footer};
use super::space::{Allocation, Census, Space};
use super::sparse::{Sector, Sparse};
use super::{MAX_FILE, SECTOR};
use crate::error::{During, Error, ErrorKind, Result};
use crate::pages::{Batch, Pages};

const STRIPES: usize = 256;
/// Changed sectors that are kept before they are made durable unasked.
const MAX_CHANGED: usize = 16_384;
/// The file grows by at least this much, and by half of what it has, up to 16 times this: it takes a sync. What is not
/// used is cut off in the end.
const GROWTH: u64 = 64 << 20;
/// No more than this is written by one call when sectors are neighbours.
const LONGEST_WRITE: usize = 256 << 10;

type Sectors = Pages<{ SECTOR as usize }>;

/// What a layer needs to be written.
pub(super) struct Writer {
    stripes: Box<[RwLock<()>]>,
    turn: Mutex<Turn>,
    pub ground: Mutex<Ground>,
    /// Flushes asked for so far.
    flushes: AtomicU64,
    /// Set by a failed sync: what it should have made durable may be lost, and no later one can tell.
    broken: AtomicBool,
}

/// Held by whoever commits.
pub(super) struct Turn {
    /// Flushes that the last successful commit served.
    served: u64,
}

/// The file's end and what is free before it.
pub(super) struct Ground {
    pub footer: Footer,
    /// Built before the first allocation.
    pub space: Option<Space>,
    /// Something was given up before that.
    gave_up: bool,
}

/// Changes to sectors that are taken together.
pub(super) struct Edit<'a> {
    sectors: RwLockWriteGuard<'a, Sectors>,
}

impl Edit<'_> {
    /// Returns one of the sectors named to [`Sparse::publish`].
    pub fn sector(&mut self, at: u64) -> &mut Sector {
        self.sectors.edit(at)
    }

    /// Gives up space; it is free once this edit is durable.
    pub fn free(&mut self, place: Range<u64>) {
        self.sectors.free(place);
    }
}

impl Writer {
    pub fn new(footer: Footer) -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| RwLock::new(())).collect(),
            turn: Mutex::new(Turn { served: 0 }),
            ground: Mutex::new(Ground { footer, space: None, gave_up: false }),
            flushes: AtomicU64::new(0),
            broken: AtomicBool::new(false),
        }
    }

    pub fn stripe(&self, block: u64) -> &RwLock<()> {
        &self.stripes[block as usize % STRIPES]
    }
}

impl Sparse {
    pub fn writer(&self) -> Result<&Writer> {
        let read_only = || Error::new(ErrorKind::ReadOnly, "the disk is open for reading");
        self.writer.as_ref().ok_or_else(read_only)
    }

    /// Makes every completed change durable.
    pub fn flush(&self) -> Result<()> {
        let writer = self.writer()?;
        let ticket = writer.flushes.fetch_add(1, Ordering::SeqCst) + 1;
        let mut turn = writer.turn.lock();
        if turn.served >= ticket {
            return Ok(());
        }
        let serving = writer.flushes.load(Ordering::SeqCst);
        self.commit(&mut turn)?;
        turn.served = serving;
        Ok(())
    }

    /// Makes everything durable and cuts the file's unused end off. It can be written to afterwards.
    pub fn settle(&self) -> Result<()> {
        let writer = self.writer()?;
        self.commit(&mut writer.turn.lock())?;
        if writer.ground.lock().gave_up {
            self.build_space(writer)?;
        }
        let mut ground = writer.ground.lock();
        let Ground { footer, space: Some(space), .. } = &mut *ground else { return Ok(()) };
        let end = space.end();
        if end < self.limit.load(Ordering::Acquire) {
            // The footer is there before the file ends behind it.
            self.storage.write_at(end, footer.record()).during("write the footer")?;
            self.sync(writer)?;
            self.storage.set_len(end + FOOTER).during("cut the file's unused end")?;
            self.limit.store(end, Ordering::Release);
        }
        Ok(())
    }

    /// Changes the footer and its copy, durably. The one at the end counts, and is changed first.
    pub fn change_footers(&self, change: impl FnOnce(&mut Footer)) -> Result<()> {
        let writer = self.writer()?;
        let mut ground = writer.ground.lock();
        let mut footer = ground.footer.clone();
        change(&mut footer);
        for at in [self.limit.load(Ordering::Acquire), 0] {
            self.storage.write_at(at, footer.record()).during("write the footer")?;
            self.sync(writer)?;
        }
        ground.footer = footer;
        Ok(())
    }

    /// Changes sectors as one step. `change` may edit the sectors at `places` and no others.
    pub fn publish(&self, places: &[u64], change: impl FnOnce(&mut Edit<'_>)) -> Result<()> {
        let writer = self.writer()?;
        loop {
            let mut sectors = self.sectors.write();
            if sectors.dirty() + sectors.newly_dirty(places) <= MAX_CHANGED {
                sectors.make_room(places.len());
                for &at in places {
                    sectors.load(&*self.storage, at)?;
                }
                change(&mut Edit { sectors });
                return Ok(());
            }
            drop(sectors);
            self.commit(&mut writer.turn.lock())?;
        }
    }

    fn commit(&self, _turn: &mut Turn) -> Result<()> {
        let writer = self.writer()?;
        if writer.broken.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Io, "an earlier sync of the disk failed"));
        }
        let batch = self.sectors.write().take();
        let outcome = self.sync(writer).and_then(|()| self.write_batch(writer, &batch));
        if let Err(error) = outcome {
            // Some may be written: each by itself is right, as its data are durable.
            self.sectors.write().give_back(batch);
            return Err(error);
        }
        self.sectors.write().applied(&batch.pages);
        for place in batch.freed {
            // For the host's sake; a failure is harmless, as space is cleared again before its next use.
            let _ = self.storage.punch_hole(place.start, place.end - place.start);
            self.release(place);
        }
        Ok(())
    }

    fn write_batch(&self, writer: &Writer, batch: &Batch<{ SECTOR as usize }>) -> Result<()> {
        if batch.pages.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        let neighbours = |a: &(u64, Box<Sector>), b: &(u64, Box<Sector>)| a.0 + SECTOR == b.0;
        for row in batch.pages.chunk_by(neighbours) {
            for part in row.chunks(LONGEST_WRITE / SECTOR as usize) {
                bytes.clear();
                part.iter().for_each(|(_, sector)| bytes.extend_from_slice(&sector[..]));
                self.storage.write_at(part[0].0, &bytes).during("write metadata")?;
            }
        }
        self.sync(writer)
    }

    pub fn sync(&self, writer: &Writer) -> Result<()> {
        let outcome = self.storage.sync().during("sync the disk");
        if outcome.is_err() {
            writer.broken.store(true, Ordering::Release);
        }
        outcome
    }

    /// Takes space, and grows the file to hold it.
    pub fn allocate(
        &self,
        take: impl FnOnce(&mut Space) -> Result<Allocation>,
    ) -> Result<Allocation> {
        self.with_ground(|footer, space| {
            let mut allocation = take(space)?;
            if allocation.place.end > self.limit.load(Ordering::Acquire) {
                if let Err(error) = self.grow(footer, allocation.place.end) {
                    space.free(allocation.place);
                    return Err(error);
                }
                // The old footer may lie in it.
                allocation.used_before = true;
            }
            Ok(allocation)
        })?
    }

    /// Shows the map of free space, making it first if need be. Fails when the table contradicts itself.
    pub fn with_space<T>(&self, look: impl FnOnce(&mut Space) -> T) -> Result<T> {
        self.with_ground(|_, space| look(space))
    }

    fn with_ground<T>(&self, look: impl FnOnce(&Footer, &mut Space) -> T) -> Result<T> {
        let writer = self.writer()?;
        if writer.ground.lock().space.is_none() {
            self.build_space(writer)?;
        }
        let mut ground = writer.ground.lock();
        let Ground { footer, space, .. } = &mut *ground;
        Ok(look(footer, space.as_mut().expect("built once, kept while the layer is open")))
    }

    /// Takes what is free of a range for something that is no block, and grows the file to hold it.
    pub fn reserve(&self, range: &Range<u64>) -> Result<()> {
        self.with_ground(|footer, space| {
            space.reserve(range);
            match range.end > self.limit.load(Ordering::Acquire) {
                true => self.grow(footer, range.end),
                false => Ok(()),
            }
        })?
    }

    /// Grows the file so that its footer begins at `end`; durable on return. What is between is nobody's.
    pub fn lengthen(&self, end: u64) -> Result<()> {
        let footer = self.writer()?.ground.lock().footer.clone();
        self.move_footer(&footer, end)
    }

    fn grow(&self, footer: &Footer, needed: u64) -> Result<()> {
        let old = self.limit.load(Ordering::Acquire);
        let step = (old / 2).clamp(GROWTH, GROWTH * 16);
        self.move_footer(footer, needed.max((old + step).min(MAX_FILE)))
    }

    /// Puts a footer behind new space; durable on return.
    fn move_footer(&self, footer: &Footer, end: u64) -> Result<()> {
        let writer = self.writer()?;
        let (old, end) = (self.limit.load(Ordering::Acquire), end.next_multiple_of(SECTOR));
        if let Err(error) = self.storage.write_at(end, footer.record()) {
            // The old footer is still in its place.
            let _ = self.storage.set_len(old + FOOTER);
            return Err(Error::io("grow the file", error));
        }
        self.sync(writer)?;
        self.limit.store(end, Ordering::Release);
        Ok(())
    }

    /// Takes space back that is in no table entry: never published, or durably given up.
    pub fn release(&self, place: Range<u64>) {
        let Some(writer) = &self.writer else { return };
        let mut ground = writer.ground.lock();
        match &mut ground.space {
            Some(space) => space.free(place),
            None => ground.gave_up = true,
        }
    }

    /// Reads the whole table. No commit and no publishing happen meanwhile.
    fn build_space(&self, writer: &Writer) -> Result<()> {
        let _no_commit = writer.turn.lock();
        let sectors = self.sectors.write();
        let mut ground = writer.ground.lock();
        if ground.space.is_some() {
            return Ok(());
        }
        let mut space = self.census(&sectors)?;
        self.names.iter().for_each(|name| space.reserve(name));
        ground.space = Some(space);
        Ok(())
    }

    /// Fails with [`ErrorKind::Corrupt`] where parts of the file share space: a write to one would change the other.
    pub fn check_space(&self) -> Result<()> {
        self.census(&self.sectors.read()).map(drop)
    }

    fn census(&self, sectors: &Sectors) -> Result<Space> {
        let limit = self.limit.load(Ordering::Acquire);
        let mut census = Census::new(&self.layout, &self.reserved, limit);
        self.each_entry(sectors, |_, at| census.add(at..at + self.layout.span()))?;
        // Given up, but not durably: a crash would find it in use.
        sectors.freed().iter().try_for_each(|place| census.add(place.clone()))?;
        census.finish(&self.layout, limit)
    }

    /// Calls `visit(block, place)` for each block that is there, as the table is now; places are checked.
    pub fn each_entry(
        &self,
        sectors: &Sectors,
        mut visit: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        const STEP: usize = 64 << 10;
        let (start, end) =
            (self.header.table_offset(), self.header.table_offset() + self.layout.table_length());
        let mut part = Vec::new();
        let mut block = 0;
        for at in (start..end).step_by(STEP) {
            part.resize((end - at).min(STEP as u64) as usize, 0);
            self.storage.read_at(at, &mut part).during("read the block table")?;
            for (index, in_file) in part.chunks_exact(SECTOR as usize).enumerate() {
                let changed = sectors.get(at + index as u64 * SECTOR);
                let entries = changed.map_or(in_file, |sector| &sector[..]);
                for entry in entries.chunks_exact(bat::ENTRY as usize) {
                    if block < self.layout.blocks()
                        && let Some(place) = bat::decode(entry.u32(0))
                    {
                        visit(block, self.bounded(place)?)?;
                    }
                    block += 1;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Sparse {
    /// Closes cleanly as far as that is possible; use [`Sparse::settle`] first to learn of failures.
    fn drop(&mut self) {
        if self.writer.is_some() {
            let _ = self.settle();
        }
    }
}
