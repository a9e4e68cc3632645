//! Which files make up a disk.

use crate::error::{Error, Result};
use crate::index::{Index, Layer, MAX_LINEAGE, key};
use crate::store::Store;
use crate::{durable, layer_file};
use std::path::{Path, PathBuf};

impl Store {
    /// Lists the files of a disk, leaf first.
    ///
    /// `leaf` may lie anywhere; parents are found in `images/` by the base name their child's
    /// locator carries, never by a path. A container's disk may also stand on one in the
    /// container's own folder, where another program made a checkpoint. That they are the right
    /// ones is verified by whoever opens them. Fails with [`crate::ErrorKind::Corrupt`] where one
    /// is missing or unreadable.
    pub fn chain(&self, leaf: &Path) -> Result<Vec<PathBuf>> {
        self.chain_over(&self.index(), leaf, parent_name(leaf)?)
    }

    /// The same where the name of the leaf's parent is known.
    pub(crate) fn chain_over(
        &self,
        index: &Index,
        leaf: &Path,
        parent: Option<String>,
    ) -> Result<Vec<PathBuf>> {
        let (mut files, mut disk, mut parent) = (vec![leaf.to_owned()], leaf.to_owned(), parent);
        while let Some(name) = parent {
            let Some(beside) = self.parent_beside(index, &disk, &name)? else {
                let layers = files_below(index, &disk, &name)?;
                files.extend(layers.iter().map(|file| self.image_path(file)));
                break;
            };
            if files.len() == MAX_LINEAGE {
                return Err(Error::corrupt(format!(
                    "{} stands on more than {MAX_LINEAGE} files, or on itself",
                    leaf.display()
                )));
            }
            files.push(beside.clone());
            parent = parent_name(&beside)?;
            disk = beside;
        }
        Ok(files)
    }

    /// Finds the parent of a container's disk in the container's own folder; `None` where it is to
    /// be found in `images/`.
    pub(crate) fn parent_beside(
        &self,
        index: &Index,
        disk: &Path,
        name: &str,
    ) -> Result<Option<PathBuf>> {
        let Some(folder) = disk.parent().filter(|folder| self.places.is_containers(folder)) else {
            return Ok(None);
        };
        if index.by_file(name).is_some() || index.commit_of(name).is_some() {
            return Ok(None);
        }
        let names = durable::names_in(folder)?;
        let found = names.iter().find(|file| key(file) == key(name));
        Ok(found.map(|file| folder.join(file)))
    }

    /// Refuses to commit a disk that stands on another in its container's folder: that one would
    /// have to go with it.
    pub(crate) fn refuse_checkpoint(&self, index: &Index, leaf: &Path) -> Result<()> {
        let Some(name) = parent_name(leaf)? else { return Ok(()) };
        match self.parent_beside(index, leaf, &name)? {
            None => Ok(()),
            Some(parent) => Err(Error::conflict(format!(
                "{} is a checkpoint over {}, which is no image",
                leaf.display(),
                parent.display()
            ))
            .hint("merge the checkpoint first: ireko vhd merge, or Hyper-V's Remove-VMSnapshot")),
        }
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
