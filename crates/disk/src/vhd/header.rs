//! The dynamic header: how a disk is cut into blocks, where their table is, and who the parent is.

use std::ops::Range;
use std::time::SystemTime;

use super::bytes::{Checksums, Fields, FieldsMut, checksum};
use super::footer::{from_seconds, to_seconds};
use super::{MAX_FILE, SECTOR, block_size_in_limits};
use crate::error::{During, Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::storage::Storage;

pub(super) const HEADER: u64 = 1024;
const COOKIE: &[u8; 8] = b"cxsparse";
const CHECKSUM: usize = 36;
const VERSION: u32 = 0x0001_0000;
const NAME: Range<usize> = 64..576;
const LOCATORS: Range<usize> = 576..768;
const LOCATOR: usize = 24;
/// More bytes than any path has.
const MAX_LOCATOR: u32 = 64 * 1024;

/// A header whose fields are within their limits.
///
/// Kept as the bytes it came in, so that what others store in its unused part survives a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    record: [u8; HEADER as usize],
}

/// Where one of the parent's names is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// What kind of name: `W2ru`, `W2ku` and others.
    pub code: [u8; 4],
    /// Bytes set aside for it. Writers disagree on the unit, so it is never relied on.
    pub space: u32,
    /// Bytes of it.
    pub length: u32,
    /// Where it is in the file.
    pub offset: u64,
}

impl Header {
    /// Reads and checks the header at an offset. The offset comes from a footer.
    pub fn read(storage: &dyn Storage, offset: u64, checksums: Checksums) -> Result<Self> {
        let mut record = [0; HEADER as usize];
        if offset > MAX_FILE {
            return Err(Error::corrupt("the footer names no dynamic header"));
        }
        storage.read_at(offset, &mut record).during("read the dynamic header")?;
        Self::decode(record, checksums)
    }

