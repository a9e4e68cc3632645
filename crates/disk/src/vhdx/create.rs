//! Making new files: a few pages in an otherwise sparse file, whatever the disk's size.
//!
//! ```text
//!   0 ────── 1 MiB ─────── 5 MiB ──── 6 MiB ─────────┐
//!   │ headers │ log (4 MiB) │ metadata │ BAT, zeros … │ end; blocks follow as they are written
//! ```
//! In a fixed disk all blocks follow at once, in order; the BAT then says so.

use std::path::Path;
use std::sync::Arc;

use super::bat::{Layout, Payload};
use super::bytes::FieldsMut;
use super::header::{Current, Header};
use super::layer::Layer;
use super::locator::{self, Locator};
use super::metadata::{self, Metadata};
use super::region::Regions;
use super::{MIB, PAGE};
use crate::disk::Geometry;
use crate::error::{During, Result};
use crate::guid::Guid;
use crate::kind::Provision;
use crate::storage::{FileStorage, Lock, Storage, in_new_file};

/// Sparse until used; large enough to gather some 500 pages in one entry.
const LOG_LENGTH: u64 = 4 * MIB;
const METADATA_LENGTH: u64 = MIB;

/// What a new disk without parent looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Size of the virtual disk in bytes: a multiple of the logical sector, at most 64 TiB.
    pub virtual_size: u64,
    /// Bytes in a payload block: a power of two, 1 MiB to 256 MiB.
    pub block_size: u32,
    /// 512 or 4096 bytes.
    pub logical_sector: u32,
    /// 512 or 4096 bytes.
    pub physical_sector: u32,
    /// When blocks get their place in the file.
    pub provision: Provision,
    /// The SCSI identity of the virtual disk. `None` makes a new one; only a copy that replaces a disk has that disk's.
    pub page83: Option<Guid>,
}

impl CreateOptions {
    /// What Windows makes: a dynamic disk, 32 MiB blocks, 512-byte sectors on 4096-byte physical ones.
    pub fn new(virtual_size: u64) -> Self {
        Self {
            virtual_size,
            block_size: 32 << 20,
            logical_sector: 512,
            physical_sector: 4096,
            provision: Provision::Dynamic,
            page83: None,
        }
    }

    /// A disk of this size and these sectors, otherwise as [`CreateOptions::new`] has it.
    pub fn like(geometry: Geometry) -> Self {
        let Geometry { virtual_size, logical_sector, physical_sector } = geometry;
        Self { logical_sector, physical_sector, ..Self::new(virtual_size) }
    }
}

/// What a new differencing disk looks like; the rest comes from its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildOptions {
    /// Bytes in a payload block: a power of two, 1 MiB to 256 MiB.
    pub block_size: u32,
    /// The parent's path on the Windows machine that the child is for, where it is known: `C:\disks\base.vhdx`.
    pub absolute_path: Option<String>,
}

impl Default for ChildOptions {
    /// 2 MiB blocks, as Windows makes them; no absolute path.
    fn default() -> Self {
        Self { block_size: 2 << 20, absolute_path: None }
    }
}

/// Makes a disk without parent in a new file.
///
/// The file is synced, its folder is not. Fails, leaving nothing, when `path` exists or an option is outside its limits;
/// with [`crate::ErrorKind::NoSpace`] when space cannot be preallocated.
pub fn create(path: &Path, options: &CreateOptions) -> Result<()> {
    in_new_file(path, |file| format(file, options))
}

/// Makes a differencing disk over the file at `parent` in a new file.
///
/// `relative_path` is what the child remembers of the parent's place, seen from its own folder and with
/// backslashes: `.\base.vhdx`. The file is synced, its folder is not. Fails with [`crate::ErrorKind::InUse`] while another
/// process writes to the parent. The parent is not changed.
pub fn create_child(
    path: &Path,
    parent: &Path,
    relative_path: &str,
    options: &ChildOptions,
) -> Result<()> {
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(parent, Lock::Read)?);
    let layer = Layer::open(storage)
        .map_err(|error| error.context(format!("open the parent {}", parent.display())))?;
    in_new_file(path, |file| format_child(file, &layer.as_parent(), relative_path, options))
}

/// What a child takes over from its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParentIdentity {
    /// Size and sectors.
    pub geometry: Geometry,
    /// What the link is verified by.
    pub data_write_guid: Guid,
    /// The SCSI identity of the virtual disk.
    pub page83: Guid,
}

impl ParentIdentity {
    /// Reads it from a VHDX file.
    pub fn of(storage: Arc<dyn Storage>) -> Result<Self> {
        Ok(Layer::open(storage)?.as_parent())
    }
}

impl Layer {
    /// What a child of this file takes over.
    pub(crate) fn as_parent(&self) -> ParentIdentity {
        ParentIdentity {
            geometry: self.geometry(),
            data_write_guid: self.data_write_guid(),
            page83: self.page83(),
        }
    }
}

/// Writes a disk without parent into empty storage, and syncs it.
pub fn format(storage: &dyn Storage, options: &CreateOptions) -> Result<()> {
    let geometry = Geometry {
        virtual_size: options.virtual_size,
        logical_sector: options.logical_sector,
        physical_sector: options.physical_sector,
    };
    let metadata = Metadata {
        geometry,
        block_size: options.block_size,
        fixed: matches!(options.provision, Provision::Fixed { .. }),
        page83: options.page83.unwrap_or_else(Guid::random),
        locator: None,
    };
    write_file(storage, &metadata)?;
    if options.provision == (Provision::Fixed { preallocate: true }) {
        let length = storage.len().during("read the file's length")?;
        storage.reserve(0, length).during("take the host's space")?;
    }
    storage.sync().during("sync the new file")
}

