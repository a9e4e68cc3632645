//! The disk chain while a VM uses it.
//!
//! Every request of the VM holds the chain shared; a commit holds it alone for the moment in
//! which the leaf is exchanged, which drains what is under way and holds back what comes.
//!
//! The host may keep gigabytes of written data in memory until somebody syncs. A commit would then
//! take as long as the disk needs for all of it, so a thread syncs after every [`BACKLOG`] bytes.

use ireko_disk::{Chain, Disk, Error, Extent, FreezePlan, Geometry, Result};
use parking_lot::{Condvar, Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// Written bytes after which they are pushed to the disk without being asked.
const BACKLOG: u64 = 64 * 1024 * 1024;

/// A chain that can be frozen under a running VM.
pub struct LiveDisk {
    chain: RwLock<Chain>,
    geometry: Geometry,
    written: AtomicU64,
    pace: Pace,
    writeback: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Pace {
    due: Mutex<bool>,
    changed: Condvar,
    over: AtomicBool,
}

impl LiveDisk {
    /// Takes over an open chain.
    pub fn new(chain: Chain) -> std::io::Result<Arc<Self>> {
        let disk = Arc::new(Self {
            geometry: chain.geometry(),
            chain: RwLock::new(chain),
            written: AtomicU64::new(0),
            pace: Pace::default(),
            writeback: Mutex::default(),
        });
        let pacing = Arc::clone(&disk);
        let thread =
            thread::Builder::new().name("writeback".into()).spawn(move || pacing.write_back())?;
        *disk.writeback.lock() = Some(thread);
        Ok(disk)
    }

    /// Freezes the leaves of all these disks, at one moment of the guest's, and goes on with new
    /// children; see [`Chain::freeze`]. Where one fails, those before it are frozen.
    pub fn freeze_all(disks: &[(&LiveDisk, FreezePlan)]) -> Result<()> {
        let mut held: Vec<_> = disks.iter().map(|(disk, _)| disk.chain.write()).collect();
        held.iter_mut().zip(disks).try_for_each(|(chain, (_, plan))| chain.freeze(plan))
    }

    /// Ends the writeback thread and closes the chain; on return its files are clean and free.
    ///
    /// A commit that is still at work keeps the chain; it is then closed when that ends.
    pub fn close(self: Arc<Self>) -> Result<()> {
        self.end().map_or(Ok(()), Chain::close)
    }

    /// The same for a disk that nobody will read again: its files are free, as after a power cut.
    pub fn let_go(self: Arc<Self>) {
        drop(self.end());
    }

    fn end(self: Arc<Self>) -> Option<Chain> {
        self.pace.over.store(true, Ordering::Relaxed);
        self.wake();
        if let Some(thread) = self.writeback.lock().take() {
            // A panic there has been said already, and lost no acknowledged byte.
            let _ = thread.join();
        }
        Arc::into_inner(self).map(|disk| disk.chain.into_inner())
    }

    fn note_written(&self, bytes: usize) {
        let before = self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        if before / BACKLOG != (before + bytes as u64) / BACKLOG {
            self.wake();
        }
    }

    fn wake(&self) {
        *self.pace.due.lock() = true;
        self.pace.changed.notify_one();
    }

    fn write_back(&self) {
        loop {
            let mut due = self.pace.due.lock();
            while !std::mem::take(&mut *due) {
                self.pace.changed.wait(&mut due);
            }
            drop(due);
            if self.pace.over.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = self.flush() {
                // The guest's own flush meets the same error and reports it where it matters.
                tracing::warn!(%error, "writing back early failed");
            }
        }
    }
}

impl Disk for LiveDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.chain.read().read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.chain.read().write_at(offset, data)?;
        self.note_written(data.len());
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.chain.read().write_zeroes(offset, length)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.chain.read().discard(offset, length)
    }

    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>, Error> {
        self.chain.read().extents(offset, length, limit)
    }

    fn flush(&self) -> Result<()> {
        self.chain.read().flush()
    }
}
