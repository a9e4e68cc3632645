//! One file of a chain, whatever its format.
//!
//! A layer holds some of its virtual disk's bytes and says of the others that they are zeros or its
//! parent's. What a format makes of that is its own affair; here is what a chain asks of all of them.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use crate::disk::Geometry;
use crate::error::{During, Error, ErrorKind, Result};
use crate::format::Format;
use crate::guid::Guid;
use crate::storage::Storage;
use crate::{raw, vhd, vhdx};

/// Where a run of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In this file, at this offset.
    Here(u64),
    /// Nowhere; it is zeros by this layer's word.
    Zero,
    /// In the parent, if there is one.
    Below,
}

/// Bytes of the virtual disk that lie in one place; runs follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// In bytes, at least 1.
    pub length: u64,
    pub place: Place,
}

/// The layers under a writable one, read as a disk.
pub(crate) trait Below {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
    /// Whether the range is known to read as zeros without reading it.
    fn is_zero(&self, range: Range<u64>) -> Result<bool>;
}

/// Why a range becomes zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clearing {
    /// The guest wants zeros: every byte.
    Zeroes,
    /// The guest no longer cares: whole blocks, and parts where it is free of cost.
    Discard,
}

/// What a child is to say of its parent.
#[derive(Clone, Debug)]
pub(crate) struct NewLink {
    /// Seen from the child's folder, with backslashes.
    pub relative_path: String,
    /// On a Windows machine.
    pub absolute_path: Option<String>,
    /// What the parent's content is recognised by; `None` leaves it as it is.
    pub identity: Option<Guid>,
    /// When the parent's file was last written to; `None` leaves it as it is. VHD only.
    pub modified: Option<SystemTime>,
}

/// An open file of a chain.
pub(crate) enum Layer {
    Vhdx(Box<vhdx::layer::Layer>),
    Vhd(Box<vhd::layer::Layer>),
    Raw(raw::Layer),
}

impl From<vhdx::layer::Layer> for Layer {
    fn from(layer: vhdx::layer::Layer) -> Self {
        Self::Vhdx(Box::new(layer))
    }
}

impl From<vhd::layer::Layer> for Layer {
    fn from(layer: vhd::layer::Layer) -> Self {
        Self::Vhd(Box::new(layer))
    }
}

/// The same call on whichever format it is.
macro_rules! of_format {
    ($layer:expr, $inner:ident => $call:expr) => {
        match $layer {
            Layer::Vhdx($inner) => $call,
            Layer::Vhd($inner) => $call,
            Layer::Raw($inner) => $call,
        }
    };
}

impl Layer {
    /// Opens a file for reading, whatever its size.
    pub fn open(file: Arc<dyn Storage>, format: Format) -> Result<Self> {
        match format {
            Format::Vhdx => vhdx::layer::Layer::open(file).map(Self::from),
            Format::Vhd => vhd::layer::Layer::open(file).map(Self::from),
            Format::Raw => raw::Layer::open(file).map(Self::Raw),
        }
    }

    /// As [`Layer::open`], without a look at those checksums that a tool may have forgotten: VHD's.
    pub fn open_ignoring_checksums(file: Arc<dyn Storage>, format: Format) -> Result<Self> {
        match format {
            Format::Vhd => vhd::layer::Layer::open_ignoring_checksums(file).map(Self::from),
            Format::Vhdx | Format::Raw => Self::open(file, format),
        }
    }

    /// Makes the disk ready to be written; `file` is what the layer was opened on, and writable.
    pub fn into_writable(self, file: Arc<dyn Storage>) -> Result<Self> {
        match self {
            Self::Vhdx(layer) => layer.into_writable(file).map(Self::from),
            Self::Vhd(layer) => layer.into_writable(file).map(Self::from),
            Self::Raw(layer) => layer.into_writable(file).map(Self::Raw),
        }
    }

    /// As [`Layer::into_writable`]; children of the file are to recognise it by `identity` from now on, where writing changes
    /// by what they do.
    pub fn into_writable_as(self, file: Arc<dyn Storage>, identity: Guid) -> Result<Self> {
        match self {
            Self::Vhdx(layer) => layer.into_writable_as(file, identity).map(Self::from),
            Self::Vhd(layer) => layer.into_writable(file).map(Self::from),
            Self::Raw(layer) => layer.into_writable(file).map(Self::Raw),
        }
    }

    /// Makes the file ready for changes that no reader of the disk sees: its children stay linked.
    pub fn into_maintained(self, file: Arc<dyn Storage>) -> Result<Self> {
        match self {
            Self::Vhdx(layer) => layer.into_maintained(file).map(Self::from),
            Self::Vhd(layer) => layer.into_writable(file).map(Self::from),
            Self::Raw(layer) => layer.into_writable(file).map(Self::Raw),
        }
    }

