//! Opening a chain: every link is verified before anything is written.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::Index;
use super::{Access, Chain};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::layer::Layer;
use crate::storage::{FileStorage, Lock, Storage};

/// Metadata pages that all parents of a chain keep together; at least [`MIN_PAGES`] each.
const PARENT_PAGES: usize = 8192;
const MIN_PAGES: usize = 32;

/// What the last layer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bottom {
    /// A disk without parent.
    Base,
    /// Any: its parent is left out.
    Any,
}

/// Files or storages with the names errors give them.
struct Members {
    storages: Vec<Arc<dyn Storage>>,
    names: Vec<String>,
}

/// How to open one file of a chain.
type Open = fn(Arc<dyn Storage>, Format) -> Result<Layer>;

pub(super) fn files(paths: &[PathBuf], access: Access, bottom: Bottom) -> Result<Chain> {
    opened(paths, access, bottom, Layer::open)
}

pub(super) fn files_ignoring_checksums(paths: &[PathBuf]) -> Result<Chain> {
    opened(paths, Access::ReadOnly, Bottom::Base, Layer::open_ignoring_checksums)
}

fn opened(paths: &[PathBuf], access: Access, bottom: Bottom, open: Open) -> Result<Chain> {
    let mut members = Members { storages: Vec::new(), names: Vec::new() };
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
        members.storages.push(Arc::new(file));
        members.names.push(path.display().to_string());
    }
    let open = |file: &Arc<dyn Storage>| open(file.clone(), Format::required(&**file)?);
    let mut chain = assemble(&members, open, access, bottom)?;
    chain.paths = paths.to_vec();
    Ok(chain)
}

pub(super) fn file(path: &Path, format: Format, access: Access) -> Result<Chain> {
    let lock = match access {
        Access::ReadOnly => Lock::Read,
        Access::ReadWrite => Lock::Write,
    };
    let storages: Vec<Arc<dyn Storage>> = vec![Arc::new(FileStorage::open(path, lock)?)];
    let members = Members { storages, names: vec![path.display().to_string()] };
    let open = |file: &Arc<dyn Storage>| Layer::open(file.clone(), format);
    let mut chain = assemble(&members, open, access, Bottom::Base)?;
    chain.paths = vec![path.to_owned()];
    Ok(chain)
}

pub(super) fn storages(
    storages: Vec<Arc<dyn Storage>>,
    format: Option<Format>,
    access: Access,
) -> Result<Chain> {
    let names = (0..storages.len()).map(|index| format!("layer {index}")).collect();
    let open = |file: &Arc<dyn Storage>| {
        let format = format.map_or_else(|| Format::required(&**file), Ok)?;
        Layer::open(file.clone(), format)
    };
    assemble(&Members { storages, names }, open, access, Bottom::Base)
}

fn assemble(
    members: &Members,
    open: impl Fn(&Arc<dyn Storage>) -> Result<Layer>,
    access: Access,
    bottom: Bottom,
) -> Result<Chain> {
    let Members { storages, names } = members;
    let page_limit = (PARENT_PAGES / storages.len().max(1)).max(MIN_PAGES);
    let mut layers = Vec::with_capacity(storages.len());
    for (index, (storage, name)) in storages.iter().zip(names).enumerate() {
        let layer = open(storage).map_err(|error| error.context(format!("open {name}")))?;
        layers.push(if index == 0 { layer } else { layer.with_page_limit(page_limit) });
    }
    verify(&layers, names, bottom)?;
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

/// Checks that each file is the parent of the one before it, and the last what it should be.
fn verify(layers: &[Layer], names: &[String], bottom: Bottom) -> Result<()> {
    for (index, layer) in layers.iter().enumerate() {
        let name = &names[index];
        match (layer.has_parent(), layers.get(index + 1)) {
            (false, None) => {}
            (true, None) if bottom == Bottom::Any => {}
            (true, None) => {
                let message = format!("the parent of {name} is missing from the chain");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            (false, Some(_)) => {
                let message = format!("{name} has no parent, yet one is given");
                return Err(Error::new(ErrorKind::ParentMismatch, message));
            }
            (true, Some(parent)) => layer.check_parent(parent).map_err(|error| {
                error.context(format!("{} is not the parent of {name}", names[index + 1]))
            })?,
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
