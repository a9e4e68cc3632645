//! Little-endian fields at fixed offsets, read without panicking past the end.

use crate::guid::Guid;

/// A record of fixed size; every field offset used with it is below that size.
pub(super) trait Fields {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N];

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }

    fn guid(&self, at: usize) -> Guid {
        Guid::from_bytes(self.bytes(at))
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

/// CRC-32C of `record` with the four bytes of its checksum field, at offset 4, taken as zeros.
pub(super) fn checksum(record: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&record[..4]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &record[8..])
}
