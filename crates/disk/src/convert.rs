//! A whole disk into a new file of any format.
//!
//! ```text
//!   leaf ─► parent ─► base                 raw file                   any Disk
//!        flatten │                            │                          │
//!                ▼                            ▼                          ▼
//!             one VHDX                     one VHD                  one raw file
//! ```
//! A [`Chain`] read as one disk and converted is flattened. The new file has no parent and a new identity,
//! unless its options name one; it is written aside, and has its name once it is whole.

use std::path::Path;
use std::sync::Arc;

use crate::chain::{Access, Chain};
use crate::copy::{Copied, Onto, copy};
use crate::disk::{Disk, Geometry};
use crate::error::{During, Error, ErrorKind, Result};
use crate::format::Format;
use crate::guid::Guid;
use crate::publish;
use crate::storage::{FileStorage, Storage};
use crate::watch::Watch;
use crate::{raw, vhd, vhdx};

/// What the file of a new disk is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewDisk {
    /// A VHDX file without parent.
    Vhdx(vhdx::CreateOptions),
    /// A VHD file without parent.
    Vhd(vhd::CreateOptions),
    /// A sparse file of the disk's bytes.
    Raw,
}

impl NewDisk {
    /// A disk of this size and, as far as the format has them, these sectors; the rest is the format's usual.
    pub fn like(format: Format, geometry: Geometry) -> Self {
        match format {
            Format::Vhdx => Self::Vhdx(vhdx::CreateOptions::like(geometry)),
            Format::Vhd => Self::Vhd(vhd::CreateOptions::new(geometry.virtual_size)),
            Format::Raw => Self::Raw,
        }
    }

    /// Makes the disk in an empty file and opens it; it reads as zeros.
    fn make(&self, file: Arc<FileStorage>, source: Geometry) -> Result<Chain> {
        let format = match self {
            Self::Vhdx(options) => {
                vhdx::format(&*file, options)?;
                Format::Vhdx
            }
            Self::Vhd(_) if source.logical_sector != 512 => {
                let message = format!(
                    "a VHD has sectors of 512 bytes, and the disk's are of {}: its partition table and file systems count \
                     in them, so that no guest would find its data; VHDX has such sectors",
                    source.logical_sector
                );
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            Self::Vhd(options) => {
                vhd::format(&*file, options)?;
                Format::Vhd
            }
            Self::Raw => {
                raw::check_size(source.virtual_size)?;
                file.set_len(source.virtual_size).during("grow the new file")?;
                Format::Raw
            }
        };
        Chain::over_as(vec![file], format, Access::ReadWrite)
    }
}

/// Copies a disk into a new file at `to`; durable on return.
///
/// The new disk may be larger than the source, never smaller: Azure wants whole MiB. Fails with [`ErrorKind::Unsupported`] when the
/// format has no such sectors. Progress counts bytes of data. Refuses a path that exists; whatever fails, and when it is
/// cancelled, no file is left.
pub fn convert(source: &dyn Disk, to: &Path, new: &NewDisk, watch: &dyn Watch) -> Result<Copied> {
    publish::new_file(to, |file| {
        let target = new.make(file.clone(), source.geometry())?;
        fill(target, None, |target| copy(source, target, Onto::Blank, watch))
    })
}

/// Fills a new disk and closes it, under another identity where one is given.
///
/// The file of one that could not be filled is of no use: nothing is synced for it.
pub(crate) fn fill<T>(
    target: Chain,
    identity: Option<Guid>,
    fill: impl FnOnce(&Chain) -> Result<T>,
) -> Result<T> {
    let filled = fill(&target);
    match (filled, identity) {
        (Ok(outcome), None) => target.close().map(|()| outcome),
        (Ok(outcome), Some(identity)) => target.leaf.settle_as(identity).map(|()| outcome),
        (Err(error), _) => {
            target.leaf.retire();
            Err(error)
        }
    }
}
