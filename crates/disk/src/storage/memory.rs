//! Storage in memory, for tests and tools.

use std::io;

use parking_lot::RwLock;

use super::Storage;

/// Bytes in memory that behave as a file that is always durable.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    bytes: RwLock<Vec<u8>>,
}

impl MemoryStorage {
    /// Starts with `bytes` as the content.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: RwLock::new(bytes) }
    }

    /// Copies the present content.
    pub fn snapshot(&self) -> Vec<u8> {
        self.bytes.read().clone()
    }
}

fn too_long() -> io::Error {
    io::Error::from(io::ErrorKind::FileTooLarge)
}

fn end(offset: u64, length: usize) -> io::Result<usize> {
    let offset = usize::try_from(offset).map_err(|_| too_long())?;
    offset.checked_add(length).ok_or_else(too_long)
}

impl Storage for MemoryStorage {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = end(offset, buffer.len())?;
        let bytes = self.bytes.read();
        let source = bytes.get(end - buffer.len()..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(source);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = end(offset, data.len())?;
        let mut bytes = self.bytes.write();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[end - data.len()..end].copy_from_slice(data);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.read().len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(|_| too_long())?;
        self.bytes.write().resize(length, 0);
        Ok(())
    }

    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut bytes = self.bytes.write();
        let total = bytes.len() as u64;
        let (start, end) = (offset.min(total), offset.saturating_add(length).min(total));
        bytes[start as usize..end as usize].fill(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_past_the_end_fail_and_writes_past_it_grow() {
        let storage = MemoryStorage::default();
        assert!(storage.read_at(0, &mut [0]).is_err());
        storage.write_at(3, b"x").unwrap();
        assert_eq!(storage.snapshot(), b"\0\0\0x");
        storage.punch_hole(2, u64::MAX).unwrap();
        assert_eq!(storage.snapshot(), b"\0\0\0\0");
        assert!(storage.read_at(u64::MAX, &mut [0]).is_err());
    }
}
