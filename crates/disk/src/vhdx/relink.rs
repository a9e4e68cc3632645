//! Changing what a child says of its parent.
//!
//! Through the log, so that the old or the new parent locator is there after a crash. DataWriteGuid stays: the file's own
//! children are not affected.

use super::layer::Layer;
use super::locator::{self, Locator};
use super::metadata;
use crate::error::{Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::layer::NewLink;

impl Layer {
    /// Changes the parent's paths, and its identity where that is given. Not durable before the next flush.
    pub(crate) fn relink(&self, link: &NewLink) -> Result<()> {
        let (relative, absolute) = (&link.relative_path, link.absolute_path.as_deref());
        std::iter::once(&**relative).chain(absolute).try_for_each(locator::check_path)?;
        self.change_locator(|locator| {
            locator.set_paths(relative, absolute);
            if let Some(identity) = link.identity {
                locator.set_linkage(identity);
            }
        })
    }

    /// Accepts either DataWriteGuid as the parent's. Not durable before the next flush.
    pub(crate) fn accept_parents(&self, first: Guid, second: Guid) -> Result<()> {
        self.change_locator(|locator| {
            locator.set_linkage(first);
            locator.set_linkage2(second);
        })
    }

    fn change_locator(&self, change: impl FnOnce(&mut Locator)) -> Result<()> {
        let no_parent = || Error::new(ErrorKind::Unsupported, "the disk has no parent");
        let mut locator = self.metadata.locator.clone().ok_or_else(no_parent)?;
        change(&mut locator);
        let pages = metadata::relocate(&*self.storage, &self.regions.metadata, &locator)?;
        self.publish_pages(pages, None)
    }
}