    /// Bounds the metadata kept in memory, in pages of 4 KiB; for the parents of long chains.
    pub fn with_page_limit(self, limit: usize) -> Self {
        match self {
            Self::Vhdx(layer) => layer.with_page_limit(limit).into(),
            Self::Vhd(layer) => layer.with_page_limit(limit).into(),
            Self::Raw(layer) => Self::Raw(layer),
        }
    }

    pub fn format(&self) -> Format {
        match self {
            Self::Vhdx(_) => Format::Vhdx,
            Self::Vhd(_) => Format::Vhd,
            Self::Raw(_) => Format::Raw,
        }
    }

    pub fn geometry(&self) -> Geometry {
        of_format!(self, layer => layer.geometry())
    }

    /// The unit in which space is taken, in bytes.
    pub fn block_size(&self) -> u32 {
        of_format!(self, layer => layer.block_size())
    }

    pub fn is_writable(&self) -> bool {
        of_format!(self, layer => layer.is_writable())
    }

    /// Whether it needs a parent to be read.
    pub fn has_parent(&self) -> bool {
        match self {
            Self::Vhdx(layer) => layer.parent().is_some(),
            Self::Vhd(layer) => layer.parent().is_some(),
            Self::Raw(_) => false,
        }
    }

    /// File names, without folders, that the parent may have; the likeliest first.
    pub fn parent_names(&self) -> Vec<String> {
        match self {
            Self::Vhdx(layer) => {
                layer.parent().and_then(|link| link.base_name()).into_iter().collect()
            }
            Self::Vhd(layer) => layer.parent().map_or_else(Vec::new, |link| link.base_names()),
            Self::Raw(_) => Vec::new(),
        }
    }

    /// What children recognise the file's content by; `None` when it can have none.
    pub fn identity(&self) -> Option<Guid> {
        match self {
            Self::Vhdx(layer) => Some(layer.data_write_guid()),
            Self::Vhd(layer) => Some(layer.unique_id()),
            Self::Raw(_) => None,
        }
    }

    /// What children could recognise the file by once it is written to; for a VHD, the same.
    pub fn next_identity(&self) -> Guid {
        match self {
            Self::Vhd(layer) => layer.unique_id(),
            Self::Vhdx(_) | Self::Raw(_) => Guid::random(),
        }
    }

    /// Whether a file with one of these identities is its parent.
    pub fn is_child_of(&self, identities: &[Guid]) -> bool {
        match self {
            Self::Vhdx(layer) => layer
                .parent()
                .is_some_and(|link| identities.iter().any(|&identity| link.accepts(identity))),
            Self::Vhd(layer) => {
                layer.parent().is_some_and(|link| identities.contains(&link.unique_id))
            }
            Self::Raw(_) => false,
        }
    }

    /// What the parent is recognised by: either of them. `None` for a file without parent.
    pub fn parent_identities(&self) -> Option<(Guid, Option<Guid>)> {
        match self {
            Self::Vhdx(layer) => layer.parent().map(|link| (link.linkage, link.linkage2)),
            Self::Vhd(layer) => layer.parent().map(|link| (link.unique_id, None)),
            Self::Raw(_) => None,
        }
    }

    /// Accepts either identity as the parent's, where writing to a parent changes it. Not durable before it is settled.
    pub fn accept_parents(&self, first: Guid, second: Guid) -> Result<()> {
        match self {
            Self::Vhdx(layer) => layer.accept_parents(first, second),
            Self::Vhd(_) | Self::Raw(_) => Ok(()),
        }
    }

    /// Changes what a child says of its parent. Not durable before it is settled.
    pub fn relink(&self, link: &NewLink) -> Result<()> {
        match self {
            Self::Vhdx(layer) => layer.relink(link),
            Self::Vhd(layer) => layer.relink(link),
            Self::Raw(_) => Err(Error::new(ErrorKind::Unsupported, "a raw disk has no parent")),
        }
    }

    /// Checks that `parent` is the file this one was made from.
    ///
    /// Fails with [`ErrorKind::ParentMismatch`] where it is another one, or another version of it.
    pub fn check_parent(&self, parent: &Self) -> Result<()> {
        self.check_linkage(parent)?;
        self.check_geometry(parent)
    }

    /// Checks that `parent` holds the bytes that this file was made over.
    pub fn check_linkage(&self, parent: &Self) -> Result<()> {
        match (self, parent) {
            (Self::Vhdx(child), Self::Vhdx(parent)) => child.check_parent(parent),
            (Self::Vhd(child), Self::Vhd(parent)) => child.check_parent(parent),
            (child, parent) => {
                let (child, parent) = (child.format(), parent.format());
                let message = format!("a {child} file has no {parent} file as its parent");
                Err(Error::new(ErrorKind::ParentMismatch, message))
            }
        }
    }

