//! Changing where a child says its parent is; the linkage, and so the content, stays.

use std::path::Path;
use std::sync::Arc;

use super::layer::Layer;
use super::locator;
use super::metadata;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{FileStorage, Lock, Storage};

/// Makes `relative_path` the only path in a child's parent locator; durable on return.
///
/// Through the log, so that the old or the new path is there after a crash. DataWriteGuid stays: the file's own children are not affected. Fails with
/// [`ErrorKind::InUse`] when the file is open elsewhere, [`ErrorKind::Unsupported`] when it has no parent.
pub fn set_parent_path(path: &Path, relative_path: &str) -> Result<()> {
    let relink = || {
        let storage: Arc<dyn Storage> = Arc::new(FileStorage::open(path, Lock::Write)?);
        let layer = Layer::open(storage.clone())?.into_maintained(storage)?;
        layer.relink(relative_path)?;
        layer.settle()
    };
    relink().map_err(|error| error.context(format!("relink {}", path.display())))
}

impl Layer {
    /// Changes the parent's path through the log. Not durable before the next flush.
    pub(crate) fn relink(&self, relative_path: &str) -> Result<()> {
        locator::check_path(relative_path)?;
        let no_parent = || Error::new(ErrorKind::Unsupported, "the disk has no parent");
        let mut locator = self.metadata.locator.clone().ok_or_else(no_parent)?;
        locator.set_relative_path(relative_path);
        let pages = metadata::relocate(&*self.storage, &self.regions.metadata, &locator)?;
        self.publish_pages(pages)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChildOptions, CreateOptions, create, create_child, info};
    use super::*;

    #[test]
    fn the_path_changes_and_nothing_else_a_reader_sees() {
        let folder = tempfile::tempdir().unwrap();
        let (base, child) = (folder.path().join("base.vhdx"), folder.path().join("child.vhdx"));
        create(&base, &CreateOptions::new(1 << 30)).unwrap();
        create_child(&child, &base, r"..\base.vhdx", &ChildOptions::default()).unwrap();
        let before = info(&child).unwrap();
        set_parent_path(&child, r".\base.vhdx").unwrap();
        let after = info(&child).unwrap();
        assert_eq!(after.parent.as_ref().unwrap().relative_path.as_deref(), Some(r".\base.vhdx"));
        assert_eq!(after.data_write_guid, before.data_write_guid);
        assert_ne!(after.file_write_guid, before.file_write_guid);
        assert!(!after.dirty_log);
        assert_eq!(set_parent_path(&base, "x").unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
