//! The metadata region: block size, disk size, sectors, identity, parent locator.
//!
//! Source: [MS-VHDX] 2.6.

use std::collections::HashSet;
use std::ops::Range;

use super::bytes::{Fields, FieldsMut};
use super::locator::Locator;
use super::{MIB, PAGE, overlap};
use crate::disk::Geometry;
use crate::error::{During, Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::storage::Storage;

pub(super) const TABLE: usize = 64 * 1024;
pub(super) const SIGNATURE: &[u8; 8] = b"metadata";
pub(super) const MAX_ENTRIES: u16 = 2047;
pub(super) const MAX_ITEM: u32 = MIB as u32;
const MAX_VIRTUAL_SIZE: u64 = 64 << 40;

pub(super) const FILE_PARAMETERS: Guid = Guid::of(0xCAA16737_FA36_4D43_B3B6_33F0AA44E76B);
pub(super) const VIRTUAL_SIZE: Guid = Guid::of(0x2FA54224_CD1B_4876_B211_5DBED83BF4B8);
pub(super) const PAGE83: Guid = Guid::of(0xBECA12AB_B2E6_4523_93EF_C309E000C746);
pub(super) const LOGICAL_SECTOR: Guid = Guid::of(0x8141BF1D_A96F_4709_BA47_F233A8FAAB5F);
pub(super) const PHYSICAL_SECTOR: Guid = Guid::of(0xCDA348C7_445D_4471_9CC9_E9885251C556);
pub(super) const PARENT_LOCATOR: Guid = Guid::of(0xA8D35F2D_B30B_454D_ABF7_D3D84834AB0C);

pub(super) const IS_USER: u32 = 1;
pub(super) const IS_VIRTUAL_DISK: u32 = 2;
pub(super) const IS_REQUIRED: u32 = 4;
pub(super) const LEAVE_ALLOCATED: u32 = 1;
pub(super) const HAS_PARENT: u32 = 2;

/// Where the items of a new file start.
const FIRST_ITEM: usize = TABLE;
/// Where a new child's parent locator lies: a page of its own, so that it can be rewritten in place through the log.
const LOCATOR_ITEM: usize = TABLE + PAGE;

/// What the metadata says about the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub geometry: Geometry,
    /// Bytes in a payload block: a power of two, 1 MiB to 256 MiB.
    pub block_size: u32,
    /// Blocks never leave their place in the file. No differencing disk is fixed.
    pub fixed: bool,
    /// The SCSI identity of the virtual disk; a child has its parent's.
    pub page83: Guid,
    /// Present iff the disk is differencing.
    pub locator: Option<Locator>,
}

/// An entry of the metadata table.
struct Item {
    id: Guid,
    flags: u32,
    /// Bytes from the region's start; empty for an item without data.
    place: Range<u32>,
    /// Index into the table.
    slot: usize,
}

