//! Entries of a VHDX log, as right or wrong as they are asked for. Source: [MS-VHDX] 2.3.

use crate::sound::LOG_GUID;

const SECTOR: usize = 4096;

/// The numbers of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub number: u64,
    /// Offset in the ring of the oldest entry that is needed with this one.
    pub tail: u32,
    /// Length of the file when it was last synced.
    pub flushed: u64,
    /// Length that the file must have.
    pub last: u64,
}

/// What replaying an entry does.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Page { at: u64, bytes: Vec<u8> },
    Zeros { at: u64, length: u64 },
}

impl Entry {
    /// Encodes an entry of [`LOG_GUID`]'s session; of each page at most 4096 bytes count.
    pub fn encode(&self, changes: &[Change]) -> Vec<u8> {
        let pages = changes.iter().filter(|change| matches!(change, Change::Page { .. })).count();
        let data_start = (64 + 32 * changes.len()).next_multiple_of(SECTOR);
        let total = data_start + pages * SECTOR;
        let mut entry = vec![0; total];
        put(&mut entry, 0, b"loge");
        put(&mut entry, 8, &(total as u32).to_le_bytes());
        put(&mut entry, 12, &self.tail.to_le_bytes());
        put(&mut entry, 16, &self.number.to_le_bytes());
        put(&mut entry, 24, &(changes.len() as u32).to_le_bytes());
        put(&mut entry, 32, &LOG_GUID.to_bytes());
        put(&mut entry, 48, &self.flushed.to_le_bytes());
        put(&mut entry, 56, &self.last.to_le_bytes());
        let mut data = data_start;
        for (index, change) in changes.iter().enumerate() {
            let descriptor = 64 + 32 * index;
            put(&mut entry, descriptor + 24, &self.number.to_le_bytes());
            match change {
                Change::Zeros { at, length } => {
                    put(&mut entry, descriptor, b"zero");
                    put(&mut entry, descriptor + 8, &length.to_le_bytes());
                    put(&mut entry, descriptor + 16, &at.to_le_bytes());
                }
                Change::Page { at, bytes } => {
                    let mut page = [0; SECTOR];
                    let count = bytes.len().min(SECTOR);
                    page[..count].copy_from_slice(&bytes[..count]);
                    put(&mut entry, descriptor, b"desc");
                    put(&mut entry, descriptor + 4, &page[SECTOR - 4..]);
                    put(&mut entry, descriptor + 8, &page[..8]);
                    put(&mut entry, descriptor + 16, &at.to_le_bytes());
                    put(&mut entry, data, b"data");
                    put(&mut entry, data + 4, &((self.number >> 32) as u32).to_le_bytes());
                    put(&mut entry, data + 8, &page[8..SECTOR - 4]);
                    put(&mut entry, data + SECTOR - 4, &(self.number as u32).to_le_bytes());
                    data += SECTOR;
                }
            }
        }
        seal(&mut entry);
        entry
    }
}

/// Makes the checksum of an entry right.
pub(crate) fn seal(entry: &mut [u8]) {
    put(entry, 4, &[0; 4]);
    let crc = crc32c::crc32c(entry);
    put(entry, 4, &crc.to_le_bytes());
}

fn put(bytes: &mut [u8], at: usize, data: &[u8]) {
    bytes[at..at + data.len()].copy_from_slice(data);
}
