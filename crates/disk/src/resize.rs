//! Changing the size of a virtual disk.
//!
//! How a format makes room for a larger disk, and gives up what is cut off, is its own affair.

use std::path::PathBuf;
use std::sync::Arc;

use crate::chain::{Access, Chain};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::storage::{FileStorage, Lock, Storage};
use crate::watch::Watch;
use crate::{vhd, vhdx};

/// What resizing may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResizeOptions {
    /// Cut off bytes that are not zeros. Without it, a disk gets shorter only by bytes that read as zeros.
    pub allow_loss: bool,
}

/// Makes a disk `size` bytes long, a multiple of its logical sector. Durable on return.
///
/// `chain` are the disk's files as [`Chain::open`] takes them. Only the first, the leaf, changes; a child gets a size of its own, never
/// below its parent's. New bytes read as zeros, whatever was there when the disk was that long before. After a
/// crash the disk has the old size or the new one, with the right bytes. The disk becomes another version: files that have it as
/// their parent no longer fit it. Nothing happens when the size is what it was.
///
/// Whoever watches is told of the bytes looked at before anything changes, and can stop it only then.
///
/// Fails with [`ErrorKind::DataLoss`] when bytes to be cut off are not zeros, with [`ErrorKind::InUse`] when a file is open elsewhere.
pub fn resize(
    chain: &[PathBuf],
    size: u64,
    options: &ResizeOptions,
    watch: &dyn Watch,
) -> Result<()> {
    let name = chain.first().map(|path| path.display().to_string()).unwrap_or_default();
    let resize = || {
        let storage = |(index, path): (usize, &PathBuf)| {
            let lock = if index == 0 { Lock::Write } else { Lock::Read };
            Ok(Arc::new(FileStorage::open(path, lock)?) as Arc<dyn Storage>)
        };
        let storages = chain.iter().enumerate().map(storage).collect::<Result<Vec<_>>>()?;
        resize_storage(&storages, size, options, watch)
    };
    resize().map_err(|error| error.context(format!("resize {name}")))
}

/// Resizes a disk in storages that nobody else uses meanwhile, leaf first: as [`resize`], without locks.
pub fn resize_storage(
    chain: &[Arc<dyn Storage>],
    size: u64,
    options: &ResizeOptions,
    watch: &dyn Watch,
) -> Result<()> {
    // Verifies every link.
    let format = Chain::over(chain.to_vec(), Access::ReadOnly)?.format();
    let (leaf, parents) = (&chain[0], &chain[1..]);
    if !parents.is_empty() {
        let parent = Chain::over(parents.to_vec(), Access::ReadOnly)?.geometry().virtual_size;
        if size < parent {
            let message = format!("a disk of {size} bytes over a parent of {parent} bytes");
            return Err(Error::new(ErrorKind::OutOfRange, message));
        }
    }
    match format {
        Format::Vhdx => vhdx::resize::resize(leaf.clone(), size, options, watch),
        Format::Vhd => vhd::resize::resize(leaf.clone(), size, options, watch),
        Format::Raw => Err(Error::new(ErrorKind::Unsupported, "a raw disk is as long as its file")),
    }
}