impl Metadata {
    pub fn read(storage: &dyn Storage, region: &Range<u64>) -> Result<Self> {
        let items = read_table(storage, region)?;
        let known = [
            FILE_PARAMETERS,
            VIRTUAL_SIZE,
            PAGE83,
            LOGICAL_SECTOR,
            PHYSICAL_SECTOR,
            PARENT_LOCATOR,
        ];
        let foreign = |item: &&Item| {
            item.flags & (IS_REQUIRED | IS_USER) == IS_REQUIRED && !known.contains(&item.id)
        };
        if let Some(item) = items.iter().find(foreign) {
            let message = format!("required metadata item {} is not known", item.id);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let get = |id: Guid, name: &str, minimum: usize| -> Result<Vec<u8>> {
            let bytes = match items.iter().find(|item| item.id == id && item.flags & IS_USER == 0) {
                Some(item) => read_item(storage, region, item)?,
                None => Vec::new(),
            };
            let missing = || Error::corrupt(format!("the metadata lacks the {name}"));
            (bytes.len() >= minimum).then_some(bytes).ok_or_else(missing)
        };
        let parameters = get(FILE_PARAMETERS, "file parameters", 8)?;
        let geometry = Geometry {
            virtual_size: get(VIRTUAL_SIZE, "virtual disk size", 8)?.u64(0),
            logical_sector: get(LOGICAL_SECTOR, "logical sector size", 4)?.u32(0),
            physical_sector: get(PHYSICAL_SECTOR, "physical sector size", 4)?.u32(0),
        };
        let block_size = parameters.u32(0);
        check(geometry, block_size).map_err(|error| Error::corrupt(error.to_string()))?;
        let flags = parameters.u32(4);
        let locator = if flags & HAS_PARENT != 0 {
            Some(Locator::decode(&get(PARENT_LOCATOR, "parent locator", 1)?)?)
        } else {
            None
        };
        let page83 = get(PAGE83, "page 83 data", 16)?.guid(0);
        let fixed = flags & LEAVE_ALLOCATED != 0 && locator.is_none();
        Ok(Self { geometry, block_size, fixed, page83, locator })
    }

    /// Writes the region of a new file, whose bytes are zeros so far.
    pub fn create(&self, storage: &dyn Storage, region_start: u64) -> Result<()> {
        let flags = match (&self.locator, self.fixed) {
            (Some(_), _) => HAS_PARENT,
            (None, true) => LEAVE_ALLOCATED,
            (None, false) => 0,
        };
        let mut parameters = self.block_size.to_le_bytes().to_vec();
        parameters.extend(flags.to_le_bytes());
        let geometry = self.geometry;
        let system = [
            (FILE_PARAMETERS, IS_REQUIRED, parameters),
            (
                VIRTUAL_SIZE,
                IS_REQUIRED | IS_VIRTUAL_DISK,
                geometry.virtual_size.to_le_bytes().to_vec(),
            ),
            (PAGE83, IS_REQUIRED | IS_VIRTUAL_DISK, self.page83.to_bytes().to_vec()),
            (
                LOGICAL_SECTOR,
                IS_REQUIRED | IS_VIRTUAL_DISK,
                geometry.logical_sector.to_le_bytes().to_vec(),
            ),
            (
                PHYSICAL_SECTOR,
                IS_REQUIRED | IS_VIRTUAL_DISK,
                geometry.physical_sector.to_le_bytes().to_vec(),
            ),
        ];
        let locator = self.locator.iter().map(|l| (PARENT_LOCATOR, IS_REQUIRED, l.encode()));
        let (mut table, mut items) = (vec![0; PAGE], Vec::new());
        let mut count: u16 = 0;
        for (id, flags, data) in system.into_iter().chain(locator) {
            if id == PARENT_LOCATOR {
                items.resize(LOCATOR_ITEM - FIRST_ITEM, 0);
            }
            let entry = &mut table[32 * (usize::from(count) + 1)..][..32];
            entry.put(0, &id.to_bytes());
            entry.put(16, &((FIRST_ITEM + items.len()) as u32).to_le_bytes());
            entry.put(20, &(data.len() as u32).to_le_bytes());
            entry.put(24, &flags.to_le_bytes());
            items.extend(data);
            count += 1;
        }
        table.put(0, SIGNATURE);
        table.put(10, &count.to_le_bytes());
        storage.write_at(region_start, &table).during("write the metadata table")?;
        storage.write_at(region_start + FIRST_ITEM as u64, &items).during("write the metadata")
    }
}

/// Checks what a caller or a file asks for against the format's limits.
pub(super) fn check(geometry: Geometry, block_size: u32) -> Result<()> {
    check_sector(geometry.logical_sector)?;
    check_sector(geometry.physical_sector)?;
    check_size(geometry.virtual_size, geometry.logical_sector)?;
    check_block_size(block_size)
}

pub(super) fn check_sector(sector: u32) -> Result<()> {
    within_limits(sector == 512 || sector == 4096, || {
        format!("a sector of {sector} bytes; it is 512 or 4096")
    })
}

pub(super) fn check_size(size: u64, sector: u32) -> Result<()> {
    let good = size > 0 && size <= MAX_VIRTUAL_SIZE && size.is_multiple_of(sector.into());
    within_limits(good, || {
        format!("a disk of {size} bytes; it is a multiple of its sector, up to 64 TiB")
    })
}

pub(super) fn check_block_size(block_size: u32) -> Result<()> {
    let good = block_size.is_power_of_two() && (1 << 20..=256 << 20).contains(&block_size);
    within_limits(good, || {
        format!("a block of {block_size} bytes; it is a power of two from 1 to 256 MiB")
    })
}

fn within_limits(good: bool, message: impl FnOnce() -> String) -> Result<()> {
    good.then_some(()).ok_or_else(|| Error::new(ErrorKind::OutOfRange, message()))
}

/// Returns the pages to write, whole and by file offset, so that the file's parent locator becomes `locator`.
///
/// The item stays where it is if the new one fits there, else moves to free space behind all items.
pub(super) fn relocate(
    storage: &dyn Storage,
    region: &Range<u64>,
    locator: &Locator,
) -> Result<Vec<(u64, Box<[u8; PAGE]>)>> {
    let items = read_table(storage, region)?;
    let is_locator = |item: &&Item| item.id == PARENT_LOCATOR && item.flags & IS_USER == 0;
    let no_locator = || Error::corrupt("the metadata lacks the parent locator");
    let old = items.iter().find(is_locator).ok_or_else(no_locator)?;
    let data = locator.encode();
    let others = || items.iter().filter(|item| item.slot != old.slot);
    let in_place = old.place.start..old.place.start + data.len() as u32;
    let end = others().map(|item| item.place.end).max().unwrap_or(0).max(TABLE as u32);
    let fits = u64::from(in_place.end) <= region.end - region.start
        && !others().any(|item| overlap(&item.place, &in_place));
    let start = if fits { old.place.start } else { end.next_multiple_of(PAGE as u32) };
    if u64::from(start) + data.len() as u64 > region.end - region.start {
        let message = "the metadata region has no room for the parent locator";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let mut entry = [0; 8];
    entry.put(0, &start.to_le_bytes());
    entry.put(4, &(data.len() as u32).to_le_bytes());
    let mut pages = Vec::new();
    let edits = [(32 * (old.slot as u64 + 1) + 16, &entry[..]), (u64::from(start), &data[..])];
    for (at, bytes) in edits {
        patch(storage, region.start + at, bytes, &mut pages)?;
    }
    Ok(pages)
}

/// Returns the pages to write, whole and by file offset, so that the virtual disk is `size` bytes long.
pub(super) fn resize(
    storage: &dyn Storage,
    region: &Range<u64>,
    size: u64,
) -> Result<Vec<(u64, Box<[u8; PAGE]>)>> {
    let items = read_table(storage, region)?;
    let is_size = |item: &&Item| item.id == VIRTUAL_SIZE && item.flags & IS_USER == 0;
    let no_size = || Error::corrupt("the metadata lacks the virtual disk size");
    let item = items.iter().find(is_size).filter(|item| item.place.len() >= 8);
    let at = region.start + u64::from(item.ok_or_else(no_size)?.place.start);
    let mut pages = Vec::new();
    patch(storage, at, &size.to_le_bytes(), &mut pages)?;
    Ok(pages)
}

/// Puts `bytes` at file offset `at` into copies of the pages they touch. The pages of two calls are distinct.
fn patch(
    storage: &dyn Storage,
    at: u64,
    bytes: &[u8],
    pages: &mut Vec<(u64, Box<[u8; PAGE]>)>,
) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let place = at + done as u64;
        let (page_at, within) = (place & !(PAGE as u64 - 1), place as usize % PAGE);
        let step = (PAGE - within).min(bytes.len() - done);
        let mut page = Box::new([0; PAGE]);
        storage.read_at(page_at, page.as_mut_slice()).during("read the metadata")?;
        page.put(within, &bytes[done..done + step]);
        pages.push((page_at, page));
        done += step;
    }
    Ok(())
}