    fn decode(record: [u8; HEADER as usize], checksums: Checksums) -> Result<Self> {
        let fields = record.as_slice();
        if &fields.bytes(0) != COOKIE {
            return Err(Error::corrupt("the dynamic header is missing"));
        }
        if checksums == Checksums::Required && fields.u32(CHECKSUM) != checksum(fields, CHECKSUM) {
            return Err(Error::corrupt("the dynamic header's checksum is wrong"));
        }
        if fields.u32(24) >> 16 != VERSION >> 16 {
            let message = format!("dynamic header version {:#x} is not known", fields.u32(24));
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let header = Self { record };
        if !block_size_in_limits(header.block_size()) {
            return Err(Error::corrupt(format!("blocks of {} bytes", header.block_size())));
        }
        let table = header.table_offset();
        if !table.is_multiple_of(SECTOR) || table > MAX_FILE {
            return Err(Error::corrupt(format!("the block table lies at {table:#x}")));
        }
        Ok(header)
    }

    /// Makes the header of a new disk without parent.
    pub fn new(table_offset: u64, table_entries: u32, block_size: u32) -> Self {
        let mut record = [0; HEADER as usize];
        record.put(0, COOKIE);
        record.put(8, &u64::MAX.to_be_bytes());
        record.put(16, &table_offset.to_be_bytes());
        record.put(24, &VERSION.to_be_bytes());
        record.put(28, &table_entries.to_be_bytes());
        record.put(32, &block_size.to_be_bytes());
        let mut header = Self { record };
        header.seal();
        header
    }

    /// The header as it lies in the file.
    pub fn record(&self) -> &[u8; HEADER as usize] {
        &self.record
    }

    /// Where the block table is: a multiple of 512.
    pub fn table_offset(&self) -> u64 {
        self.record.as_slice().u64(16)
    }

    pub fn table_entries(&self) -> u32 {
        self.record.as_slice().u32(28)
    }

    /// Bytes in a block: a power of two, at least 512.
    pub fn block_size(&self) -> u32 {
        self.record.as_slice().u32(32)
    }

    pub fn parent_unique_id(&self) -> Guid {
        self.record.as_slice().guid(40)
    }

    pub fn parent_modified(&self) -> SystemTime {
        from_seconds(self.record.as_slice().u32(56))
    }

    /// The parent's name or path; `None` where it is empty.
    pub fn parent_name(&self) -> Option<String> {
        let units = self.record[NAME].chunks_exact(2).map(|unit| unit.u16(0));
        let units: Vec<u16> = units.take_while(|&unit| unit != 0).collect();
        (!units.is_empty()).then(|| String::from_utf16_lossy(&units))
    }

    /// Number of names of the parent that are stored, wherever that is.
    pub fn stored_locators(&self) -> usize {
        self.record[LOCATORS].chunks_exact(LOCATOR).filter(|entry| entry.u32(0) != 0).count()
    }

    /// The places of the parent's names that lie in the first `length` bytes of the file.
    pub fn locators(&self, length: u64) -> impl Iterator<Item = Entry> {
        let entries = self.record[LOCATORS].chunks_exact(LOCATOR).map(|entry| Entry {
            code: entry.bytes(0),
            space: entry.u32(4),
            length: entry.u32(8),
            offset: entry.u64(16),
        });
        entries.filter(move |entry| {
            let end = entry.offset.checked_add(u64::from(entry.length));
            (1..=MAX_LOCATOR).contains(&entry.length) && end.is_some_and(|end| end <= length)
        })
    }

    pub fn set_table(&mut self, offset: u64, entries: u32) {
        self.record.put(16, &offset.to_be_bytes());
        self.record.put(28, &entries.to_be_bytes());
        self.seal();
    }

    pub fn set_parent(&mut self, unique_id: Guid, modified: SystemTime) {
        self.record.put(40, &unique_id.to_big_endian());
        self.record.put(56, &to_seconds(modified).to_be_bytes());
        self.seal();
    }

    /// Records the parent's name, cut to what fits, and the places of its others.
    pub fn set_parent_names(&mut self, name: &str, locators: &[Entry]) {
        self.record[NAME].fill(0);
        let units = name.encode_utf16().take(NAME.len() / 2);
        for (index, unit) in units.enumerate() {
            self.record.put(NAME.start + index * 2, &unit.to_be_bytes());
        }
        self.record[LOCATORS].fill(0);
        for (index, locator) in locators.iter().take(LOCATORS.len() / LOCATOR).enumerate() {
            let at = LOCATORS.start + index * LOCATOR;
            self.record.put(at, &locator.code);
            self.record.put(at + 4, &locator.space.to_be_bytes());
            self.record.put(at + 8, &locator.length.to_be_bytes());
            self.record.put(at + 16, &locator.offset.to_be_bytes());
        }
        self.seal();
    }

    fn seal(&mut self) {
        let sum = checksum(&self.record, CHECKSUM);
        self.record.put(CHECKSUM, &sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(header: &Header) -> Result<Header> {
        Header::decode(header.record, Checksums::Required)
    }

    #[test]
    fn survives_a_round_trip() {
        let mut header = Header::new(1536, 77, 2 << 20);
        let (id, time) = (Guid::random(), from_seconds(700_000_000));
        header.set_parent(id, time);
        let locator = Entry { code: *b"W2ru", space: 512, length: 40, offset: 2048 };
        header.set_parent_names("base_日本.vhd", &[locator]);
        let header = decode(&header).unwrap();
        assert_eq!((header.table_offset(), header.table_entries()), (1536, 77));
        assert_eq!((header.parent_unique_id(), header.parent_modified()), (id, time));
        assert_eq!(header.parent_name().as_deref(), Some("base_日本.vhd"));
        assert_eq!(header.locators(4096).collect::<Vec<_>>(), [locator]);
        assert_eq!(header.locators(2087).count(), 0, "past the end of the file");
    }

    #[test]
    fn a_name_that_fills_its_field_has_no_end_mark() {
        let mut header = Header::new(1536, 1, 2 << 20);
        header.set_parent_names(&"x".repeat(300), &[]);
        assert_eq!(header.parent_name().unwrap().len(), 256);
    }

    #[test]
    fn fields_outside_their_limits_are_refused() {
        let refused = |change: fn(&mut Header)| {
            let mut header = Header::new(1536, 1, 2 << 20);
            change(&mut header);
            header.seal();
            assert!(decode(&header).is_err());
        };
        refused(|header| header.record.put(32, &(3u32 << 20).to_be_bytes()));
        refused(|header| header.record.put(32, &256u32.to_be_bytes()));
        refused(|header| header.record.put(16, &1000u64.to_be_bytes()));
        refused(|header| header.record.put(16, &u64::MAX.to_be_bytes()));
        refused(|header| header.record.put(24, &0x0002_0000u32.to_be_bytes()));
        refused(|header| header.record.put(0, b"x"));
        let mut header = Header::new(1536, 1, 2 << 20);
        header.record[100] ^= 1;
        assert!(
            decode(&header).is_err() && Header::decode(header.record, Checksums::Ignored).is_ok()
        );
    }
}
