//! Commit: a container's disk becomes an image, in O(1); the container goes on with a new child.
//!
//! The store records the intent and says where the file goes; whoever has the disk open freezes it
//! (the shim of a running container, [`Store::freeze_stopped`] for a stopped one); the store then
//! makes the frozen file an image.
//!
//! ```text
//!   begin ──► shim freezes, or freeze_stopped ──► publish ──► an image
//!     │                                     └──► abort ──► a layer if it was frozen, else nothing
//!     └─ killed anywhere: the next Store::open looks whether images/<frozen> is there
//!
//!   images/   base                 images/   base ◄─ frozen
//!               ▲                                      ▲
//!   containers/ leaf         ──►   containers/        leaf (new, empty)
//! ```
//!
//! The container stands on the image's layer afterwards but was not made from the image.

use crate::compose::{NewImage, compose};
use crate::error::{Error, ErrorKind, Result};
use crate::id::LayerGuid;
use crate::index::{Index, Pin};
use crate::journal::{Prepared, Work};
use crate::name::Name;
use crate::state::{Intent, Role, Sidecar};
use crate::store::{ImageInfo, Store};
use crate::tag::check_spelling;
use crate::{chain, durable, layer_file, names};
use ireko_disk::FreezePlan;
use ireko_disk::freeze::Recovered;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

/// A chain of more files than this cannot be committed.
pub const MAX_DEPTH: usize = 250;
/// From this many files on, a commit is logged as deep.
const DEEP: usize = 64;

/// A commit that has begun. Hand it to [`Store::publish_commit`] or [`Store::abort_commit`].
///
/// What is dropped instead is settled when the disk is committed again, once the shim that may
/// still be at it has frozen the disk or ended; or by [`Store::settle_commits`]; or at the next
/// start.
#[derive(Debug)]
#[must_use]
pub struct PendingCommit {
    /// Where the frozen file goes; nothing is there yet.
    pub frozen: PathBuf,
    /// The path in the frozen file's parent locator: `.\parent.vhdx`.
    pub frozen_parent: String,
    /// The path in the next scratch disk's parent locator: `..\..\images\frozen.vhdx`.
    pub next_parent: String,
    leaf: PathBuf,
    guid: LayerGuid,
    _held: Arc<()>,
}

/// What the store remembers of a commit until it ends.
#[derive(Clone, Debug)]
pub(crate) struct CommitUnderWay {
    pub leaf: PathBuf,
    pub work: Work,
    pub file: String,
    pub reference: Option<Name>,
    /// The layer the disk stood on when the commit began, and its pin.
    pub parent: Option<(LayerGuid, Pin)>,
    /// Lives while somebody holds the [`PendingCommit`].
    pub held: Weak<()>,
}

/// How far the freezing of a disk got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freezing {
    /// The frozen file is in its place, and so is the next child.
    Done,
    /// The disk is as it was before.
    NotDone,
    /// A living shim holds the disk and may be about to freeze it.
    Undecided,
}

