//! What containers' disks say of themselves, kept for as long as the files are as they were.
//!
//! Opening a disk takes a dozen reads. Who lists a thousand containers looks at each file's times instead.

use crate::error::{During, Result};
use crate::layer_file;
use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A file that was changed this recently could be changed again without its times showing it: they are as coarse as the
/// kernel's clock.
const SETTLED: Duration = Duration::from_secs(1);
/// Disks that are remembered; more than anybody has containers.
const MOST: usize = 100_000;

/// Names of parents by the disk.
#[derive(Debug, Default)]
pub(crate) struct LeafFacts(Mutex<HashMap<PathBuf, (Stamp, Option<String>)>>);

/// What changes with a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What a disk says of itself.
pub(crate) struct Leaf {
    /// Its parent's base name, as the locator has it.
    pub parent: Option<String>,
    /// Bytes it takes on the host.
    pub allocated: u64,
}

impl LeafFacts {
    /// Reads what a disk says, or remembers it.
    pub fn of(&self, disk: &Path) -> Result<Leaf> {
        self.of_at(disk, SystemTime::now())
    }

    fn of_at(&self, disk: &Path, now: SystemTime) -> Result<Leaf> {
        let file = std::fs::metadata(disk).during(|| format!("look at {}", disk.display()))?;
        let (stamp, allocated) = (Stamp::of(&file), file.blocks() * 512);
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(disk).cloned();
        if let Some((known, parent)) = known
            && known == stamp
        {
            return Ok(Leaf { parent, allocated });
        }
        let parent = layer_file::parent_name(&layer_file::info(disk)?, disk)?;
        if stamp.is_settled(now) {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(disk.to_owned(), (stamp, parent.clone()));
        }
        Ok(Leaf { parent, allocated })
    }
}

impl Stamp {
    fn of(file: &Metadata) -> Stamp {
        Stamp {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let before = now.saturating_sub(SETTLED).as_secs() as i64;
        self.modified.0 < before && self.changed.0 < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};

    #[test]
    fn another_disk_in_the_place_of_a_known_one_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let [leaf, one, two] = ["leaf", "one", "two"].map(|name| folder.path().join(name));
        vhdx::create(&one, &CreateOptions::new(1 << 20)).unwrap();
        vhdx::create(&two, &CreateOptions::new(1 << 20)).unwrap();
        let facts = LeafFacts::default();
        let parent = |later| {
            let now = SystemTime::now() + Duration::from_secs(later);
            facts.of_at(&leaf, now).unwrap().parent
        };
        for (base, name) in [(&one, "one"), (&two, "two")] {
            let made = folder.path().join("made");
            vhdx::create_child(&made, base, name, &ChildOptions::default()).unwrap();
            std::fs::rename(&made, &leaf).unwrap();
            assert_eq!(parent(0).as_deref(), Some(name));
            assert_eq!(facts.0.lock().unwrap().len(), usize::from(name == "two"), "too fresh");
            assert_eq!([parent(60), parent(60)], [Some(name.to_owned()), Some(name.to_owned())]);
        }
    }
}
