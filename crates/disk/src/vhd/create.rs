//! Making new files: some sectors, and a table that says that no block is there.
//!
//! ```text
//!   dynamic        footer's copy │ header │ table … │ footer
//!   differencing   footer's copy │ header │ parent's names, free space │ table … │ footer
//!                  0               512      1536                         16 KiB
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::bat::{ENTRY, Layout};
use super::chs::Chs;
use super::footer::{FOOTER, Footer, check_size};
use super::header::{HEADER, Header};
use super::layer::Layer;
use super::locator::{self, Names};
use super::{Kind, MAX_SPARSE, Provision};
use crate::error::{During, Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::storage::{FileStorage, Lock, Storage, in_new_file};

/// Where a child's table begins: before it is room for the names of its parent, also when they change.
const TABLE_OF_CHILD: u64 = 16 << 10;
const MIB: u64 = 1 << 20;
/// What Windows makes.
const BLOCK_SIZE: u32 = 2 << 20;

/// What a new disk without parent looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Size of the virtual disk in bytes: a multiple of 512, at most 2040 GiB.
    pub virtual_size: u64,
    /// Bytes in a block of a dynamic disk: a power of two, 512 KiB to 256 MiB. Others make 2 MiB and 512 KiB only.
    pub block_size: u32,
    /// When blocks get their place in the file.
    pub provision: Provision,
}

impl CreateOptions {
    /// What Windows makes: a dynamic disk of 2 MiB blocks.
    pub fn new(virtual_size: u64) -> Self {
        Self { virtual_size, block_size: BLOCK_SIZE, provision: Provision::Dynamic }
    }

    /// What Azure takes: a sparse fixed disk of whole MiB, the size rounded up. The file is that and 512 bytes.
    pub fn for_azure(virtual_size: u64) -> Self {
        let virtual_size = virtual_size.div_ceil(MIB).saturating_mul(MIB);
        Self { provision: Provision::Fixed { preallocate: false }, ..Self::new(virtual_size) }
    }
}

/// What a new differencing disk looks like; the rest comes from its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildOptions {
    /// Bytes in a block: a power of two, 512 KiB to 256 MiB.
    pub block_size: u32,
    /// The parent's path on the Windows machine that the child is for, where it is known: `C:\disks\base.vhd`.
    pub absolute_path: Option<String>,
}

impl Default for ChildOptions {
    /// 2 MiB blocks, as Windows makes them; no absolute path.
    fn default() -> Self {
        Self { block_size: BLOCK_SIZE, absolute_path: None }
    }
}

/// Makes a disk without parent in a new file.
///
/// The file is synced, its folder is not. Fails, leaving nothing, when `path` exists or an option is outside its limits;
/// with [`ErrorKind::NoSpace`] when space cannot be preallocated.
pub fn create(path: &Path, options: &CreateOptions) -> Result<()> {
    in_new_file(path, |file| format(file, options))
}

/// Makes a differencing disk over the VHD file at `parent`, of whatever kind, in a new file.
///
/// `relative_path` is what the child remembers of the parent's place, seen from its own folder and with
/// backslashes: `.\base.vhd`. The file is synced, its folder is not. Fails with [`ErrorKind::InUse`] while another
/// process writes to the parent. The parent is not changed, and must never be: VHD has no means to notice it.
pub fn create_child(
    path: &Path,
    parent: &Path,
    relative_path: &str,
    options: &ChildOptions,
) -> Result<()> {
    let file = FileStorage::open(parent, Lock::Read)?;
    let modified = file.modified()?;
    let layer = Layer::open(Arc::new(file))
        .map_err(|error| error.context(format!("open the parent {}", parent.display())))?;
    let identity = layer.as_parent(modified);
    in_new_file(path, |file| format_child(file, &identity, relative_path, options))
}

/// What a child takes over from its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParentIdentity {
    /// Size of the virtual disk in bytes.
    pub virtual_size: u64,
    /// The same, as old systems saw it.
    pub chs: Chs,
    /// What the link is verified by.
    pub unique_id: Guid,
    /// When the parent's file was last written to.
    pub modified: SystemTime,
}

