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
        let files = match parent_name(leaf)? {
            None => Vec::new(),
            Some(name) => files_below(&index, leaf, &name)?,
        };
        let parents = files.iter().map(|file| self.image_path(file));
        Ok(std::iter::once(leaf.to_owned()).chain(parents).collect())
    }
}

/// Returns the layer that a disk stands on; `None` for a base disk.
pub(crate) fn parent<'a>(index: &'a Index, leaf: &Path) -> Result<Option<&'a Layer>> {
    let Some(name) = parent_name(leaf)? else { return Ok(None) };
    match index.by_file(&name) {
        Some(parent) => Ok(Some(parent)),
        None => Err(missing(leaf, &name)),
    }
}

/// Returns the base name of a disk's parent, as its locator has it.
pub(crate) fn parent_name(leaf: &Path) -> Result<Option<String>> {
    layer_file::parent_name(&layer_file::info(leaf)?, leaf)
}

/// Lists the file called `name` and those below it.
fn files_below(index: &Index, leaf: &Path, name: &str) -> Result<Vec<String>> {
    let (mut files, mut name) = (Vec::new(), name);
    // A file that was frozen and not yet published is no layer of the tree, but it is there.
    if let Some(commit) = index.commit_of(name) {
        files.push(name.to_owned());
        name = match commit.parent.as_ref().and_then(|(parent, _)| index.layer(*parent)) {
            Some(parent) => &parent.file,
            None => return Err(missing(leaf, name)),
        };
    }
    if index.by_file(name).is_none() {
        return Err(missing(leaf, name));
    }
    files.extend(index.lineage(name)?.iter().map(|layer| layer.file.clone()));
    Ok(files)
}

fn missing(leaf: &Path, name: &str) -> Error {
    Error::corrupt(format!("the parent of {} is not there: images/{name}", leaf.display()))
        .hint(format!("put {name} and its .json back into images/"))
}
