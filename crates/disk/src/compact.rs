//! Making a disk's file as short as what it holds; the disk's bytes stay.
//!
//! How a format gives up space and moves blocks is its own affair.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::storage::{FileStorage, Lock, Storage};
use crate::watch::Watch;
use crate::{vhd, vhdx};

/// What compacting may do beyond moving blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactOptions {
    /// Look for blocks that hold nothing but zeros, and give up their space. Reads every block up to its first other byte.
    pub free_zeros: bool,
}

impl Default for CompactOptions {
    /// Everything.
    fn default() -> Self {
        Self { free_zeros: true }
    }
}

/// How large a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSize {
    /// Its length, in bytes.
    pub length: u64,
    /// What it takes on its file system, in bytes.
    pub allocated: u64,
}

/// What compacting did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The file as it was.
    pub before: FileSize,
    /// The file as it is.
    pub after: FileSize,
}

/// Compacts the file at `path`, be it a base, a child or a parent. Durable on return.
///
/// The disk reads the same at every moment, also after a crash, and its children stay linked to it. Whoever watches is
/// told of the bytes looked at and moved. When cancelled, or failed for want of space, the file is sound and keeps what was
/// gained so far.
///
/// Fails with [`ErrorKind::InUse`] when the file is open elsewhere, be it for reading.
pub fn compact(path: &Path, options: &CompactOptions, watch: &dyn Watch) -> Result<Compacted> {
    let compact = || {
        let file = Arc::new(FileStorage::open(path, Lock::Write)?);
        let before = FileSize::of(&file)?;
        compact_storage(file.clone(), options, watch)?;
        Ok(Compacted { before, after: FileSize::of(&file)? })
    };
    compact().map_err(|error: Error| error.context(format!("compact {}", path.display())))
}

/// Compacts a disk in storage that nobody else uses meanwhile: as [`compact`], without a lock.
pub fn compact_storage(
    storage: Arc<dyn Storage>,
    options: &CompactOptions,
    watch: &dyn Watch,
) -> Result<()> {
    match Format::required(&*storage)? {
        Format::Vhdx => vhdx::compact::compact(storage, options, watch),
        Format::Vhd => vhd::compact::compact(storage, options, watch),
        Format::Raw => {
            Err(Error::new(ErrorKind::Unsupported, "a raw disk's file is as long as the disk"))
        }
    }
}

impl FileSize {
    fn of(file: &FileStorage) -> Result<Self> {
        Ok(Self { length: file.length()?, allocated: file.allocated()? })
    }
}
