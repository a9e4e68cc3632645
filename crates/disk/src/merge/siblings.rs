//! Other children of a parent that is about to change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{During, Error, ErrorKind, Result};
use crate::format::Format;
use crate::guid::Guid;
use crate::layer::Layer;
use crate::storage::{FileStorage, Lock};

/// Fails, naming it, when a file in the folders is a child of a parent with one of these identities.
///
/// The chain's `own` files may be, and children of the `child` too, whose identity the parent may have already.
pub(super) fn refuse<'a>(
    folders: impl Iterator<Item = &'a Path>,
    own: &[Arc<FileStorage>],
    identities: &[Guid],
    child: Guid,
) -> Result<()> {
    let identities: Vec<Guid> = identities.iter().copied().filter(|id| *id != child).collect();
    let own = own.iter().map(|file| file.identity()).collect::<Result<Vec<_>>>()?;
    for folder in folders {
        for path in files(folder)? {
            let Some((layer, file)) = look(&path) else { continue };
            if !own.contains(&file) && layer.is_child_of(&identities) {
                let message = format!("{} is a child of the same parent", path.display());
                return Err(Error::new(ErrorKind::ParentMismatch, message));
            }
        }
    }
    Ok(())
}

/// Lists a folder in the order of names. A file that is still being made ends in `.part`, and nobody's disk.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut files = list().during(format_args!("look into {}", folder.display()))?;
    files.retain(|path| path.extension().is_none_or(|ending| ending != "part"));
    files.sort();
    Ok(files)
}

/// Opens a disk file without holding it. Whatever cannot be opened is no child.
fn look(path: &Path) -> Option<(Layer, (u64, u64))> {
    let file = FileStorage::open(path, Lock::None).ok()?;
    let identity = file.identity().ok()?;
    let format = Format::of(&file).ok()??;
    Some((Layer::open(Arc::new(file), format).ok()?, identity))
}