impl ParentIdentity {
    /// Reads it from a VHD file that was last written to at that time.
    pub fn of(storage: Arc<dyn Storage>, modified: SystemTime) -> Result<Self> {
        Ok(Layer::open(storage)?.as_parent(modified))
    }
}

impl Layer {
    /// What a child of this file takes over.
    pub(crate) fn as_parent(&self, modified: SystemTime) -> ParentIdentity {
        ParentIdentity {
            virtual_size: self.geometry().virtual_size,
            chs: self.footer.chs(),
            unique_id: self.unique_id(),
            modified,
        }
    }
}

/// Writes a disk without parent into empty storage, and syncs it.
pub fn format(storage: &dyn Storage, options: &CreateOptions) -> Result<()> {
    check_new_size(options.virtual_size)?;
    let id = Guid::random();
    match options.provision {
        Provision::Fixed { preallocate } => {
            let size = options.virtual_size;
            let footer = Footer::new(Kind::Fixed, size, id, None);
            storage.write_at(size, footer.record()).during("write the footer")?;
            if preallocate {
                storage.reserve(0, size).during("take the host's space")?;
            }
        }
        Provision::Dynamic => {
            let layout = new_layout(options.virtual_size, options.block_size)?;
            let header = Header::new(FOOTER + HEADER, layout.blocks() as u32, options.block_size);
            let footer = Footer::new(Kind::Dynamic, options.virtual_size, id, Some(FOOTER));
            write_file(storage, &layout, &footer, &header)?;
        }
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
    check_new_size(parent.virtual_size)?;
    let layout = new_layout(parent.virtual_size, options.block_size)?;
    let mut header = Header::new(TABLE_OF_CHILD, layout.blocks() as u32, options.block_size);
    header.set_parent(parent.unique_id, parent.modified);
    let start = FOOTER + HEADER;
    let names = Names::new(relative_path, absolute_path).place(start, &mut header);
    storage.write_at(start, &names).during("write the parent's names")?;
    let mut footer =
        Footer::new(Kind::Differencing, parent.virtual_size, Guid::random(), Some(FOOTER));
    footer.set_chs(parent.chs);
    write_file(storage, &layout, &footer, &header)?;
    storage.sync().during("sync the new file")
}

/// Writes everything but the parent's names.
fn write_file(
    storage: &dyn Storage,
    layout: &Layout,
    footer: &Footer,
    header: &Header,
) -> Result<()> {
    storage.write_at(0, footer.record()).during("write the footer's copy")?;
    storage.write_at(FOOTER, header.record()).during("write the dynamic header")?;
    let start = header.table_offset();
    let end = start + layout.table_length();
    fill_table(storage, start, end)?;
    storage.write_at(end, footer.record()).during("write the footer")
}

/// Writes entries of blocks that are not there.
pub(super) fn fill_table(storage: &dyn Storage, start: u64, end: u64) -> Result<()> {
    static ABSENT: [u8; 64 << 10] = [0xFF; 64 << 10];
    for at in (start..end).step_by(ABSENT.len()) {
        let length = (end - at).min(ABSENT.len() as u64) as usize;
        storage.write_at(at, &ABSENT[..length]).during("write the block table")?;
    }
    Ok(())
}

/// Checks the size of a disk that is to be made or to grow.
pub(super) fn check_new_size(virtual_size: u64) -> Result<()> {
    // A dynamic disk's limit goes for fixed ones too: they are to be read by others.
    check_size(Kind::Dynamic, virtual_size)
}

fn new_layout(virtual_size: u64, block_size: u32) -> Result<Layout> {
    if !block_size.is_power_of_two() || !(512 << 10..=256 << 20).contains(&block_size) {
        let message =
            format!("blocks of {block_size} bytes; a power of two from 512 KiB to 256 MiB");
        return Err(Error::new(ErrorKind::OutOfRange, message));
    }
    let layout = Layout::new(virtual_size, block_size);
    debug_assert!(layout.blocks() * ENTRY <= MAX_SPARSE);
    Ok(layout)
}
