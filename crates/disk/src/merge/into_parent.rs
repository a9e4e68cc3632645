//! A child's bytes into its parent, in place: a crash at any moment leaves a disk that reads as before.
//!
//! ```text
//!                                             child accepts    parent is
//!   1. the child accepts another parent too      L or G            L
//!   2. the parent becomes that one, as large     L or G            G
//!   3. bytes are copied                          L or G            G       the child hides what changes
//!   4. the child accepts a parent like itself    G or C            G
//!   5. the parent takes the child's identity     G or C            C       the child's children accept it
//!   6. the child is deleted                                        C
//! ```
//! L and C are the DataWriteGuids that parent and child began with, G is new. They tell how far a merge came, and whoever calls
//! again goes on there. Each step is durable before the next begins. At every moment the child accepts its parent, and reads as it always did.
//!
//! A VHD's unique id says nothing of its bytes: there, steps 1, 2 and 4 change nothing, a second call copies all again, and a
//! child accepts a parent with its own id.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::siblings;
use crate::chain::{Access, Chain};
use crate::copy::{Onto, copy};
use crate::error::{During, Error, ErrorKind, Result};
use crate::format::Format;
use crate::guid::Guid;
use crate::layer::Layer;
use crate::publish;
use crate::storage::{FileStorage, Lock, Storage};
use crate::watch::Watch;

/// Merges the first file of a chain, leaf first and complete, into the second, and deletes it; durable on return.
///
/// The parent then holds the child's bytes and has its identity, so that the child's own children are the parent's: only the path
/// they know is stale, see [`crate::relink()`]. When it fails, is cancelled or loses power, the chain reads as before, and a second call goes on
/// where the first one stopped. Progress counts bytes of data.
///
/// Another child of the parent would be damaged: the folders of both files, and `folders`, are searched for one, and it is
/// named in an error of kind [`ErrorKind::ParentMismatch`]. Fails with [`ErrorKind::InUse`] while anybody has one of the two
/// files open.
pub fn into_parent(chain: &[PathBuf], folders: &[PathBuf], watch: &dyn Watch) -> Result<()> {
    let [child, parent, ..] = chain else { return Err(no_parent()) };
    let merge = || {
        let files = open(chain)?;
        let storages = files.iter().map(|file| file.clone() as Arc<dyn Storage>);
        let merge = Merge::begin(storages.collect())?;
        if !matches!(merge.stage, Stage::Merged) {
            let near = [publish::folder_of(child), publish::folder_of(parent)];
            let folders = near.into_iter().chain(folders.iter().map(PathBuf::as_path));
            siblings::refuse(folders, &files, &merge.identities, merge.own)?;
        }
        merge.run(watch)?;
        fs::remove_file(child).during(format_args!("delete {}", child.display()))?;
        publish::sync_folder(child)
    };
    merge().map_err(|error: Error| {
        error.context(format!("merge {} into {}", child.display(), parent.display()))
    })
}

/// As [`into_parent`], for storages that nobody else uses meanwhile, without locks. Deleting the child is left to the caller.
pub fn storages_into_parent(chain: Vec<Arc<dyn Storage>>, watch: &dyn Watch) -> Result<()> {
    Merge::begin(chain)?.run(watch)
}

fn open(chain: &[PathBuf]) -> Result<Vec<Arc<FileStorage>>> {
    let lock = |index| if index < 2 { Lock::Write } else { Lock::Read };
    let open =
        |(index, path): (usize, &PathBuf)| Ok(Arc::new(FileStorage::open(path, lock(index))?));
    chain.iter().enumerate().map(open).collect()
}

/// A merge that may have begun before.
struct Merge {
    child_file: Arc<dyn Storage>,
    parent_file: Arc<dyn Storage>,
    child: Layer,
    /// The parent and its parents, open for reading.
    parents: Chain,
    stage: Stage,
    /// What the child is known by.
    own: Guid,
    /// What the parent is known by, and was.
    identities: [Guid; 2],
}

/// How far it came.
enum Stage {
    /// Nothing is changed yet.
    New,
    /// Steps 1 and 2 are done; some bytes may be copied.
    Copying,
    /// Step 4 is done.
    Copied,
    /// Step 5 is done.
    Merged,
}

impl Merge {
    fn begin(chain: Vec<Arc<dyn Storage>>) -> Result<Self> {
        let [child_file, parent_file, ..] = &chain[..] else { return Err(no_parent()) };
        let (child_file, parent_file) = (child_file.clone(), parent_file.clone());
        let child = Layer::open(child_file.clone(), Format::required(&*child_file)?)?;
        let parents = Chain::over(chain[1..].to_vec(), Access::ReadOnly)?;
        child.check_parent(&parents.leaf)?;
        let (Some(own), Some(found)) = (child.identity(), parents.leaf.identity()) else {
            return Err(no_parent());
        };
        let (first, second) = child.parent_identities().ok_or_else(no_parent)?;
        let stage = match second {
            Some(second) if second == own && found == own => Stage::Merged,
            Some(second) if second == own && found == first => Stage::Copied,
            Some(second) if second == found => Stage::Copying,
            _ => Stage::New,
        };
        let identities = [found, first];
        Ok(Self { child_file, parent_file, child, parents, stage, own, identities })
    }

    fn run(self, watch: &dyn Watch) -> Result<()> {
        match self.stage {
            Stage::New => {
                let agreed = self.parents.leaf.next_identity();
                self.copy(agreed, watch)
            }
            Stage::Copying => {
                let agreed = self.identities[0];
                self.copy(agreed, watch)
            }
            // What an earlier call wrote it may not have synced.
            Stage::Copied => {
                self.child_file.sync().during("sync the child")?;
                self.parents.leaf.into_writable_as(self.parent_file, self.own)?.settle()
            }
            Stage::Merged => self.parent_file.sync().during("sync the parent"),
        }
    }

    /// Steps 1 to 5, `agreed` being the parent's identity meanwhile.
    fn copy(self, agreed: Guid, watch: &dyn Watch) -> Result<()> {
        // The child hides only those of the parent's bytes that it has itself.
        let sound = self.parents.leaf.check_space();
        sound.map_err(|error| error.context("look for blocks of the parent that overlap"))?;
        // Beginning a session syncs what an earlier call did not.
        let child = self.child.into_maintained(self.child_file)?;
        child.accept_parents(self.identities[1], agreed)?;
        child.settle()?;

        let size = child.geometry().virtual_size;
        let mut target = self.parents;
        target.leaf =
            target.leaf.into_writable_as(self.parent_file, agreed)?.grown(size, agreed)?;
        let source = Chain::of_layer(child);
        copy(&source, &target, Onto::Disk, watch)?;
        target.leaf.settle()?;

        source.leaf.accept_parents(agreed, self.own)?;
        source.leaf.settle()?;
        target.leaf.settle_as(self.own)?;
        source.leaf.retire();
        Ok(())
    }
}

fn no_parent() -> Error {
    Error::new(ErrorKind::OutOfRange, "a child is merged into its parent; neither may be missing")
}
