//! Freezing a leaf: it becomes an immutable file, and the disk goes on in a new child.
//!
//! ```text
//!   before                        after
//!   containers/c/web.vhdx         images/web_1.vhdx ◄── containers/c/web.vhdx
//!        the leaf                      the same file        a new, empty child
//! ```
//! No data moves. Steps, each durable before the next where a crash could tell the difference:
//!
//! 1. flush the leaf, rewrite its parent's path, leave its log empty;
//! 2. make the child beside the leaf as `<leaf>.next`, sync it and the folder;
//! 3. rename leaf → frozen: from here on there is no way but forward;
//! 4. rename next → leaf, sync both folders.
//!
//! [`recover`] finishes or undoes what a crash left: whether the frozen file is there decides.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::chain::Chain;
use crate::error::{During, Error, ErrorKind, Result};
use crate::layer::{self, NewLink};
use crate::publish::{beside, rename_new, sync_folder};
use crate::storage::{FileStorage, Lock, Storage};
use crate::vhdx::layer::Layer;
use crate::vhdx::{ChildOptions, format_child};

/// Where the parts of a frozen disk go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreezePlan {
    /// The frozen file's path: does not exist, on the leaf's file system.
    pub frozen: PathBuf,
    /// What the frozen file is to say of its own parent's place, seen from its new folder: `.\base.vhdx`.
    /// `None` leaves it as it is; so it must be for a base.
    pub frozen_parent: Option<String>,
    /// What the new leaf says of the frozen file's place: `..\..\images\web.vhdx`.
    pub next_parent: String,
}

/// What [`recover`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// The frozen file is there, the new leaf over it too.
    Forward,
    /// The leaf is there as if nothing had happened.
    Back,
}

/// Metadata pages kept of a layer that was frozen while its chain is open.
const FROZEN_PAGES: usize = 512;

/// What is ready when the first rename is due.
struct Prepared {
    /// The new leaf, open for writing.
    next: Layer,
    /// The old leaf, open for reading.
    frozen: Layer,
    frozen_file: Arc<FileStorage>,
}

/// A point between two steps, for tests that crash there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Settled,
    ChildMade,
    LeafMoved,
    ChildMoved,
}

impl Chain {
    /// Freezes the leaf under a new child, in time that depends on nothing the disk holds.
    ///
    /// The caller sees to it that no request is under way. Afterwards the chain is one layer deeper, its leaf
    /// has the same path as before, and the frozen file is complete, read-only (mode 0444) and has an empty log.
    ///
    /// A failure before the first rename leaves the chain usable as it was. When an error is returned and [`FreezePlan::frozen`]
    /// exists, the freeze took place and only its durability is in doubt.
    pub fn freeze(&mut self, plan: &FreezePlan) -> Result<()> {
        self.freeze_in_steps(plan, &mut |_| Ok(()))
            .map_err(|error| error.context(format!("freeze {}", self.leaf_path().display())))
    }

