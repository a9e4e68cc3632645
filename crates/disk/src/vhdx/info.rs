//! What a file says of itself.

use std::path::Path;
use std::sync::Arc;

use super::ParentLink;
use super::layer::Layer;
use crate::disk::Geometry;
use crate::error::{ErrorKind, Result};
use crate::guid::Guid;
use crate::kind::Kind;
use crate::storage::{FileStorage, Lock, Storage};

/// A VHDX file's description of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// How blocks get their space.
    pub kind: Kind,
    /// Size and sectors of the virtual disk.
    pub geometry: Geometry,
    /// Bytes in a payload block.
    pub block_size: u32,
    /// What a child remembers this file's content by; new whenever the content changed.
    pub data_write_guid: Guid,
    /// New whenever the file was opened for writing.
    pub file_write_guid: Guid,
    /// The SCSI identity of the virtual disk; a child has its parent's.
    pub page83: Guid,
    /// Where the parent is; `None` for a base.
    pub parent: Option<ParentLink>,
    /// The log is in use: a writer has the file open, or did not close it.
    pub dirty_log: bool,
    /// Bytes the file takes on its file system.
    pub allocated: u64,
}

/// Looks at a file without locking or changing it, in time that depends on nothing in it.
///
/// Works on a file that is being written to; the answer is then a moment's.
pub fn info(path: &Path) -> Result<Info> {
    let file = Arc::new(FileStorage::open(path, Lock::None)?);
    let layer =
        look(&file).map_err(|error| error.context(format!("look at {}", path.display())))?;
    Ok(Info {
        kind: layer.kind(),
        geometry: layer.geometry(),
        block_size: layer.block_size(),
        data_write_guid: layer.data_write_guid(),
        file_write_guid: layer.file_write_guid(),
        page83: layer.page83(),
        parent: layer.parent().cloned(),
        dirty_log: layer.was_dirty(),
        allocated: file.allocated()?,
    })
}

/// Opens once more when the file looks damaged: a writer may have gone round its log in between.
fn look(file: &Arc<FileStorage>) -> Result<Layer> {
    const ATTEMPTS: usize = 5;
    let mut outcome = Layer::open(file.clone() as Arc<dyn Storage>);
    for _ in 1..ATTEMPTS {
        match &outcome {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                outcome = Layer::open(file.clone() as Arc<dyn Storage>);
            }
            _ => break,
        }
    }
    outcome
}
