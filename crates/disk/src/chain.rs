//! A chain of layers, read and written as one disk.
//!
//! ```text
//!   guest ──► leaf (writable) ── not here? ──► index: which parent holds it ──► that parent's file
//!               │ its own BAT and bitmaps         parents never change
//! ```
//! The leaf is asked first, through its own metadata. What it does not hold is looked up in the
//! [`index`] over all parents, so that a read costs the same over one parent as over two hundred.

pub(crate) mod find;
pub(crate) mod index;
mod open;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, Extent, ExtentKind, Geometry};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::layer::{Clearing, Layer, Place, Run};
use crate::storage::Storage;
use crate::vhdx;
use index::{Index, Source};

/// Blocks that one call of [`Disk::extents`] looks at before it stops early.
const EXTENT_BLOCKS: usize = 65_536;

/// Shorter holes in a file are read like data, in bytes: to go around one costs more.
const MIN_HOLE: u64 = 32 << 10;

/// Adds an extent's length and kind to a list; returns whether there was room for it.
type AddExtent<'a> = dyn FnMut(u64, ExtentKind) -> bool + 'a;

/// Where bytes lie: the number of a layer, from the base up, and the offset in its file.
struct DataPlace {
    layer: u32,
    at: u64,
}

/// Whether a chain's leaf may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// All layers are opened for reading; a dirty log is replayed in memory.
    ReadOnly,
    /// The leaf is opened for writing, the parents for reading.
    ReadWrite,
}

