//! Storage whose bytes are cheap to copy and take no memory where they are zeros.

use std::io;
use std::ops::Range;

use ireko_disk::Storage;
use ireko_testkit::Image;
use parking_lot::Mutex;

/// An [`Image`] as storage.
pub(crate) struct Sparse(Mutex<Image>);

impl Sparse {
    pub fn new(image: Image) -> Self {
        Self(Mutex::new(image))
    }

    pub fn image(&self) -> Image {
        self.0.lock().clone()
    }
}

impl Storage for Sparse {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.lock().read(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.lock().write(offset, data);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().length())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.lock().set_length(length);
        Ok(())
    }

    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        self.0.lock().punch(offset, length);
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        Ok(self.0.lock().next_data(offset))
    }
}
