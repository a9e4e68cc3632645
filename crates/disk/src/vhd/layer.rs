//! One open VHD file: what it is, and which of its virtual disk's bytes it holds.

use std::ops::Range;
use std::sync::Arc;

use super::bytes::Checksums;
use super::footer::{FOOTER, Footer, Found};
use super::sparse::Sparse;
use super::{Kind, ParentLink, SECTOR};
use crate::disk::Geometry;
use crate::error::{During, Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::layer::{Below, Clearing, Run};
use crate::raw;
use crate::storage::Storage;

/// An open file. Reading is possible at once; see [`Layer::into_writable`].
pub(crate) struct Layer {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) footer: Footer,
    pub(super) found: Found,
    pub(super) body: Body,
}

/// How a file holds its disk.
pub(super) enum Body {
    /// From beginning to end, before the footer.
    Fixed(raw::Layer),
    /// In blocks.
    Sparse(Box<Sparse>),
}

impl Layer {
    /// Opens a file; reads footer, header and the parent's names, whatever the disk's size.
    ///
    /// A file whose end a crash left without footer is opened by the copy at its beginning, and not changed.
    pub fn open(file: Arc<dyn Storage>) -> Result<Self> {
        Self::open_with(file, Checksums::Required)
    }

    /// As [`Layer::open`], without a look at the checksums of footer and header; for reading only.
    pub fn open_ignoring_checksums(file: Arc<dyn Storage>) -> Result<Self> {
        Self::open_with(file, Checksums::Ignored)
    }

    fn open_with(file: Arc<dyn Storage>, checksums: Checksums) -> Result<Self> {
        let (footer, found) = Footer::find(&*file, checksums)?;
        let body = match footer.kind() {
            Kind::Fixed => Body::Fixed(Self::open_fixed(file.clone(), &footer, found)?),
            Kind::Dynamic | Kind::Differencing => {
                Body::Sparse(Box::new(Sparse::open(file.clone(), &footer, found, checksums)?))
            }
        };
        Ok(Self { storage: file, footer, found, body })
    }

    fn open_fixed(file: Arc<dyn Storage>, footer: &Footer, found: Found) -> Result<raw::Layer> {
        let length = file.len().during("read the file's length")?;
        let footer_length = if found == Found::Short { FOOTER - 1 } else { FOOTER };
        // A new footer would change the disk's last bytes.
        if footer.virtual_size() > length - footer_length {
            return Err(Error::corrupt("the file is shorter than its disk with a footer"));
        }
        raw::Layer::beginning(file, footer.virtual_size())
    }

    /// Bounds the metadata kept in memory, in pages of 4 KiB; for the parents of long chains.
    pub fn with_page_limit(self, limit: usize) -> Self {
        let body = match self.body {
            Body::Sparse(sparse) => Body::Sparse(Box::new(sparse.with_page_limit(limit))),
            fixed @ Body::Fixed(_) => fixed,
        };
        Self { body, ..self }
    }