/// An open chain of files of one format: a disk and its parents.
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
    /// Opens files as one disk, leaf first, base last; [`crate::find_chain`] lists them.
    ///
    /// Every link is verified: identity, sector size, disk size, no file twice. A VHDX leaf opened for writing gets new write GUIDs, durably, and its
    /// log is replayed. Time depends on the number of files only.
    ///
    /// Fails with [`ErrorKind::InUse`] when another process holds a file, with [`ErrorKind::ParentMismatch`] when a
    /// file is not what its child was made from.
    pub fn open(paths: &[PathBuf], access: Access) -> Result<Self> {
        open::files(paths, access, open::Bottom::Base)
    }

    /// Opens the topmost layers of a chain for reading: what the last one's parent holds is [`ExtentKind::Absent`], and reads as zeros.
    pub fn open_top(paths: &[PathBuf]) -> Result<Self> {
        open::files(paths, Access::ReadOnly, open::Bottom::Any)
    }

    /// Opens files for reading although the checksums of VHD footers and headers are wrong: damaged, or made by a tool that never
    /// wrote them. Everything else is checked as ever.
    pub fn open_ignoring_checksums(paths: &[PathBuf]) -> Result<Self> {
        open::files_ignoring_checksums(paths)
    }

    /// Opens one file whose format is not to be guessed: a raw disk, above all.
    pub fn open_as(path: &Path, format: Format, access: Access) -> Result<Self> {
        open::file(path, format, access)
    }

    /// Opens storages as one disk, leaf first: as [`Chain::open`], without locks.
    pub fn over(storages: Vec<Arc<dyn Storage>>, access: Access) -> Result<Self> {
        open::storages(storages, None, access)
    }

    /// As [`Chain::over`], of a format that is not to be guessed.
    pub fn over_as(
        storages: Vec<Arc<dyn Storage>>,
        format: Format,
        access: Access,
    ) -> Result<Self> {
        open::storages(storages, Some(format), access)
    }

    /// The leaf's file; an empty path for a chain over storages.
    pub fn leaf_path(&self) -> &Path {
        self.paths.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// The files, leaf first; empty for a chain over storages.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The format of every file.
    pub fn format(&self) -> Format {
        self.leaf.format()
    }

    /// Number of layers, the leaf included.
    pub fn depth(&self) -> usize {
        self.parents.depth() + 1
    }

    /// What a new child of a VHDX leaf takes over from it; constant while the chain is open. `None` for other formats.
    pub fn identity(&self) -> Option<vhdx::ParentIdentity> {
        match &self.leaf {
            Layer::Vhdx(leaf) => Some(leaf.as_parent()),
            _ => None,
        }
    }

    /// Lists where the bytes of a range lie, layer by layer: at most `limit` stretches, contiguous from `offset`.
    ///
    /// May stop before the end of the range; for a range and a limit that are not empty, at least one is returned.
    pub fn stretches(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Stretch>> {
        self.check("map", offset, length)?;
        let mut stretches: Vec<Stretch> = Vec::new();
        let outcome = self.visit(offset..offset + length, |at, length, source| {
            let held = self.held(source);
            let full = stretches.len() == limit;
            match stretches.last_mut() {
                Some(last) if last.is_followed_by(held) => last.length += length,
                _ if full => return Ok(false),
                _ => stretches.push(Stretch { offset: at, length, held }),
            }
            Ok(true)
        });
        outcome.map_err(|error| self.failed("map", offset)(error))?;
        Ok(stretches)
    }

    /// Makes everything durable and leaves the leaf's log empty, so that any reader can open it.
    pub fn close(self) -> Result<()> {
        if self.leaf.is_writable() { self.leaf.settle() } else { Ok(()) }
    }

    /// Puts a layer on top of a chain that is open for reading; their link is the caller's to know.
    pub(crate) fn under(mut self, leaf: Layer) -> Self {
        self.parents.push(self.leaf);
        Self { leaf, paths: Vec::new(), ..self }
    }

    /// One layer without its parents.
    pub(crate) fn of_layer(leaf: Layer) -> Self {
        Self { leaf, parents: Index::new(Vec::new()), paths: Vec::new() }
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

    /// Calls `visit(offset, length, source)` for what lies in a range, until it answers `false` or many blocks were looked at.
    fn visit(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(u64, u64, Source) -> Result<bool>,
    ) -> Result<()> {
        let block = u64::from(self.leaf.block_size());
        let (mut at, mut runs) = (range.start, Vec::new());
        for _ in 0..EXTENT_BLOCKS {
            if at >= range.end {
                break;
            }
            let end = (at / block + 1).saturating_mul(block).min(range.end);
            runs.clear();
            self.leaf.map(at..end, &mut runs)?;
            for Run { length, place } in runs.drain(..) {
                let go_on = match place {
                    Place::Here(place) => visit(at, length, self.parents.source_above(place))?,
                    Place::Zero => visit(at, length, Source::Zero)?,
                    Place::Below => self.parents.visit(at..at + length, &mut visit)?,
                };
                if !go_on {
                    return Ok(());
                }
                at += length;
            }
        }
        Ok(())
    }

    /// Lists extents; `data` adds those of bytes that lie in a file, and returns whether there was room for them.
    fn list_extents(
        &self,
        range: Range<u64>,
        limit: usize,
        data: impl Fn(DataPlace, u64, &mut AddExtent) -> Result<bool>,
    ) -> Result<Vec<Extent>> {
        self.check("map", range.start, range.end - range.start)?;
        let (mut extents, mut end): (Vec<Extent>, u64) = (Vec::new(), range.start);
        let mut add = |length, kind| {
            let full = extents.len() == limit;
            match extents.last_mut() {
                Some(last) if last.kind == kind => last.length += length,
                _ if full => return false,
                _ => extents.push(Extent { offset: end, length, kind }),
            }
            end += length;
            true
        };
        let outcome = self.visit(range.clone(), |_, length, source| match source {
            Source::Data { layer, at } => data(DataPlace { layer, at }, length, &mut add),
            Source::Zero => Ok(add(length, ExtentKind::Zero)),
            Source::Absent => Ok(add(length, ExtentKind::Absent)),
        });
        outcome.map_err(|error| self.failed("map", range.start)(error))?;
        Ok(extents)
    }

    /// Adds the holes and the data of bytes in a file.
    fn part_by_holes(&self, place: DataPlace, length: u64, add: &mut AddExtent) -> Result<bool> {
        let file = self.parents.layer(place.layer).unwrap_or(&self.leaf);
        let (mut at, end) = (place.at, place.at + length);
        while at < end {
            let data = file.next_data(at)?.unwrap_or(end..end);
            let start = data.start.clamp(at, end);
            let kind = match start - at {
                MIN_HOLE.. => ExtentKind::Zero,
                _ => ExtentKind::Data,
            };
            let stop = data.end.clamp(start, end);
            if (start > at && !add(start - at, kind))
                || (stop > start && !add(stop - start, ExtentKind::Data))
            {
                return Ok(false);
            }
            at = stop;
        }
        Ok(true)
    }

    fn held(&self, source: Source) -> Held {
        match source {
            Source::Data { layer, at } => {
                Held::In { layer: self.parents.depth() - layer as usize, at }
            }
            Source::Zero => Held::Zero,
            Source::Absent => Held::Nowhere,
        }
    }
}

impl Disk for Chain {
    fn geometry(&self) -> Geometry {
        self.leaf.geometry()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check("read", offset, buffer.len() as u64)?;
        let outcome = self.leaf.read(offset, buffer, &self.parents);
        outcome.map_err(|error| self.failed("read", offset)(error))
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
        self.list_extents(offset..offset.saturating_add(length), limit, |_, length, add| {
            Ok(add(length, ExtentKind::Data))
        })
    }

    fn extents_and_holes(&self, offset: u64, length: u64, limit: usize) -> Result<Vec<Extent>> {
        self.list_extents(offset..offset.saturating_add(length), limit, |place, length, add| {
            self.part_by_holes(place, length, add)
        })
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

/// Where some bytes of a chain lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where it starts on the virtual disk, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; never 0.
    pub length: u64,
    /// Who holds it.
    pub held: Held,
}

/// Who holds some bytes of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// A file of the chain.
    In {
        /// Number of the file, 0 for the leaf.
        layer: usize,
        /// Where in the file, in bytes.
        at: u64,
    },
    /// No file: a layer says that it is zeros.
    Zero,
    /// No file: no layer knows it. Reads as zeros.
    Nowhere,
}

impl Stretch {
    /// Whether bytes held there, right behind this stretch, belong to it.
    pub fn is_followed_by(&self, held: Held) -> bool {
        match (self.held, held) {
            (Held::In { layer, at }, Held::In { layer: next_layer, at: next }) => {
                layer == next_layer && at + self.length == next
            }
            (held, next) => held == next,
        }
    }
}