fn read_table(storage: &dyn Storage, region: &Range<u64>) -> Result<Vec<Item>> {
    let mut table = vec![0; TABLE];
    storage.read_at(region.start, &mut table).during("read the metadata table")?;
    let count = table.u16(10);
    if !table.starts_with(SIGNATURE) || count > MAX_ENTRIES {
        return Err(Error::corrupt("the metadata table is not valid"));
    }
    let (mut items, mut seen): (Vec<Item>, _) = (Vec::new(), HashSet::new());
    for (slot, entry) in table[32..].chunks_exact(32).take(count.into()).enumerate() {
        let (id, flags) = (entry.guid(0), entry.u32(24));
        let (offset, length) = (entry.u32(16), entry.u32(20));
        let end = offset.saturating_add(length);
        let placed = match length {
            0 => offset == 0,
            _ => offset >= TABLE as u32 && u64::from(end) <= region.end - region.start,
        };
        if !placed || length > MAX_ITEM || !seen.insert((id, flags & IS_USER)) {
            return Err(Error::corrupt(format!("metadata item {id} is misplaced or listed twice")));
        }
        items.push(Item { id, flags, place: offset..end, slot });
    }
    let mut places: Vec<_> =
        items.iter().map(|i| i.place.clone()).filter(|p| !p.is_empty()).collect();
    places.sort_by_key(|place| place.start);
    if places.windows(2).any(|pair| overlap(&pair[0], &pair[1])) {
        return Err(Error::corrupt("metadata items overlap"));
    }
    Ok(items)
}