    /// Makes the disk ready to be written; both footers are right and durable then.
    ///
    /// `file` is what the layer was opened on, and writable. Fails with [`ErrorKind::Unsupported`] when the footer is one of the
    /// old kind that is a byte short.
    pub fn into_writable(self, file: Arc<dyn Storage>) -> Result<Self> {
        let Self { footer, found, body, .. } = self;
        let body = match body {
            Body::Fixed(_) if found == Found::Short => {
                let message = "the footer is of an old kind; the disk can be read and copied only";
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            Body::Fixed(fixed) => Body::Fixed(fixed.into_writable(file.clone())?),
            Body::Sparse(sparse) => {
                Body::Sparse(Box::new(sparse.into_writable(file.clone(), &footer, found)?))
            }
        };
        Ok(Self { storage: file, footer, found, body })
    }

    /// VHD knows no other sectors than those of 512 bytes.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            virtual_size: self.footer.virtual_size(),
            logical_sector: SECTOR as u32,
            physical_sector: SECTOR as u32,
        }
    }

    pub fn block_size(&self) -> u32 {
        match &self.body {
            Body::Fixed(fixed) => fixed.block_size(),
            Body::Sparse(sparse) => sparse.header.block_size(),
        }
    }

    pub fn unique_id(&self) -> Guid {
        self.footer.unique_id()
    }

    /// What the file knows of its parent; `None` for a base.
    pub fn parent(&self) -> Option<&ParentLink> {
        match &self.body {
            Body::Fixed(_) => None,
            Body::Sparse(sparse) => sparse.parent(),
        }
    }

    /// Checks that `parent` is the file this one was made over, by its unique id; or that this one was merged into it, which gave
    /// it this one's.
    ///
    /// Writing to a VHD does not change its id, so a parent that was written to since is not noticed.
    pub fn check_parent(&self, parent: &Self) -> Result<()> {
        let mismatch = |message| Err(Error::new(ErrorKind::ParentMismatch, message));
        let Some(link) = self.parent() else {
            return mismatch("the file has no parent".to_owned());
        };
        let found = parent.unique_id();
        match link.unique_id == found || self.unique_id() == found {
            true => Ok(()),
            false => mismatch(format!(
                "the child was made from a disk whose unique id is {}, not {found}",
                link.unique_id
            )),
        }
    }

    /// The file, as far as its bytes are the disk's.
    pub(crate) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    pub fn is_writable(&self) -> bool {
        match &self.body {
            Body::Fixed(fixed) => fixed.is_writable(),
            Body::Sparse(sparse) => sparse.writer.is_some(),
        }
    }

    /// Fails with [`ErrorKind::Corrupt`] where parts of the file share space: a write to one would change the other.
    ///
    /// Reads the whole table, which opening does not.
    pub fn check_space(&self) -> Result<()> {
        match &self.body {
            Body::Fixed(_) => Ok(()),
            Body::Sparse(sparse) => sparse.check_space(),
        }
    }

    /// Appends the runs of a range of the virtual disk. What lies past this layer's disk is below.
    pub fn map(&self, range: Range<u64>, runs: &mut Vec<Run>) -> Result<()> {
        match &self.body {
            Body::Fixed(fixed) => fixed.map(range, runs),
            Body::Sparse(sparse) => sparse.map(range, runs),
        }
    }

    /// Reads bytes of this file that a [`crate::layer::Place::Here`] pointed at.
    pub fn read_here(&self, place: u64, buffer: &mut [u8]) -> Result<()> {
        match &self.body {
            Body::Fixed(fixed) => fixed.read_here(place, buffer),
            Body::Sparse(sparse) => sparse.read_here(place, buffer),
        }
    }

    /// Reads through this layer and those below; the range lies within the disk.
    pub fn read(&self, offset: u64, buffer: &mut [u8], below: &dyn Below) -> Result<()> {
        match &self.body {
            Body::Fixed(fixed) => fixed.read_here(offset, buffer),
            Body::Sparse(sparse) => sparse.read(offset, buffer, below),
        }
    }

    /// Writes bytes; the range lies within the disk.
    pub fn write(&self, offset: u64, data: &[u8], below: &dyn Below) -> Result<()> {
        match &self.body {
            Body::Fixed(fixed) => fixed.write(offset, data),
            Body::Sparse(sparse) => sparse.write(offset, data, below),
        }
    }

    /// Makes a range zeros.
    pub fn clear(&self, range: Range<u64>, how: Clearing, below: &dyn Below) -> Result<()> {
        match &self.body {
            Body::Fixed(fixed) => fixed.clear(range),
            Body::Sparse(sparse) => sparse.clear(range, how, below),
        }
    }

    /// Settles, and then gives the file another unique id; durable on return.
    pub fn settle_as(self, unique_id: Guid) -> Result<()> {
        self.settle()?;
        match &self.body {
            Body::Fixed(fixed) => {
                let mut footer = self.footer.clone();
                footer.set_unique_id(unique_id);
                let length = self.storage.len().during("read the file's length")?;
                let written = self.storage.write_at(length - FOOTER, footer.record());
                written.during("write the footer")?;
                fixed.flush()
            }
            Body::Sparse(sparse) => sparse.change_footers(|footer| footer.set_unique_id(unique_id)),
        }
    }

    /// Lets go of a file without settling it: it is settled, or of no use.
    pub fn retire(mut self) {
        if let Body::Sparse(sparse) = &mut self.body {
            sparse.writer = None;
        }
    }

    /// Makes every completed change durable.
    pub fn flush(&self) -> Result<()> {
        match &self.body {
            Body::Fixed(fixed) => fixed.flush(),
            Body::Sparse(sparse) => sparse.flush(),
        }
    }

    /// Makes everything durable and cuts off what the file does not use. It can be written to afterwards.
    pub fn settle(&self) -> Result<()> {
        match &self.body {
            Body::Fixed(fixed) => fixed.settle(),
            Body::Sparse(sparse) => sparse.settle(),
        }
    }
}
