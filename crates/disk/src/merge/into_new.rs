//! The union of a chain's topmost layers, in a new file over the rest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chain::{Access, Chain};
use crate::convert::fill;
use crate::copy::{Copied, Onto, copy};
use crate::error::{Error, ErrorKind, Result};
use crate::layer::Layer;
use crate::parent_path::relative_parent_path;
use crate::publish;
use crate::storage::{FileStorage, Lock};
use crate::vhd;
use crate::vhdx::{self, ChildOptions, CreateOptions, ParentIdentity};
use crate::watch::Watch;

/// What a merged file looks like; the rest comes from its layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergeOptions {
    /// Bytes in a block. `None` takes the leaf's.
    pub block_size: Option<u32>,
    /// The parent's path seen from the new file's folder, with backslashes: `.\base.vhdx`. `None` computes it.
    pub relative_path: Option<String>,
    /// The parent's path on the Windows machine that the file is for, where it is known: `C:\disks\base.vhdx`.
    pub absolute_path: Option<String>,
    /// Whether the file is to be known for the leaf: children of the leaf are children of it then, and only their parent's
    /// path changes. Without it, the file has an identity of its own.
    pub keep_identity: bool,
}

/// Merges the topmost `layers` of a chain, leaf first and complete, into a new file at `to`; durable on return.
///
/// With as many layers as there are, the file has no parent. The sources are only read. Progress counts bytes of data. Refuses a path that exists; whatever
/// fails, and when it is cancelled, no file is left.
pub fn into_new(
    chain: &[PathBuf],
    layers: usize,
    to: &Path,
    options: &MergeOptions,
    watch: &dyn Watch,
) -> Result<Copied> {
    if layers < 2 || layers > chain.len() {
        let message = format!("{layers} layers of {} cannot be merged", chain.len());
        return Err(Error::new(ErrorKind::OutOfRange, message));
    }
    // Every link is verified, and every file held, until the end.
    let whole = Chain::open(chain, Access::ReadOnly)?;
    let source = Chain::open_top(&chain[..layers])?;
    let identity = whole.leaf.identity().filter(|_| options.keep_identity);
    publish::new_file(to, |file| match chain.get(layers) {
        None => {
            let target = new_base(file.clone(), &whole, options)?;
            fill(target, identity, |target| copy(&source, target, Onto::Blank, watch))
        }
        Some(parent) => {
            let path = match &options.relative_path {
                Some(path) => path.clone(),
                None => relative_parent_path(to, parent)?,
            };
            let parents = Chain::open(&chain[layers..], Access::ReadOnly)?;
            let target = new_child(file.clone(), &whole, parents, &path, options)?;
            fill(target, identity, |target| copy(&source, target, Onto::Disk, watch))
        }
    })
}

/// Makes an empty disk like `source`.
fn new_base(file: Arc<FileStorage>, source: &Chain, options: &MergeOptions) -> Result<Chain> {
    match &source.leaf {
        Layer::Vhdx(leaf) => {
            let new = CreateOptions {
                block_size: options.block_size.unwrap_or(leaf.block_size()),
                page83: options.keep_identity.then(|| leaf.page83()),
                ..CreateOptions::like(leaf.geometry())
            };
            vhdx::format(&*file, &new)?;
        }
        Layer::Vhd(leaf) => {
            let geometry = leaf.geometry();
            let block_size = options.block_size.unwrap_or(leaf.block_size());
            let new =
                vhd::CreateOptions { block_size, ..vhd::CreateOptions::new(geometry.virtual_size) };
            vhd::format(&*file, &new)?;
        }
        Layer::Raw(_) => return Err(no_layers()),
    }
    Chain::over_as(vec![file], source.format(), Access::ReadWrite)
}

/// Makes an empty disk over `parents`, as large as `source`.
fn new_child(
    file: Arc<FileStorage>,
    source: &Chain,
    parents: Chain,
    relative_path: &str,
    options: &MergeOptions,
) -> Result<Chain> {
    match (&source.leaf, &parents.leaf) {
        (Layer::Vhdx(leaf), Layer::Vhdx(parent)) => {
            let identity = ParentIdentity { geometry: leaf.geometry(), ..parent.as_parent() };
            let new = ChildOptions {
                block_size: options.block_size.unwrap_or(leaf.block_size()),
                absolute_path: options.absolute_path.clone(),
            };
            vhdx::format_child(&*file, &identity, relative_path, &new)?;
        }
        (Layer::Vhd(leaf), Layer::Vhd(parent)) => {
            let modified = FileStorage::open(parents.leaf_path(), Lock::None)?.modified()?;
            let unique_id = parent.unique_id();
            let identity = vhd::ParentIdentity { unique_id, ..leaf.as_parent(modified) };
            let new = vhd::ChildOptions {
                block_size: options.block_size.unwrap_or(leaf.block_size()),
                absolute_path: options.absolute_path.clone(),
            };
            vhd::format_child(&*file, &identity, relative_path, &new)?;
        }
        _ => return Err(no_layers()),
    }
    let leaf = Layer::open(file.clone(), source.format())?.into_writable(file)?;
    Ok(parents.under(leaf))
}

fn no_layers() -> Error {
    Error::new(ErrorKind::Unsupported, "a raw disk has no layers")
}
