//! A chain of layers, read and written as one disk.
//!
//! ```text
//!   guest ──► leaf (writable) ── not here? ──► index: which parent holds it ──► that parent's file
//!               │ its own BAT and bitmaps         parents never change
//! ```
//! The leaf is asked first, through its own metadata. What it does not hold is looked up in the
//! [`index`] over all parents, so that a read costs the same over one parent as over two hundred.

pub(crate) mod index;
mod open;

use std::path::{Path, PathBuf};

use crate::disk::{Disk, Extent, ExtentKind, Geometry};
use crate::error::{Error, ErrorKind, Result};
use crate::layer::{Clearing, Place, Run};
use crate::vhdx::layer::Layer;
use index::Index;

/// Blocks that one call of [`Disk::extents`] looks at before it stops early.
const EXTENT_BLOCKS: usize = 65_536;

/// Whether a chain's leaf may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// All layers are opened for reading; a dirty log is replayed in memory.
    ReadOnly,
    /// The leaf is opened for writing, the parents for reading.
    ReadWrite,
}

/// An open chain of VHDX files.
///
/// Holds a write lock on a writable leaf and read locks on everything else, until dropped. Dropping
/// closes the leaf cleanly if it can; [`Chain::close`] also tells whether it could.
pub struct Chain {
    pub(crate) leaf: Layer,
    pub(crate) parents: Index,
    /// Leaf first; empty for a chain over [`crate::Storage`].
    pub(crate) paths: Vec<PathBuf>,
}

impl Chain {
    /// Opens files as one disk, leaf first, base last.
    ///
    /// Every link is verified: DataWriteGuid, sector size, disk size, no file twice. A leaf opened for writing gets new write GUIDs, durably, and its
    /// log is replayed. Time depends on the number of files only.
    ///
    /// Fails with [`ErrorKind::InUse`] when another process holds a file, with [`ErrorKind::ParentMismatch`] when a
    /// file is not what its child was made from.
    pub fn open(paths: &[PathBuf], access: Access) -> Result<Self> {
        open::files(paths, access)
    }

    /// Opens storages as one disk, leaf first: as [`Chain::open`], without locks.
    pub fn over(storages: Vec<std::sync::Arc<dyn crate::Storage>>, access: Access) -> Result<Self> {
        open::storages(storages, access)
    }

    /// The leaf's file; an empty path for a chain over storages.
    pub fn leaf_path(&self) -> &Path {
        self.paths.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// Number of layers, the leaf included.
    pub fn depth(&self) -> usize {
        self.parents.depth() + 1
    }

    /// The leaf's DataWriteGuid: constant while the chain is open.
    pub fn data_write_guid(&self) -> crate::Guid {
        self.leaf.data_write_guid()
    }

    /// What a new child of the leaf takes over from it.
    pub fn identity(&self) -> crate::vhdx::ParentIdentity {
        self.leaf.as_parent()
    }

    /// Makes everything durable and leaves the leaf's log empty, so that any reader can open it.
    pub fn close(self) -> Result<()> {
        if self.leaf.is_writable() { self.leaf.settle() } else { Ok(()) }
    }

    fn check(&self, operation: &str, offset: u64, length: u64) -> Result<()> {
        let size = self.leaf.geometry().virtual_size;
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(()),
            _ => {
                let message =
                    format!("{operation} of {length} bytes at {offset:#x} on a disk of {size}");
                Err(Error::new(ErrorKind::OutOfRange, message))
            }
        }
    }

    fn check_write(&self, operation: &str, offset: u64, length: u64) -> Result<()> {
        self.check(operation, offset, length)?;
        match self.leaf.is_writable() {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::ReadOnly, "the disk is open for reading")),
        }
    }

    /// Names the operation, and the file where there is one.
    fn failed(&self, operation: &str, offset: u64) -> impl FnOnce(Error) -> Error {
        let place = format!("{operation} {} at {offset:#x}", self.leaf_path().display());
        move |error| error.context(place)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut rest = buffer;
        for piece in self.leaf.pieces(offset, rest.len() as u64) {
            let (now, later) = rest.split_at_mut(piece.length as usize);
            let _held = self.leaf.hold(&piece);
            self.leaf.read_piece(&piece, now, &self.parents)?;
            rest = later;
        }
        Ok(())
    }

    fn list_extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>> {
        let mut list = ExtentList { extents: Vec::new(), limit };
        let mut runs = Vec::new();
        for piece in self.leaf.pieces(offset, length).take(EXTENT_BLOCKS) {
            runs.clear();
            let held = self.leaf.hold(&piece);
            self.leaf.map_piece(&piece, &mut runs)?;
            drop(held);
            let mut at = self.leaf.offset_of(&piece);
            for Run { length, place } in runs.drain(..) {
                match place {
                    Place::Here(_) => list.push(at, length, ExtentKind::Data),
                    Place::Zero => list.push(at, length, ExtentKind::Zero),
                    Place::Below => self.parents.extents(at..at + length, &mut list)?,
                }
                at += length;
            }
            if list.is_full() {
                break;
            }
        }
        Ok(list.finish())
    }
}

impl Disk for Chain {
    fn geometry(&self) -> Geometry {
        self.leaf.geometry()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check("read", offset, buffer.len() as u64)?;
        self.read(offset, buffer).map_err(|error| self.failed("read", offset)(error))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check_write("write", offset, data.len() as u64)?;
        let outcome = self.leaf.write(offset, data, &self.parents);
        outcome.map_err(|error| self.failed("write", offset)(error))
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.check_write("write zeroes", offset, length)?;
        let outcome = self.leaf.clear(offset..offset + length, Clearing::Zeroes, &self.parents);
        outcome.map_err(|error| self.failed("write zeroes to", offset)(error))
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.check_write("discard", offset, length)?;
        let outcome = self.leaf.clear(offset..offset + length, Clearing::Discard, &self.parents);
        outcome.map_err(|error| self.failed("discard", offset)(error))
    }

    fn extents(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>> {
        self.check("map", offset, length)?;
        let outcome = self.list_extents(offset, length, limit);
        outcome.map_err(|error| self.failed("map", offset)(error))
    }

    /// A chain open for reading has nothing to flush.
    fn flush(&self) -> Result<()> {
        if !self.leaf.is_writable() {
            return Ok(());
        }
        self.leaf
            .flush()
            .map_err(|error| error.context(format!("flush {}", self.leaf_path().display())))
    }
}

/// Extents as they are found; neighbours of one kind become one.
pub(crate) struct ExtentList {
    extents: Vec<Extent>,
    limit: usize,
}

impl ExtentList {
    /// One more than the limit, so that the last one wanted is complete.
    fn is_full(&self) -> bool {
        self.extents.len() > self.limit
    }

    pub(crate) fn push(&mut self, offset: u64, length: u64, kind: ExtentKind) {
        let full = self.is_full();
        match self.extents.last_mut() {
            Some(last) if last.kind == kind => last.length += length,
            _ if full => {}
            _ => self.extents.push(Extent { offset, length, kind }),
        }
    }

    fn finish(mut self) -> Vec<Extent> {
        self.extents.truncate(self.limit);
        self.extents
    }
}
