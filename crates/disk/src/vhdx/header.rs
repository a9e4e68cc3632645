//! The two headers: which is current, and how to change them without ever having none.
//!
//! ```text
//!   64 KiB   header, sequence 6   ◄─ stays valid while the other is written
//!   128 KiB  header, sequence 7   ◄─ current; the next update goes to 64 KiB as sequence 8
//! ```
//! Source: [MS-VHDX] 2.2.2.

use super::bytes::{Fields, FieldsMut, checksum};
use super::{MIB, PAGE};
use crate::error::{During, Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::storage::Storage;

/// File offsets of the two headers.
pub(super) const SLOTS: [u64; 2] = [64 * 1024, 128 * 1024];
const SIGNATURE: &[u8; 4] = b"head";

/// The content of a header that is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub sequence: u64,
    pub file_write_guid: Guid,
    pub data_write_guid: Guid,
    /// [`Guid::NIL`] when there is nothing to replay.
    pub log_guid: Guid,
    pub log_offset: u64,
    pub log_length: u32,
}

/// The current header and the slot it lies in.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    header: Header,
    slot: usize,
}

impl Header {
    fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page.put(0, SIGNATURE);
        page.put(8, &self.sequence.to_le_bytes());
        page.put(16, &self.file_write_guid.to_bytes());
        page.put(32, &self.data_write_guid.to_bytes());
        page.put(48, &self.log_guid.to_bytes());
        page.put(66, &1u16.to_le_bytes());
        page.put(68, &self.log_length.to_le_bytes());
        page.put(72, &self.log_offset.to_le_bytes());
        let crc = checksum(&page);
        page.put(4, &crc.to_le_bytes());
        page
    }

    /// Reads a page whose signature and checksum were found right.
    fn decode(page: &[u8; PAGE]) -> Result<Self> {
        let page = page.as_slice();
        let header = Self {
            sequence: page.u64(8),
            file_write_guid: page.guid(16),
            data_write_guid: page.guid(32),
            log_guid: page.guid(48),
            log_offset: page.u64(72),
            log_length: page.u32(68),
        };
        let (log_version, version) = (page.u16(64), page.u16(66));
        if version != 1 {
            let message = format!("VHDX version {version} is not known");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if header.log_guid != Guid::NIL && log_version != 0 {
            let message = format!("VHDX log version {log_version} is not known");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let placed = header.log_offset >= MIB
            && header.log_offset.is_multiple_of(MIB)
            && u64::from(header.log_length).is_multiple_of(MIB)
            && header.log_offset.checked_add(u64::from(header.log_length)).is_some();
        if !placed {
            return Err(Error::corrupt("the header places the log outside the file's rules"));
        }
        Ok(header)
    }
}

impl Current {
    /// Reads both slots and chooses.
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let mut pages = [[0; PAGE]; 2];
        for (page, at) in pages.iter_mut().zip(SLOTS) {
            storage.read_at(at, page).during("read the header")?;
        }
        Self::of(&pages)
    }

    /// Chooses between the two slots' contents.
    pub fn of(pages: &[[u8; PAGE]; 2]) -> Result<Self> {
        let slot = choose(pages)?;
        Ok(Self { header: Header::decode(&pages[slot])?, slot })
    }

    /// Writes the first two headers of a new file.
    pub fn create(storage: &dyn Storage, mut header: Header) -> Result<()> {
        for at in SLOTS {
            storage.write_at(at, &header.encode()).during("write the header")?;
            header.sequence += 1;
        }
        Ok(())
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The header's index in [`SLOTS`].
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// Writes a changed copy to the other slot and syncs; durable on return. On failure the old one stays current.
    pub fn update(
        &mut self,
        storage: &dyn Storage,
        change: impl FnOnce(&mut Header),
    ) -> Result<()> {
        let next = self.write_next(storage, change)?;
        storage.sync().during("sync the header")?;
        *self = next;
        Ok(())
    }

    /// Writes a changed copy to the other slot and returns it; it is current once the storage is synced.
    pub fn write_next(
        &self,
        storage: &dyn Storage,
        change: impl FnOnce(&mut Header),
    ) -> Result<Self> {
        let mut header = self.header.clone();
        change(&mut header);
        let exhausted = || Error::corrupt("the header's sequence number is exhausted");
        header.sequence = header.sequence.checked_add(1).ok_or_else(exhausted)?;
        let slot = 1 - self.slot;
        storage.write_at(SLOTS[slot], &header.encode()).during("write the header")?;
        Ok(Self { header, slot })
    }
}

/// Whether signature and checksum are right.
pub(super) fn is_valid(page: &[u8; PAGE]) -> bool {
    page.starts_with(SIGNATURE) && page.u32(4) == checksum(page)
}

/// Whether both are valid, differ, and neither is newer.
pub(super) fn in_conflict(pages: &[[u8; PAGE]; 2]) -> bool {
    let [one, two] = pages;
    is_valid(one) && is_valid(two) && one != two && one.as_slice().u64(8) == two.as_slice().u64(8)
}

/// Returns the index of the current header.
///
/// Equal sequence numbers are accepted only on equal bytes: Disk2vhd writes such files.
fn choose(pages: &[[u8; PAGE]; 2]) -> Result<usize> {
    match (is_valid(&pages[0]), is_valid(&pages[1])) {
        (false, false) => Err(Error::corrupt("neither header is valid")),
        (true, false) => Ok(0),
        (false, true) => Ok(1),
        (true, true) if in_conflict(pages) => {
            Err(Error::corrupt("two different headers have the same sequence number"))
        }
        (true, true) => Ok(usize::from(pages[1].u64(8) > pages[0].u64(8))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn header(sequence: u64) -> Header {
        Header {
            sequence,
            file_write_guid: Guid::random(),
            data_write_guid: Guid::random(),
            log_guid: Guid::NIL,
            log_offset: MIB,
            log_length: MIB as u32,
        }
    }

    fn stored(headers: [&Header; 2]) -> MemoryStorage {
        let storage = MemoryStorage::default();
        storage.set_len(MIB).unwrap();
        for (header, at) in headers.into_iter().zip(SLOTS) {
            storage.write_at(at, &header.encode()).unwrap();
        }
        storage
    }

    #[test]
    fn the_greater_sequence_number_is_current() {
        let (old, new) = (header(4), header(5));
        assert_eq!(Current::read(&stored([&old, &new])).unwrap().header(), &new);
        assert_eq!(Current::read(&stored([&new, &old])).unwrap().header(), &new);
    }

    #[test]
    fn equal_numbers_need_equal_bytes() {
        let one = header(4);
        assert_eq!(Current::read(&stored([&one, &one])).unwrap().header(), &one);
        let error = Current::read(&stored([&one, &header(4)])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_torn_update_leaves_the_old_header() {
        let (old, new) = (header(4), header(5));
        let storage = stored([&old, &new]);
        let mut current = Current::read(&storage).unwrap();
        current.update(&storage, |h| h.log_guid = Guid::random()).unwrap();
        assert_eq!(Current::read(&storage).unwrap().header().sequence, 6);
        storage.write_at(SLOTS[0] + 100, b"torn").unwrap();
        assert_eq!(Current::read(&storage).unwrap().header(), &new);
    }

    #[test]
    fn sequence_numbers_do_not_wrap() {
        let storage = stored([&header(1), &header(u64::MAX)]);
        let mut current = Current::read(&storage).unwrap();
        assert_eq!(current.update(&storage, |_| ()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