    /// Checks that size and sectors of `parent` go with this file's.
    pub fn check_geometry(&self, parent: &Self) -> Result<()> {
        let mismatch = |message: String| Err(Error::new(ErrorKind::ParentMismatch, message));
        let (child, parent) = (self.geometry(), parent.geometry());
        if child.logical_sector != parent.logical_sector {
            return mismatch(format!(
                "the child has sectors of {} bytes, the parent of {}",
                child.logical_sector, parent.logical_sector
            ));
        }
        if child.virtual_size < parent.virtual_size {
            return mismatch(format!(
                "the child is a disk of {} bytes, smaller than the parent's {}",
                child.virtual_size, parent.virtual_size
            ));
        }
        Ok(())
    }

    /// Fails with [`ErrorKind::Corrupt`] where blocks of the file share space: a write to one would change the other.
    ///
    /// Takes a look at all blocks, which opening does not: for verbs that promise to keep what the disk reads.
    pub fn check_space(&self) -> Result<()> {
        match self {
            Self::Vhdx(layer) => layer.check_space(),
            Self::Vhd(layer) => layer.check_space(),
            Self::Raw(_) => Ok(()),
        }
    }

    /// Appends the runs of a range of the virtual disk. What lies past this layer's disk is below.
    pub fn map(&self, range: Range<u64>, runs: &mut Vec<Run>) -> Result<()> {
        of_format!(self, layer => layer.map(range, runs))
    }

    /// Reads bytes of this file that a [`Place::Here`] pointed at.
    pub fn read_here(&self, place: u64, buffer: &mut [u8]) -> Result<()> {
        of_format!(self, layer => layer.read_here(place, buffer))
    }

    /// Returns the next range of the file at or after `place` that may hold other bytes than zeros; `None` when there is none.
    pub fn next_data(&self, place: u64) -> Result<Option<Range<u64>>> {
        of_format!(self, layer => layer.storage().next_data(place)).during("look for holes")
    }

    /// Reads through this layer and those below; the range lies within the disk.
    pub fn read(&self, offset: u64, buffer: &mut [u8], below: &dyn Below) -> Result<()> {
        match self {
            Self::Vhdx(layer) => layer.read(offset, buffer, below),
            Self::Vhd(layer) => layer.read(offset, buffer, below),
            Self::Raw(layer) => layer.read_here(offset, buffer),
        }
    }

    /// Writes bytes; the range lies within the disk.
    pub fn write(&self, offset: u64, data: &[u8], below: &dyn Below) -> Result<()> {
        match self {
            Self::Vhdx(layer) => layer.write(offset, data, below),
            Self::Vhd(layer) => layer.write(offset, data, below),
            Self::Raw(layer) => layer.write(offset, data),
        }
    }

    /// Makes a range zeros.
    pub fn clear(&self, range: Range<u64>, how: Clearing, below: &dyn Below) -> Result<()> {
        match self {
            Self::Vhdx(layer) => layer.clear(range, how, below),
            Self::Vhd(layer) => layer.clear(range, how, below),
            Self::Raw(layer) => layer.clear(range),
        }
    }

    /// Makes every completed change durable.
    pub fn flush(&self) -> Result<()> {
        of_format!(self, layer => layer.flush())
    }

    /// Makes everything durable and leaves the file as one that was closed. It can still be written afterwards.
    pub fn settle(&self) -> Result<()> {
        of_format!(self, layer => layer.settle())
    }

    /// Makes a writable disk at least `size` bytes long, without an identity other than `identity` meanwhile; durable on return.
    pub fn grown(self, size: u64, identity: Guid) -> Result<Self> {
        match self {
            layer if layer.geometry().virtual_size >= size => Ok(layer),
            Self::Vhdx(layer) => layer.grown(size, identity).map(Self::from),
            Self::Vhd(layer) => layer.grown(size, identity).map(Self::from),
            Self::Raw(_) => {
                Err(Error::new(ErrorKind::Unsupported, "a raw disk is as long as its file"))
            }
        }
    }

    /// Settles, and then gives the file the identity by which its children are to recognise it; durable on return.
    pub fn settle_as(self, identity: Guid) -> Result<()> {
        match self {
            Self::Vhdx(layer) => layer.settle_as(identity),
            Self::Vhd(layer) => layer.settle_as(identity),
            Self::Raw(layer) => layer.settle(),
        }
    }

    /// Lets go of a file without settling it: it is settled, or of no use.
    pub fn retire(self) {
        match self {
            Self::Vhdx(layer) => layer.retire(),
            Self::Vhd(layer) => layer.retire(),
            Self::Raw(_) => {}
        }
    }
}
