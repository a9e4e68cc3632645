//! Containers' folders as other programs leave them: `Containers/NAME/NAME.vhdx`.
//!
//! ```text
//!   web/web.vhdx                               the disk
//!   web/web.vhdx ◄─ web/web_<guid>.avhdx       the disk is the checkpoint's, on top
//!   web/web.vhdx, web/data.vhdx                the disk, and a data disk called data
//! ```

use crate::data_disks::{DataDisk, DiskName};
use crate::error::{Error, Result};
use crate::index::key;
use crate::store::Store;
use crate::{chain, durable};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The disks in a container's folder: those that no other there stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDisks {
    /// The container's own.
    pub own: PathBuf,
    /// All others.
    pub data: Vec<DataDisk>,
}

/// A disk that no other in its folder stands on.
struct Leaf<'a> {
    file: &'a str,
    /// The lowest of the files in the folder that it is made of, without its suffix.
    stem: &'a str,
    /// That one stands on a file elsewhere.
    has_parent: bool,
}

impl Store {
    /// Finds the disks of a container's folder. The container's own is called as the folder is, or is
    /// the only one, or the only one that stands on an image.
    ///
    /// `None` where there is no disk. Fails with [`crate::ErrorKind::Conflict`] where there are
    /// several and none is known for the container's own, and with [`crate::ErrorKind::Corrupt`]
    /// where one cannot be read.
    pub fn disks_in(&self, folder: &Path) -> Result<Option<FoundDisks>> {
        let names = durable::names_in(folder)?;
        let mut parents = BTreeMap::new();
        for disk in names.iter().filter(|name| is_disk(name)) {
            let parent = chain::parent_name(&folder.join(disk))?.map(|name| key(&name));
            parents.insert(key(disk), (disk.as_str(), parent));
        }
        if parents.is_empty() {
            return Ok(None);
        }
        let leaves: Vec<_> = parents.keys().filter_map(|key| leaf(&parents, key)).collect();
        let own = own_of(&leaves, folder)?;
        let mut data: Vec<DataDisk> = Vec::new();
        for leaf in leaves.iter().filter(|leaf| leaf.file != own) {
            let is_free = |name: &DiskName| data.iter().all(|disk| !disk.name.is_same(name));
            let numbered = (1..).map(|number: u32| format!("disk{number}").parse());
            let name = std::iter::once(leaf.stem.parse()).chain(numbered).flatten().find(is_free);
            let path = folder.join(leaf.file);
            data.extend(name.map(|name| DataDisk { name, path }));
        }
        Ok(Some(FoundDisks { own: folder.join(own), data }))
    }
}

/// Disks' names, and their parents' as they are found by; by the same of their own.
type Parents<'a> = BTreeMap<String, (&'a str, Option<String>)>;

/// Looks at one disk; `None` where another stands on it.
fn leaf<'a>(parents: &Parents<'a>, key: &str) -> Option<Leaf<'a>> {
    if parents.values().any(|(_, parent)| parent.as_deref() == Some(key)) {
        return None;
    }
    let (file, parent) = parents.get(key)?;
    let (mut lowest, mut below) = (*file, parent);
    // No longer than there are files: the way down from a leaf may end in a circle.
    for _ in parents {
        let Some((file, parent)) = below.as_ref().and_then(|name| parents.get(name)) else { break };
        (lowest, below) = (*file, parent);
    }
    let stem = lowest.rsplit_once('.').map_or(lowest, |(stem, _)| stem);
    Some(Leaf { file, stem, has_parent: below.is_some() })
}

fn own_of<'a>(leaves: &[Leaf<'a>], folder: &Path) -> Result<&'a str> {
    let called = folder.file_name().map(|name| key(&name.to_string_lossy()));
    let only = |wanted: &dyn Fn(&Leaf<'_>) -> bool| {
        let mut found = leaves.iter().filter(|leaf| wanted(leaf));
        found.next().filter(|_| found.next().is_none()).map(|leaf| leaf.file)
    };
    let own = only(&|leaf| Some(key(leaf.stem)) == called)
        .or_else(|| only(&|_| true))
        .or_else(|| only(&|leaf| leaf.has_parent));
    own.ok_or_else(|| match leaves {
        [one, other, ..] => Error::conflict(format!(
            "{} has several disks that nothing stands on, among them {} and {}",
            folder.display(),
            one.file,
            other.file
        ))
        .hint("call the container's own disk as its folder is called"),
        _ => Error::corrupt(format!(
            "the disks in {} stand on each other in a circle",
            folder.display()
        )),
    })
}

fn is_disk(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.ends_with(".vhdx") || lower.ends_with(".avhdx")
}