fn read_item(storage: &dyn Storage, region: &Range<u64>, item: &Item) -> Result<Vec<u8>> {
    let mut bytes = vec![0; item.place.len()];
    let at = region.start + u64::from(item.place.start);
    storage.read_at(at, &mut bytes).during("read the metadata")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    const REGION: Range<u64> = 0..MIB;

    fn metadata(locator: Option<Locator>) -> Metadata {
        let geometry =
            Geometry { virtual_size: 1 << 30, logical_sector: 512, physical_sector: 4096 };
        Metadata { geometry, block_size: 2 << 20, fixed: false, page83: Guid::random(), locator }
    }

    fn stored(metadata: &Metadata) -> MemoryStorage {
        let storage = MemoryStorage::default();
        storage.set_len(MIB).unwrap();
        metadata.create(&storage, 0).unwrap();
        storage
    }

    #[test]
    fn survives_a_round_trip() {
        for locator in [None, Some(Locator::new(Guid::random(), r".\base.vhdx", None))] {
            let metadata = metadata(locator);
            assert_eq!(Metadata::read(&stored(&metadata), &REGION).unwrap(), metadata);
        }
    }

    #[test]
    fn a_new_locator_stays_in_its_own_page() {
        let mut metadata =
            metadata(Some(Locator::new(Guid::random(), r"..\..\images\base.vhdx", None)));
        let storage = stored(&metadata);
        let locator = metadata.locator.as_mut().unwrap();
        locator.set_paths(&r".\x".repeat(300), None);
        let pages = relocate(&storage, &REGION, locator).unwrap();
        assert_eq!(pages.iter().map(|page| page.0).collect::<Vec<_>>(), [0, LOCATOR_ITEM as u64]);
        for (at, page) in pages {
            storage.write_at(at, page.as_slice()).unwrap();
        }
        assert_eq!(Metadata::read(&storage, &REGION).unwrap(), metadata);
    }

    #[test]
    fn a_new_size_is_all_that_changes() {
        let mut metadata = metadata(Some(Locator::new(Guid::random(), ".", None)));
        let storage = stored(&metadata);
        metadata.geometry.virtual_size = 5 << 40;
        for (at, page) in resize(&storage, &REGION, 5 << 40).unwrap() {
            storage.write_at(at, page.as_slice()).unwrap();
        }
        assert_eq!(Metadata::read(&storage, &REGION).unwrap(), metadata);
    }

    #[test]
    fn a_locator_hemmed_in_by_another_item_moves() {
        let mut metadata = metadata(Some(Locator::new(Guid::random(), ".", None)));
        let storage = stored(&metadata);
        // A user item right behind the locator.
        let mut table = vec![0; PAGE];
        storage.read_at(0, &mut table).unwrap();
        table.put(10, &7u16.to_le_bytes());
        table.put(32 * 7, &[5; 16]);
        table.put(32 * 7 + 16, &(LOCATOR_ITEM as u32 + 1000).to_le_bytes());
        table.put(32 * 7 + 20, &100u32.to_le_bytes());
        table.put(32 * 7 + 24, &IS_USER.to_le_bytes());
        storage.write_at(0, &table).unwrap();

        let locator = metadata.locator.as_mut().unwrap();
        locator.set_paths(&"x".repeat(1000), None);
        for (at, page) in relocate(&storage, &REGION, locator).unwrap() {
            assert!(at == 0 || at >= (LOCATOR_ITEM + PAGE) as u64);
            storage.write_at(at, page.as_slice()).unwrap();
        }
        assert_eq!(Metadata::read(&storage, &REGION).unwrap(), metadata);
    }

    #[test]
    fn mutated_tables_never_panic() {
        let storage = stored(&metadata(Some(Locator::new(Guid::random(), r".\base.vhdx", None))));
        let mut table = vec![0; 256];
        storage.read_at(0, &mut table).unwrap();
        for at in 0..table.len() {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut bad = table.clone();
                bad[at] = value;
                storage.write_at(0, &bad).unwrap();
                let _ = Metadata::read(&storage, &REGION);
            }
        }
    }
}
