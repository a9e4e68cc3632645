//! Storage that runs out of space.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use ireko_disk::Storage;
use ireko_testkit::{CrashStorage, Image};

/// Takes so many writes, and none from then on.
pub struct Failing {
    inner: CrashStorage,
    left: AtomicU64,
}

impl Failing {
    pub fn after(writes: u64, image: Image) -> Self {
        Self { inner: CrashStorage::new(image), left: AtomicU64::new(writes) }
    }

    pub fn image(&self) -> Image {
        self.inner.image()
    }

    fn space(&self) -> io::Result<()> {
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| io::ErrorKind::StorageFull.into())
    }
}

impl Storage for Failing {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Err(full) = self.space() {
            // As a file would: some of it is written.
            self.inner.write_at(offset, &data[..data.len() / 1024 * 512])?;
            return Err(full);
        }
        self.inner.write_at(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.space()?;
        self.inner.set_len(length)
    }

    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inner.punch_hole(offset, length)
    }
}
