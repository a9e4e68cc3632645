//! Telling a child where its parent is now, or that another file takes the parent's place.
//!
//! ```text
//!   old/base.vhdx ◄── child.vhdx        relink(child, new/base.vhdx)        new/base.vhdx ◄── child.vhdx
//! ```
//! A child's bytes mean something over its parent's bytes only, so the new parent must hold them: the same file, by its identity,
//! or another one with the same bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::chain::find::find_chain;
use crate::chain::{Access, Chain};
use crate::compare::first_difference;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::layer::{Layer, NewLink};
use crate::parent_path::relative_parent_path;
use crate::storage::{FileStorage, Lock};
use crate::watch::Watch;

/// How a child is linked to its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelinkOptions {
    /// The parent's path seen from the child's folder, with backslashes: `.\base.vhdx`. `None` computes it.
    pub relative_path: Option<String>,
    /// The parent's path on the Windows machine that the child is for, where it is known: `C:\disks\base.vhdx`.
    pub absolute_path: Option<String>,
    /// What must be known of the parent.
    pub verify: Verify,
}

impl Default for RelinkOptions {
    /// The same parent at another place.
    fn default() -> Self {
        Self { relative_path: None, absolute_path: None, verify: Verify::Identity }
    }
}

/// What must be known of a new parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// It is the very file the child was made from, or a copy of it.
    Identity,
    /// It holds the same bytes as the old parent, which is there too: all of both disks are compared.
    SameBytes,
    /// Nothing: the caller answers for it. A child over other bytes than it was made from is damaged.
    Force,
}

/// Links the child at `child` to the parent at `parent`. Durable on return; the old or the new link is there after a crash.
///
/// The child's bytes and identity stay, so that its own children are not affected. Parents of parents, and the old parent, are
/// found as by [`find_chain`]. Progress counts bytes compared.
///
/// Fails with [`ErrorKind::ParentMismatch`] when the parent is not what [`Verify`] asks for, has other sectors, is larger than
/// the child or stands on it; with [`ErrorKind::InUse`] when the child is open elsewhere.
pub fn relink(
    child: &Path,
    parent: &Path,
    folders: &[PathBuf],
    options: &RelinkOptions,
    watch: &dyn Watch,
) -> Result<()> {
    let relink = || {
        let file = Arc::new(FileStorage::open(child, Lock::Write)?);
        let format = Format::required(&*file)?;
        let layer = Layer::open(file.clone(), format)?;
        if !layer.has_parent() {
            return Err(Error::new(ErrorKind::Unsupported, "the disk has no parent"));
        }
        check_cycle(&file, parent, folders)?;
        let (new_parent, modified) = open_parent(parent)?;
        layer.check_geometry(&new_parent)?;
        match options.verify {
            Verify::Identity => layer.check_linkage(&new_parent)?,
            Verify::SameBytes => check_bytes(child, parent, folders, watch)?,
            Verify::Force => {}
        }
        let relative_path = match &options.relative_path {
            Some(path) => path.clone(),
            None => relative_parent_path(child, parent)?,
        };
        let link = NewLink {
            relative_path,
            absolute_path: options.absolute_path.clone(),
            identity: new_parent.identity(),
            modified: Some(modified),
        };
        let layer = layer.into_maintained(file)?;
        layer.relink(&link)?;
        layer.settle()
    };
    relink().map_err(|error: Error| {
        error.context(format!("link {} to {}", child.display(), parent.display()))
    })
}

/// Opens the parent; with it returns when it was last written to.
fn open_parent(path: &Path) -> Result<(Layer, SystemTime)> {
    let open = || {
        let file = Arc::new(FileStorage::open(path, Lock::Read)?);
        let (format, modified) = (Format::required(&*file)?, file.modified()?);
        Ok((Layer::open(file, format)?, modified))
    };
    open().map_err(|error: Error| error.context(format!("open {}", path.display())))
}

/// Checks that the parent does not stand on the child, as far as the parent's own parents are to be found.
fn check_cycle(child: &FileStorage, parent: &Path, folders: &[PathBuf]) -> Result<()> {
    let chain = find_chain(parent, folders).unwrap_or_else(|_| vec![parent.to_owned()]);
    for path in &chain {
        if FileStorage::open(path, Lock::None)?.identity()? == child.identity()? {
            let message = format!("{} would be its own parent", path.display());
            return Err(Error::new(ErrorKind::ParentMismatch, message));
        }
    }
    Ok(())
}

/// Compares the new parent with the old one.
fn check_bytes(child: &Path, parent: &Path, folders: &[PathBuf], watch: &dyn Watch) -> Result<()> {
    let old = find_chain(child, folders)?;
    let old = Chain::open(&old[1..], Access::ReadOnly)?;
    let new = Chain::open(&find_chain(parent, folders)?, Access::ReadOnly)?;
    match first_difference(&old, &new, watch)? {
        None => Ok(()),
        Some(at) => {
            let message = format!("it differs from the old parent, first at {at:#x}");
            Err(Error::new(ErrorKind::ParentMismatch, message))
        }
    }
}