/// Writes a differencing disk into empty storage, and syncs it.
pub fn format_child(
    storage: &dyn Storage,
    parent: &ParentIdentity,
    relative_path: &str,
    options: &ChildOptions,
) -> Result<()> {
    let absolute_path = options.absolute_path.as_deref();
    std::iter::once(relative_path).chain(absolute_path).try_for_each(locator::check_path)?;
    let metadata = Metadata {
        geometry: parent.geometry,
        block_size: options.block_size,
        fixed: false,
        page83: parent.page83,
        locator: Some(Locator::new(parent.data_write_guid, relative_path, absolute_path)),
    };
    write_file(storage, &metadata)?;
    storage.sync().during("sync the new file")
}

fn write_file(storage: &dyn Storage, metadata: &Metadata) -> Result<()> {
    let geometry = metadata.geometry;
    metadata::check(geometry, metadata.block_size)?;
    let layout = Layout::new(geometry.virtual_size, metadata.block_size, geometry.logical_sector);
    let metadata_start = MIB + LOG_LENGTH;
    let bat_start = metadata_start + METADATA_LENGTH;
    // For every disk, so that one without parent can get one without moving its BAT.
    let bat_end = bat_start + (layout.differencing_entries() * 8).next_multiple_of(MIB);

    let blocks = if metadata.fixed { layout.blocks() } else { 0 };
    storage.set_len(bat_end + blocks * layout.block_size).during("grow the new file")?;
    let mut identifier = [0; PAGE];
    identifier.put(0, b"vhdxfile");
    let creator: Vec<u8> = "Ireko".encode_utf16().flat_map(u16::to_le_bytes).collect();
    identifier.put(8, &creator);
    storage.write_at(0, &identifier).during("write the file identifier")?;
    let header = Header {
        sequence: 1,
        file_write_guid: Guid::random(),
        data_write_guid: Guid::random(),
        log_guid: Guid::NIL,
        log_offset: MIB,
        log_length: LOG_LENGTH as u32,
    };
    Current::create(storage, header)?;
    Regions::create(storage, bat_start..bat_end, metadata_start..bat_start)?;
    metadata.create(storage, metadata_start)?;
    if metadata.fixed {
        place_blocks(storage, &layout, bat_start, bat_end)?;
    }
    Ok(())
}

/// Writes the BAT of a fixed disk: blocks lie in order from `data_start` on.
fn place_blocks(
    storage: &dyn Storage,
    layout: &Layout,
    bat_start: u64,
    data_start: u64,
) -> Result<()> {
    let place = |block| Payload::Full(data_start + block * layout.block_size).encode();
    let entry = |slot| layout.block_of(slot).map_or(0, place);
    let (step, end) = (MIB / 8, layout.dynamic_entries());
    for first in (0..end).step_by(step as usize) {
        let slots = first..end.min(first + step);
        let bytes: Vec<u8> = slots.flat_map(|slot| entry(slot).to_le_bytes()).collect();
        storage.write_at(bat_start + first * 8, &bytes).during("write the BAT")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::storage::MemoryStorage;

    #[test]
    fn options_outside_the_format_s_limits_are_refused_and_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.vhdx");
        let good = CreateOptions::new(1 << 30);
        for bad in [
            CreateOptions { virtual_size: 0, ..good.clone() },
            CreateOptions { virtual_size: 1000, ..good.clone() },
            CreateOptions { virtual_size: (64 << 40) + 512, ..good.clone() },
            CreateOptions { block_size: 3 << 20, ..good.clone() },
            CreateOptions { block_size: 512 << 20, ..good.clone() },
            CreateOptions { logical_sector: 520, ..good.clone() },
        ] {
            assert_eq!(create(&path, &bad).unwrap_err().kind(), ErrorKind::OutOfRange);
            assert!(!path.exists());
        }
    }

    #[test]
    fn an_existing_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.vhdx");
        std::fs::write(&path, "mine").unwrap();
        assert!(create(&path, &CreateOptions::new(1 << 30)).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_child_takes_over_size_sectors_and_identity() {
        let folder = tempfile::tempdir().unwrap();
        let (base, child) = (folder.path().join("base.vhdx"), folder.path().join("child.vhdx"));
        let options = CreateOptions { logical_sector: 4096, ..CreateOptions::new(3 << 40) };
        create(&base, &options).unwrap();
        create_child(&child, &base, r".\base.vhdx", &ChildOptions::default()).unwrap();
        let (base, child) =
            (super::super::info(&base).unwrap(), super::super::info(&child).unwrap());
        assert_eq!((child.geometry, child.page83), (base.geometry, base.page83));
        assert_eq!(child.parent.unwrap().linkage, base.data_write_guid);
        assert_eq!((base.block_size, child.block_size), (32 << 20, 2 << 20));
        assert!(child.allocated < MIB, "{} bytes allocated", child.allocated);
    }

    #[test]
    fn the_largest_disk_can_be_described() {
        let storage = MemoryStorage::default();
        let options = CreateOptions { block_size: 256 << 20, ..CreateOptions::new(64 << 40) };
        format(&storage, &options).unwrap();
        Layer::open(Arc::new(storage)).unwrap();
    }
}
