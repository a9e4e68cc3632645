//! Which files make up a disk.

use crate::error::{Error, Result};
use crate::index::{Index, Layer};
use crate::layer_file;
use crate::store::Store;
use std::path::{Path, PathBuf};

impl Store {
    /// Lists the files of a disk, leaf first.
    ///
    /// `leaf` may lie anywhere; parents are found in `images/` by the base name their child's
    /// locator carries, never by a path. That they are the right ones is verified by whoever opens
    /// them. Fails with [`crate::ErrorKind::Corrupt`] where one is missing or unreadable.
    pub fn chain(&self, leaf: &Path) -> Result<Vec<PathBuf>> {
        let index = self.index();
        let parents = match parent(&index, leaf)? {
            None => Vec::new(),
            Some(parent) => index.lineage(&parent.file)?,
        };
        let parents = parents.iter().map(|layer| self.image_path(&layer.file));
        Ok(std::iter::once(leaf.to_owned()).chain(parents).collect())
    }
}

/// Returns the layer that a disk stands on; `None` for a base disk.
pub(crate) fn parent<'a>(index: &'a Index, leaf: &Path) -> Result<Option<&'a Layer>> {
    let info = layer_file::info(leaf)?;
    let Some(name) = layer_file::parent_name(&info, leaf)? else { return Ok(None) };
    match index.by_file(&name) {
        Some(parent) => Ok(Some(parent)),
        None => Err(Error::corrupt(format!(
            "the parent of {} is not there: images/{name}",
            leaf.display()
        ))
        .hint(format!("put {name} and its .json back into images/"))),
    }
}
