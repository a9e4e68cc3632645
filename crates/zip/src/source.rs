//! Where an archive's bytes are: read at any place, by any number of readers.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// Bytes of known number that can be read anywhere.
pub trait Source {
    /// How many there are.
    fn length(&self) -> io::Result<u64>;

    /// Fills the buffer with those at `at`. Errors where there are not so many.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl Source for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, at)
    }
}

impl Source for Vec<u8> {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let rest = usize::try_from(at).ok().and_then(|at| self.get(at..));
        let bytes = rest.and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Some of a source's bytes, one after another. Remembers why they could not be read.
pub(crate) struct Section<'a> {
    source: &'a dyn Source,
    at: u64,
    left: u64,
    pub failure: Option<io::Error>,
}

impl<'a> Section<'a> {
    pub(crate) fn new(source: &'a dyn Source, at: u64, length: u64) -> Self {
        Section { source, at, left: length, failure: None }
    }
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if let Err(error) = self.source.read_at(self.at, &mut buffer[..count]) {
            self.failure = Some(error);
            return Err(io::Error::other("the archive's source failed"));
        }
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
