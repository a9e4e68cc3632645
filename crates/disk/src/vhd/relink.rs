//! Changing where a child says its parent is; the unique id, and so the content, stays.
//!
//! ```text
//!   footer ──► header ─► old names                        1. new names, and a header that points to them, written
//!   footer ──────────────────────► header ─► new names    2. footer switched: one sector
//!   footer ──► header ─► new names                        3. old header overwritten, footer switched back
//! ```
//! A header is two sectors, which a power cut may tear; the footer is one. Between the steps everything is synced, so that the
//! footer at the end always names a header that is whole.

use std::sync::Arc;

use super::commit::Ground;
use super::header::HEADER;
use super::layer::{Body, Layer};
use super::locator::{self, Names};
use super::sparse::Sparse;
use crate::error::{During, Error, ErrorKind, Result};
use crate::layer::NewLink;
use crate::storage::Storage;

/// Makes `relative_path` the only path a child has of its parent; durable on return. For files there is [`crate::relink()`].
///
/// The old or the new path is there after a crash. Nobody else uses the storage meanwhile. Fails with
/// [`ErrorKind::Unsupported`] when the disk has no parent.
pub fn set_parent_path(storage: Arc<dyn Storage>, relative_path: &str) -> Result<()> {
    let layer = Layer::open(storage.clone())?.into_writable(storage)?;
    layer.relink(&NewLink {
        relative_path: relative_path.to_owned(),
        absolute_path: None,
        identity: None,
        modified: None,
    })?;
    layer.settle()
}

impl Layer {
    /// Changes what is known of the parent, durably.
    pub(crate) fn relink(&self, link: &NewLink) -> Result<()> {
        let absolute_path = link.absolute_path.as_deref();
        std::iter::once(&*link.relative_path)
            .chain(absolute_path)
            .try_for_each(locator::check_path)?;
        match &self.body {
            Body::Sparse(sparse) if sparse.parent().is_some() => sparse.relink(link),
            _ => Err(Error::new(ErrorKind::Unsupported, "the disk has no parent")),
        }
    }
}

impl Sparse {
    fn relink(&self, link: &NewLink) -> Result<()> {
        let writer = self.writer()?;
        let names = Names::new(&link.relative_path, link.absolute_path.as_deref());
        let bound = self.header.table_offset();
        let place =
            self.allocate(|space| space.take_metadata(HEADER + names.length(), bound))?.place;

        let mut header = self.header.clone();
        header.set_parent(
            link.identity.unwrap_or(header.parent_unique_id()),
            link.modified.unwrap_or(header.parent_modified()),
        );
        let names = names.place(place.start + HEADER, &mut header);
        let bytes = [header.record().as_slice(), &names].concat();
        self.storage.write_at(place.start, &bytes).during("write the parent's names")?;
        self.sync(writer)?;

        let mut ground = writer.ground.lock();
        let usual = ground.footer.header_offset();
        self.switch_header(&mut ground, place.start)?;
        self.storage.write_at(usual, header.record()).during("write the dynamic header")?;
        self.sync(writer)?;
        self.switch_header(&mut ground, usual)?;
        if let Some(space) = &mut ground.space {
            space.free(place.start..place.start + HEADER);
        }
        Ok(())
    }

    /// Makes the footer name another header, durably.
    fn switch_header(&self, ground: &mut Ground, offset: u64) -> Result<()> {
        let mut footer = ground.footer.clone();
        footer.set_header_offset(offset);
        let at = self.limit.load(std::sync::atomic::Ordering::Acquire);
        self.storage.write_at(at, footer.record()).during("write the footer")?;
        self.sync(self.writer()?)?;
        ground.footer = footer;
        Ok(())
    }
}