impl Store {
    /// Records that the disk at `leaf` is about to become an image, durably.
    ///
    /// `leaf` is a container's disk, `<root>/containers/<id>/<file>`. Fails with
    /// [`ErrorKind::Conflict`] while another commit of it is under way or when its chain is
    /// [`MAX_DEPTH`] files deep.
    pub fn begin_commit(&self, leaf: &Path, new: NewImage) -> Result<PendingCommit> {
        let relative = self.container_disk(leaf)?;
        let mut index = self.index();
        check_spelling(&index, new.name.as_ref())?;
        self.settle_orphans(&mut index, leaf)?;
        if index.commits.values().any(|commit| commit.leaf == leaf) {
            return Err(Error::conflict(format!(
                "a commit of {} is already under way",
                leaf.display()
            ))
            .hint("try again when it has ended"));
        }
        self.refuse_checkpoint(&index, leaf)?;
        let parent = chain::parent(&index, leaf)?
            .ok_or_else(|| Error::bad_input(format!("{} stands on no image", leaf.display())))?;
        let lineage = index.lineage(&parent.file)?;
        check_depth(lineage.len() + 1, leaf)?;

        let guid = LayerGuid::random();
        let name = match &new.name {
            Some(name) => name.short(),
            None => parent.sidecar.name.clone(),
        };
        let below = lineage.iter().find_map(|layer| layer.sidecar.config());
        let kind = parent.sidecar.kind;
        let config = compose(below.map(|config| config.document()), kind, guid, &new)?;
        let file = names::disk_file(&name, guid);
        let sidecar = Sidecar { guid, kind, name, chain: None, role: Role::Image(config) };
        let (frozen_parent, parent) = (names::sibling_locator(&parent.file), parent.sidecar.guid);
        let intent = Intent::Commit {
            file: file.clone(),
            leaf: relative,
            reference: new.name.as_ref().map(Name::to_string),
        };
        let prepared = Prepared { image: Some(&sidecar), layer: Some(&sidecar.as_layer()) };
        let work = self.journal.begin(guid, &intent, prepared)?;
        let held = Arc::default();
        let commit = CommitUnderWay {
            leaf: leaf.to_owned(),
            work,
            file: file.clone(),
            reference: new.name,
            parent: Some((parent, index.pin(parent))),
            held: Arc::downgrade(&held),
        };
        index.commits.insert(guid, commit);
        let pending = PendingCommit {
            frozen: self.image_path(&file),
            frozen_parent,
            next_parent: names::scratch_locator(self.places.images_name(), &file),
            leaf: leaf.to_owned(),
            guid,
            _held: held,
        };
        Ok(pending)
    }

    /// Freezes the disk of a container that does not run.
    ///
    /// Fails with [`ErrorKind::InUse`] if it does; a failure leaves the disk as it was.
    pub fn freeze_stopped(&self, pending: &PendingCommit) -> Result<()> {
        let plan = FreezePlan {
            frozen: pending.frozen.clone(),
            frozen_parent: Some(pending.frozen_parent.clone()),
            next_parent: pending.next_parent.clone(),
        };
        layer_file::freeze(&self.chain(&pending.leaf)?, &plan)
    }

    /// Makes the frozen file an image, verified and durable, and returns it.
    ///
    /// When this fails, the commit is aborted as by [`Store::abort_commit`].
    pub fn publish_commit(&self, pending: PendingCommit) -> Result<ImageInfo> {
        let published = self.verify_frozen(&pending).and_then(|()| {
            let mut index = self.index();
            let commit = under_way(&index, pending.guid)?;
            self.land_commit(&mut index, pending.guid, &commit)
        });
        published.inspect_err(|_| {
            if let Err(error) = self.abort_commit(pending) {
                tracing::warn!(error = %crate::error::chain(&error), "commit left to the next start");
            }
        })
    }

    /// Ends a commit that failed.
    ///
    /// Looks what really happened: where the disk was frozen, the frozen file stays as a layer for
    /// the container to stand on; else all is as before. The caller guarantees that nobody works on
    /// the commit any more: the shim has answered, or is dead.
    pub fn abort_commit(&self, pending: PendingCommit) -> Result<()> {
        let mut index = self.index();
        let commit = under_way(&index, pending.guid)?;
        match self.look(&commit)? {
            Freezing::Done => self.take_back(&mut index, &commit.work, &commit.file)?,
            Freezing::NotDone => commit.work.end()?,
            Freezing::Undecided => self.not_frozen(&commit)?,
        }
        index.commits.remove(&pending.guid);
        Ok(())
    }

    /// Settles the commits of a disk that were neither published nor aborted, because the process
    /// that began them ended first: frozen ones become images, the others are forgotten.
    ///
    /// The caller guarantees that no shim is in a commit of this disk. Returns the images.
    pub fn settle_commits(&self, leaf: &Path) -> Result<Vec<ImageInfo>> {
        let mut index = self.index();
        let commits: Vec<_> = index
            .commits
            .iter()
            .filter(|(_, commit)| commit.leaf == leaf)
            .map(|(guid, commit)| (*guid, commit.clone()))
            .collect();
        let mut images = Vec::new();
        for (guid, commit) in commits {
            match self.look(&commit)? {
                Freezing::Done => images.push(self.land_commit(&mut index, guid, &commit)?),
                Freezing::NotDone => commit.work.end()?,
                Freezing::Undecided => self.not_frozen(&commit)?,
            }
            index.commits.remove(&guid);
        }
        Ok(images)
    }

