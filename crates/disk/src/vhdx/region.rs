//! The region table: where the BAT and the metadata are.
//!
//! Source: [MS-VHDX] 2.2.3. Two copies of 64 KiB; the first valid one counts.

use std::collections::HashSet;
use std::ops::Range;

use super::bytes::{Fields, FieldsMut, checksum};
use super::log::entry::LoggedPage;
use super::{MIB, PAGE, overlap};
use crate::error::{During, Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::storage::Storage;

/// File offsets of the two copies.
pub(super) const COPIES: [u64; 2] = [192 * 1024, 256 * 1024];
pub(super) const LENGTH: usize = 64 * 1024;
const SIGNATURE: &[u8; 4] = b"regi";
pub(super) const MAX_ENTRIES: u32 = 2047;

pub(super) const BAT: Guid = Guid::of(0x2DC27766_F623_4200_9D64_115E9BFD4A08);
pub(super) const METADATA: Guid = Guid::of(0x8B7CA206_4790_4B9A_B8FE_575F050F886E);

/// Byte ranges of the file that are no payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Regions {
    pub bat: Range<u64>,
    pub metadata: Range<u64>,
    /// The log, the BAT, the metadata, and optional regions of others, sorted.
    pub reserved: Vec<Range<u64>>,
}

impl Regions {
    /// Reads the first valid copy; `log` is where the header places the log.
    pub fn read(storage: &dyn Storage, log: Range<u64>) -> Result<Self> {
        let length = storage.len().during("read the file's length")?;
        Self::decode(&valid_copy(storage)?, log, length)
    }

    fn decode(table: &[u8], log: Range<u64>, file_length: u64) -> Result<Self> {
        let count = table.u32(8);
        if count > MAX_ENTRIES {
            return Err(Error::corrupt(format!("the region table claims {count} entries")));
        }
        let (mut bat, mut metadata, mut seen) = (None, None, HashSet::new());
        let mut reserved = Vec::new();
        if !log.is_empty() {
            reserved.push(log);
        }
        for entry in table[16..].chunks_exact(32).take(count as usize) {
            let (id, offset, length) = (entry.guid(0), entry.u64(16), u64::from(entry.u32(24)));
            let end = offset.saturating_add(length);
            let aligned = offset.is_multiple_of(MIB) && length.is_multiple_of(MIB);
            if !aligned || offset < MIB || length == 0 || end > file_length {
                return Err(Error::corrupt(format!("region {id} is misplaced or cut off")));
            }
            if !seen.insert(id) {
                return Err(Error::corrupt(format!("region {id} is listed twice")));
            }
            match id {
                BAT => bat = Some(offset..end),
                METADATA => metadata = Some(offset..end),
                _ if entry.u32(28) & 1 != 0 => {
                    let message = format!("required region {id} is not known");
                    return Err(Error::new(ErrorKind::Unsupported, message));
                }
                _ => {}
            }
            reserved.push(offset..end);
        }
        reserved.sort_by_key(|range| range.start);
        if reserved.windows(2).any(|pair| overlap(&pair[0], &pair[1])) {
            return Err(Error::corrupt("regions overlap"));
        }
        let missing = |what| Error::corrupt(format!("the region table lists no {what}"));
        Ok(Self {
            bat: bat.ok_or_else(|| missing("BAT"))?,
            metadata: metadata.ok_or_else(|| missing("metadata"))?,
            reserved,
        })
    }

    /// Notes the BAT's new place, and returns the pages of both copies that have to change for it, whole and by file offset.
    ///
    /// A copy that is damaged or old becomes what the other one is.
    pub fn move_bat(&mut self, storage: &dyn Storage, bat: Range<u64>) -> Result<Vec<LoggedPage>> {
        let mut table = valid_copy(storage)?;
        let count = table.u32(8).min(MAX_ENTRIES) as usize;
        let is_bat = |entry: &&mut [u8]| entry.guid(0) == BAT;
        let missing = || Error::corrupt("the region table lists no BAT");
        let entry =
            table[16..].chunks_exact_mut(32).take(count).find(is_bat).ok_or_else(missing)?;
        entry.put(16, &bat.start.to_le_bytes());
        entry.put(24, &((bat.end - bat.start) as u32).to_le_bytes());
        let crc = checksum(&table);
        table.put(4, &crc.to_le_bytes());

        let mut pages = Vec::new();
        let mut present = vec![0; LENGTH];
        for at in COPIES {
            storage.read_at(at, &mut present).during("read the region table")?;
            for start in (0..LENGTH).step_by(PAGE) {
                let mut page = Box::new([0; PAGE]);
                page.copy_from_slice(&table[start..start + PAGE]);
                if present[start..start + PAGE] != page[..] {
                    pages.push((at + start as u64, page));
                }
            }
        }
        self.reserved.retain(|range| *range != self.bat);
        self.reserved.push(bat.clone());
        self.reserved.sort_by_key(|range| range.start);
        self.bat = bat;
        Ok(pages)
    }

