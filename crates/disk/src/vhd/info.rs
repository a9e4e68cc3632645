//! What a file says of itself.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::chs::Chs;
use super::footer::Found;
use super::layer::{Body, Layer};
use super::{Kind, ParentLink};
use crate::disk::Geometry;
use crate::error::{ErrorKind, Result};
use crate::guid::Guid;
use crate::storage::{FileStorage, Lock, Storage};

/// A VHD file's description of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// How blocks get their space.
    pub kind: Kind,
    /// Size and sectors of the virtual disk.
    pub geometry: Geometry,
    /// Bytes in a block; `None` for a fixed disk.
    pub block_size: Option<u32>,
    /// What a child knows the file by. Writing does not change it.
    pub unique_id: Guid,
    /// Where the parent is; `None` for a base.
    pub parent: Option<ParentLink>,
    /// Cylinders, heads and sectors.
    pub chs: Chs,
    /// The disk's size in the eyes of QEMU and Virtual PC, where it is another than ours: they believe the cylinders in files of
    /// some creators.
    pub chs_size: Option<u64>,
    /// Four letters for the program that made the file: `win `, `vpc `, `qemu`, `vbox`. No text where they are none.
    pub creator: String,
    /// When the file was made, by its maker's clock.
    pub created: SystemTime,
    /// A virtual machine was suspended on the disk: its memory knows what the disk holds.
    pub saved_state: bool,
    /// The footer at the file's end is good. Where it is not, a writer has the file open, or did not close it, or
    /// the file was cut off.
    pub has_footer: bool,
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
    let footer = &layer.footer;
    Ok(Info {
        kind: footer.kind(),
        geometry: layer.geometry(),
        block_size: match &layer.body {
            Body::Fixed(_) => None,
            Body::Sparse(sparse) => Some(sparse.header.block_size()),
        },
        unique_id: footer.unique_id(),
        parent: layer.parent().cloned(),
        chs: footer.chs(),
        chs_size: footer.chs_size(),
        creator: String::from_utf8_lossy(&footer.creator()).into_owned(),
        created: footer.created(),
        saved_state: footer.saved_state(),
        has_footer: layer.found != Found::Copy,
        allocated: file.allocated()?,
    })
}

/// Opens once more when the file looks damaged: a writer may have moved the footer in between.
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