    /// Settles a disk's commits that nobody in this process holds, where it shows how they ended.
    fn settle_orphans(&self, index: &mut Index, leaf: &Path) -> Result<()> {
        let orphans: Vec<_> = index
            .commits
            .iter()
            .filter(|(_, commit)| commit.leaf == leaf && commit.held.strong_count() == 0)
            .map(|(guid, commit)| (*guid, commit.clone()))
            .collect();
        for (guid, commit) in orphans {
            match self.look(&commit)? {
                Freezing::Done => drop(self.land_commit(index, guid, &commit)?),
                Freezing::NotDone => {
                    commit.work.end()?;
                    index.commits.remove(&guid);
                }
                Freezing::Undecided => {}
            }
        }
        Ok(())
    }

    /// Finds out how far a freeze got, finishing or undoing it if nobody has the disk open.
    pub(crate) fn look(&self, commit: &CommitUnderWay) -> Result<Freezing> {
        let frozen = self.image_path(&commit.file);
        match layer_file::recover_freeze(&commit.leaf, &frozen) {
            Ok(Recovered::Forward) => Ok(Freezing::Done),
            Ok(Recovered::Back) => Ok(Freezing::NotDone),
            Err(error) if error.kind() == ErrorKind::InUse => Ok(Freezing::Undecided),
            // The container was removed while its commit was in doubt. It needs no child any more.
            Err(error)
                if error.kind() == ErrorKind::NotFound && !durable::exists(&commit.leaf)? =>
            {
                match durable::exists(&frozen)? {
                    true => Ok(Freezing::Done),
                    false => Ok(Freezing::NotDone),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The disk is held by a shim which, says the caller, is in no commit: it was not frozen.
    fn not_frozen(&self, commit: &CommitUnderWay) -> Result<()> {
        if durable::exists(&self.image_path(&commit.file))? {
            return Err(Error::new(
                ErrorKind::InUse,
                format!("{} is being frozen by its shim", commit.leaf.display()),
            ));
        }
        commit.work.end()
    }

    pub(crate) fn land_commit(
        &self,
        index: &mut Index,
        guid: LayerGuid,
        commit: &CommitUnderWay,
    ) -> Result<ImageInfo> {
        let id = self.land(index, &commit.work, &commit.file, commit.reference.as_ref())?;
        index.commits.remove(&guid);
        match id {
            Some(id) => Ok(self.info(index, index.image(&id)?)),
            None => Err(Error::conflict(format!("{} was committed as a layer", commit.file))),
        }
    }

    fn verify_frozen(&self, pending: &PendingCommit) -> Result<()> {
        if !durable::exists(&pending.frozen)? {
            return Err(Error::conflict(format!("{} was not frozen", pending.leaf.display())));
        }
        layer_file::verify(&self.chain(&pending.frozen)?)
    }

    /// Returns the path of a container's disk as the journal has it.
    fn container_disk(&self, leaf: &Path) -> Result<String> {
        leaf.strip_prefix(&self.places.root)
            .ok()
            .filter(|_| leaf.parent().is_some_and(|folder| self.places.is_containers(folder)))
            .and_then(Path::to_str)
            .map(str::to_owned)
            .ok_or_else(|| {
                Error::bad_input(format!("{} is not a container's disk", leaf.display()))
            })
    }
}

fn under_way(index: &Index, guid: LayerGuid) -> Result<CommitUnderWay> {
    index
        .commits
        .get(&guid)
        .cloned()
        .ok_or_else(|| Error::conflict("this commit has already been settled"))
}

fn check_depth(depth: usize, leaf: &Path) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::conflict(format!(
            "{} already stands on {} layers; no more than {MAX_DEPTH} can be stacked",
            leaf.display(),
            depth - 1
        ))
        .hint("merge some of the images it stands on"));
    }
    if depth >= DEEP {
        tracing::warn!(depth, leaf = %leaf.display(), "a deep chain of layers");
    }
    Ok(())
}
