//! Opening a chain: every link is verified before anything is written.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::Index;
use super::{Access, Chain};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{FileStorage, Lock, Storage};
use crate::vhdx::layer::Layer;

/// Metadata pages that all parents of a chain keep together; at least [`MIN_PAGES`] each.
const PARENT_PAGES: usize = 8192;
const MIN_PAGES: usize = 32;

pub(super) fn files(paths: &[PathBuf], access: Access) -> Result<Chain> {
    let mut storages: Vec<Arc<dyn Storage>> = Vec::with_capacity(paths.len());
    let mut seen = HashMap::new();
    for (index, path) in paths.iter().enumerate() {
        let lock = match (index, access) {
            (0, Access::ReadWrite) => Lock::Write,
            _ => Lock::Read,
        };
        let file =
            FileStorage::open(path, lock).map_err(|error| match seen_before(path, &seen) {
                Some(cycle) => cycle,
                None => error,
            })?;
        if seen.insert(file.identity()?, path.clone()).is_some() {
            return Err(cycle(path));
        }
        storages.push(Arc::new(file));
    }
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let mut chain = assemble(storages, &names, access)?;
    chain.paths = paths.to_vec();
    Ok(chain)
}

pub(super) fn storages(storages: Vec<Arc<dyn Storage>>, access: Access) -> Result<Chain> {
    let names: Vec<String> = (0..storages.len()).map(|index| format!("layer {index}")).collect();
    assemble(storages, &names, access)
}

fn assemble(storages: Vec<Arc<dyn Storage>>, names: &[String], access: Access) -> Result<Chain> {
    let page_limit = (PARENT_PAGES / storages.len().max(1)).max(MIN_PAGES);
    let mut layers = Vec::with_capacity(storages.len());
    for (index, storage) in storages.iter().enumerate() {
        let layer = Layer::open(storage.clone())
            .map_err(|error| error.context(format!("open {}", names[index])))?;
        layers.push(if index == 0 { layer } else { layer.with_page_limit(page_limit) });
    }
    verify(&layers, names)?;
    let mut layers = layers.into_iter();
    let no_leaf = || Error::new(ErrorKind::NotFound, "a chain has at least one file");
    let leaf = layers.next().ok_or_else(no_leaf)?;
    let parents = Index::new(layers.rev().map(Arc::new).collect());
    let leaf = match access {
        Access::ReadOnly => leaf,
        Access::ReadWrite => leaf
            .into_writable(storages[0].clone())
            .map_err(|error| error.context(format!("open {} for writing", names[0])))?,
    };
    Ok(Chain { leaf, parents, paths: Vec::new() })
}

/// Checks that each file is the parent of the one before it, and the last a base.
fn verify(layers: &[Layer], names: &[String]) -> Result<()> {
    let mismatch = |message| Err(Error::new(ErrorKind::ParentMismatch, message));
    for (index, layer) in layers.iter().enumerate() {
        let (link, parent) = (layer.parent(), layers.get(index + 1));
        let (link, parent) = match (link, parent) {
            (None, None) => return Ok(()),
            (Some(_), None) => {
                let message = format!("the parent of {} is missing from the chain", names[index]);
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            (None, Some(_)) => {
                return mismatch(format!("{} has no parent, yet one is given", names[index]));
            }
            (Some(link), Some(parent)) => (link, parent),
        };
        let (child_name, parent_name) = (&names[index], &names[index + 1]);
        if !link.accepts(parent.data_write_guid()) {
            return mismatch(format!(
                "{child_name} was made from another version of {parent_name}: its parent linkage {} is not the \
                 parent's data write GUID {}",
                link.linkage,
                parent.data_write_guid(),
            ));
        }
        let (child, parent) = (layer.geometry(), parent.geometry());
        if child.logical_sector != parent.logical_sector || child.virtual_size < parent.virtual_size
        {
            return mismatch(format!(
                "{child_name} and {parent_name} differ in sector or disk size"
            ));
        }
    }
    Ok(())
}

fn seen_before(path: &Path, seen: &HashMap<(u64, u64), PathBuf>) -> Option<Error> {
    let file = FileStorage::open(path, Lock::None).ok()?;
    seen.contains_key(&file.identity().ok()?).then(|| cycle(path))
}

fn cycle(path: &Path) -> Error {
    let message = format!("{} is in its own chain twice", path.display());
    Error::new(ErrorKind::ParentMismatch, message)
}