    /// Writes both copies for a new file.
    pub fn create(storage: &dyn Storage, bat: Range<u64>, metadata: Range<u64>) -> Result<()> {
        let mut table = vec![0; LENGTH];
        table.put(0, SIGNATURE);
        table.put(8, &2u32.to_le_bytes());
        for (index, (id, range)) in [(BAT, bat), (METADATA, metadata)].into_iter().enumerate() {
            let entry = &mut table[16 + 32 * index..][..32];
            entry.put(0, &id.to_bytes());
            entry.put(16, &range.start.to_le_bytes());
            entry.put(24, &((range.end - range.start) as u32).to_le_bytes());
            entry.put(28, &1u32.to_le_bytes());
        }
        let crc = checksum(&table);
        table.put(4, &crc.to_le_bytes());
        for at in COPIES {
            // The rest of the table is zeros, as the file is there already.
            storage.write_at(at, &table[..PAGE]).during("write the region table")?;
        }
        Ok(())
    }
}

/// Whether signature and checksum are right.
pub(super) fn is_valid(table: &[u8]) -> bool {
    table.starts_with(SIGNATURE) && table.u32(4) == checksum(table)
}

fn valid_copy(storage: &dyn Storage) -> Result<Vec<u8>> {
    let mut table = vec![0; LENGTH];
    for at in COPIES {
        storage.read_at(at, &mut table).during("read the region table")?;
        if is_valid(&table) {
            return Ok(table);
        }
    }
    Err(Error::corrupt("neither region table is valid"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    const LOG: Range<u64> = MIB..2 * MIB;

    fn stored() -> MemoryStorage {
        let storage = MemoryStorage::default();
        storage.set_len(5 * MIB).unwrap();
        Regions::create(&storage, 3 * MIB..5 * MIB, 2 * MIB..3 * MIB).unwrap();
        storage
    }

    #[test]
    fn the_second_copy_stands_in_for_a_damaged_first() {
        let storage = stored();
        let regions = Regions::read(&storage, LOG).unwrap();
        assert_eq!(
            (regions.bat.clone(), regions.metadata.clone()),
            (3 * MIB..5 * MIB, 2 * MIB..3 * MIB)
        );
        storage.write_at(COPIES[0] + 20, &[0xFF]).unwrap();
        assert_eq!(Regions::read(&storage, LOG).unwrap(), regions);
        storage.write_at(COPIES[1] + 20, &[0xFF]).unwrap();
        assert_eq!(Regions::read(&storage, LOG).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[track_caller]
    fn refused(edit: impl FnOnce(&mut [u8]), kind: ErrorKind) {
        let storage = stored();
        let mut table = vec![0; LENGTH];
        storage.read_at(COPIES[0], &mut table).unwrap();
        edit(&mut table);
        let crc = checksum(&table);
        table.put(4, &crc.to_le_bytes());
        storage.write_at(COPIES[0], &table).unwrap();
        assert_eq!(Regions::read(&storage, LOG).unwrap_err().kind(), kind);
    }

    #[test]
    fn a_moved_bat_is_in_both_copies_even_if_one_was_damaged() {
        let storage = stored();
        storage.set_len(9 * MIB).unwrap();
        let mut regions = Regions::read(&storage, LOG).unwrap();
        for damaged in [None, Some(COPIES[0]), Some(COPIES[1] + 20_000)] {
            damaged.iter().for_each(|at| storage.write_at(*at, &[0xFF; 5000]).unwrap());
            let place = regions.bat.start + MIB..regions.bat.end + MIB;
            for (at, page) in regions.move_bat(&storage, place.clone()).unwrap() {
                storage.write_at(at, page.as_slice()).unwrap();
            }
            assert_eq!((&regions, &regions.bat), (&Regions::read(&storage, LOG).unwrap(), &place));
            let tables = storage.snapshot();
            let [first, second] = COPIES.map(|at| &tables[at as usize..][..LENGTH]);
            assert!(first == second);
        }
    }

    #[test]
    fn hostile_tables_are_refused() {
        refused(|t| t.put(8, &u32::MAX.to_le_bytes()), ErrorKind::Corrupt);
        refused(|t| t.put(8, &1u32.to_le_bytes()), ErrorKind::Corrupt);
        refused(|t| t.put(32, &(u64::MAX - MIB + 1).to_le_bytes()), ErrorKind::Corrupt);
        refused(|t| t.put(32, &(2 * MIB).to_le_bytes()), ErrorKind::Corrupt);
        refused(|t| t.put(32, &MIB.to_le_bytes()), ErrorKind::Corrupt);
        refused(|t| t.put(32, &4095u64.to_le_bytes()), ErrorKind::Corrupt);
        refused(|t| t.put(16, &[9; 16]), ErrorKind::Unsupported);
        refused(|t| t.copy_within(16..32, 48), ErrorKind::Corrupt);
    }
}
