//! Big-endian fields at fixed offsets.

use crate::guid::Guid;

/// A record of fixed size; every field offset used with it is below that size.
pub(super) trait Fields {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N];

    fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.bytes(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.bytes(at))
    }

    fn guid(&self, at: usize) -> Guid {
        Guid::from_big_endian(self.bytes(at))
    }
}

impl Fields for [u8] {
    /// Bytes past the end read as zeros, so that a decoder given too little sees an invalid record.
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut field = [0; N];
        if let Some(source) = self.get(at..at + N) {
            field.copy_from_slice(source);
        }
        field
    }
}

/// Writes fields into a record that is large enough.
pub(super) trait FieldsMut {
    fn put(&mut self, at: usize, field: &[u8]);
}

impl FieldsMut for [u8] {
    fn put(&mut self, at: usize, field: &[u8]) {
        self[at..at + field.len()].copy_from_slice(field);
    }
}

/// The complement of the sum of all bytes but those of the checksum itself, four at `field`.
pub(super) fn checksum(record: &[u8], field: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    !(sum(&record[..field]) + sum(&record[field + 4..]))
}

/// Whether a record's checksum must be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksums {
    Required,
    /// For damaged files, and those of tools that never wrote them.
    Ignored,
}
