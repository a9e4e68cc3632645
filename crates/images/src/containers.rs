//! Containers' folders as other programs leave them: `Containers/NAME/NAME.vhdx`.
//!
//! ```text
//!   web/web.vhdx                               the disk
//!   web/web.vhdx ◄─ web/web_<guid>.avhdx       the disk is the checkpoint's, on top
//! ```

use crate::error::{Error, Result};
use crate::store::Store;
use crate::{chain, durable};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

impl Store {
    /// Finds the disk of a container's folder: the one that no other there stands on.
    ///
    /// `None` where there is no disk. Fails with [`crate::ErrorKind::Conflict`] where there are
    /// several, and with [`crate::ErrorKind::Corrupt`] where one cannot be read.
    pub fn leaf_in(&self, folder: &Path) -> Result<Option<PathBuf>> {
        let names = durable::names_in(folder)?;
        let disks: Vec<_> = names.iter().filter(|name| is_disk(name)).collect();
        let mut parents = BTreeSet::new();
        for disk in &disks {
            parents.extend(chain::parent_name(&folder.join(disk))?.map(|name| name.to_lowercase()));
        }
        let mut leaves = disks.iter().filter(|disk| !parents.contains(&disk.to_lowercase()));
        match (leaves.next(), leaves.next()) {
            (None, None) if disks.is_empty() => Ok(None),
            (Some(leaf), None) => Ok(Some(folder.join(leaf))),
            (None, _) => Err(Error::corrupt(format!(
                "the disks in {} stand on each other in a circle",
                folder.display()
            ))),
            (Some(one), Some(other)) => Err(Error::conflict(format!(
                "{} has several disks that nothing stands on, among them {one} and {other}",
                folder.display()
            ))
            .hint("move all but the container's own out of that folder")),
        }
    }
}

fn is_disk(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.ends_with(".vhdx") || lower.ends_with(".avhdx")
}