    pub(crate) fn freeze_in_steps(
        &mut self,
        plan: &FreezePlan,
        reached: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<()> {
        let Some(leaf_path) = self.paths.first().cloned() else {
            return Err(Error::new(ErrorKind::Unsupported, "only a chain of files can be frozen"));
        };
        let leaf = self.freezable_leaf()?;
        let next_path = next_path(&leaf_path);
        let old_link = leaf.parent().and_then(|link| link.relative_path.clone());
        let prepared = self
            .prepare(plan, &leaf_path, &next_path, reached)
            .and_then(|prepared| rename_new(&leaf_path, &plan.frozen).map(|()| prepared));
        let Prepared { next, frozen, frozen_file } = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.undo(plan, &next_path, old_link.as_deref());
                return Err(error);
            }
        };
        let finished = reached(Step::LeafMoved).and_then(|()| {
            fs::rename(&next_path, &leaf_path).during("put the new leaf into its place")
        });
        if let Err(error) = finished {
            // Still the only user of all three paths: back to where it began.
            drop(next);
            rename_new(&plan.frozen, &leaf_path)?;
            self.undo(plan, &next_path, old_link.as_deref());
            return Err(error);
        }
        // The old writer is settled and has nothing left to write; its lock ends here.
        std::mem::replace(&mut self.leaf, next.into()).retire();
        let locked = frozen_file.lock(Lock::Read);
        self.parents.push(frozen.into());
        self.paths.insert(1, plan.frozen.clone());
        reached(Step::ChildMoved)?;
        seal(&leaf_path, &plan.frozen)?;
        locked
    }

    fn freezable_leaf(&self) -> Result<&Layer> {
        match &self.leaf {
            layer::Layer::Vhdx(leaf) if leaf.is_writable() => Ok(leaf),
            layer::Layer::Vhdx(_) => {
                Err(Error::new(ErrorKind::ReadOnly, "the disk is open for reading"))
            }
            other => {
                let message =
                    format!("a {} file cannot be frozen in use; VHDX can", other.format());
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }

    /// Everything before the first rename.
    fn prepare(
        &self,
        plan: &FreezePlan,
        leaf_path: &Path,
        next_path: &Path,
        reached: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<Prepared> {
        if plan.frozen.symlink_metadata().is_ok() {
            let message = format!("{} exists already", plan.frozen.display());
            return Err(Error::new(ErrorKind::OutOfRange, message));
        }
        let leaf = self.freezable_leaf()?;
        if let Some(path) = &plan.frozen_parent {
            leaf.relink(&same_parent_at(path))?;
        }
        leaf.settle()?;
        reached(Step::Settled)?;

        // Left over from a freeze that a crash ended; the leaf is ours, so this is too.
        match fs::remove_file(next_path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            outcome => outcome.during("remove an unfinished child")?,
        }
        let file = Arc::new(FileStorage::create(next_path)?);
        let options = ChildOptions::default();
        format_child(&*file, &leaf.as_parent(), &plan.next_parent, &options)?;
        sync_folder(leaf_path)?;
        let file: Arc<dyn Storage> = file;
        let next = Layer::open(file.clone())?.into_writable(file)?;
        reached(Step::ChildMade)?;

        // Not locked yet: the writer's lock covers the file until the chain lets go of it.
        let frozen_file = Arc::new(FileStorage::open(leaf_path, Lock::None)?);
        let frozen = Layer::open(frozen_file.clone())?.with_page_limit(FROZEN_PAGES);
        Ok(Prepared { next, frozen, frozen_file })
    }

    /// Takes back what was prepared. The parent's path is put back as far as possible; stores find parents by name.
    fn undo(&self, plan: &FreezePlan, next_path: &Path, old_link: Option<&str>) {
        let _ = fs::remove_file(next_path);
        if let (Some(_), Some(path), Ok(leaf)) =
            (&plan.frozen_parent, old_link, self.freezable_leaf())
        {
            let _ = leaf.relink(&same_parent_at(path)).and_then(|()| leaf.flush());
        }
    }
}

/// Finishes or undoes a freeze that a crash or an error ended at any point.
///
/// `leaf` and `frozen` are the paths of the plan; nobody may have the files open. Durable on return, and may be repeated.
/// Fails with [`ErrorKind::NotFound`] when neither file is there: no freeze leaves that.
pub fn recover(leaf: &Path, frozen: &Path) -> Result<Recovered> {
    let next = next_path(leaf);
    let (has_leaf, has_frozen) = (exists(leaf)?, exists(frozen)?);
    let recovered = match (has_leaf, has_frozen) {
        (false, false) => {
            let message = format!("neither {} nor {} exists", leaf.display(), frozen.display());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        (false, true) => {
            fs::rename(&next, leaf).during("put the new leaf into its place")?;
            Recovered::Forward
        }
        (true, true) => Recovered::Forward,
        (true, false) => {
            if exists(&next)? {
                fs::remove_file(&next).during("remove an unfinished child")?;
            }
            Recovered::Back
        }
    };
    match recovered {
        Recovered::Forward => seal(leaf, frozen)?,
        Recovered::Back => sync_folder(leaf)?,
    }
    Ok(recovered)
}

/// Makes both names durable, and the frozen file read-only.
fn seal(leaf: &Path, frozen: &Path) -> Result<()> {
    let file = File::open(frozen).during("open the frozen file")?;
    let read_only = Permissions::from_mode(0o444);
    file.set_permissions(read_only).during("make the frozen file read-only")?;
    file.sync_all().during("sync the frozen file")?;
    sync_folder(frozen)?;
    sync_folder(leaf)
}

fn same_parent_at(relative_path: &str) -> NewLink {
    NewLink {
        relative_path: relative_path.to_owned(),
        absolute_path: None,
        identity: None,
        modified: None,
    }
}

/// `<leaf>.next`, beside the leaf.
fn next_path(leaf: &Path) -> PathBuf {
    beside(leaf, ".next")
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().during(format_args!("look for {}", path.display()))
}

#[cfg(test)]
mod tests;
