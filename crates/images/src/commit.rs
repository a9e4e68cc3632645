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
//! Data disks that go into the image are frozen first, the container's own disk last: it alone decides
//! whether there is an image. A data disk that was frozen becomes a layer in any case, which the image,
//! or only the container, stands on.
//!
//! The container stands on the image's layer afterwards but was not made from the image.

use crate::compose::{NewImage, compose};
use crate::data_disks::DataDisk;
use crate::error::{Error, ErrorKind, Result};
use crate::id::LayerGuid;
use crate::index::{Index, Pin};
use crate::journal::{IMAGE, LAYER, Work};
use crate::name::Name;
use crate::state::{DataLayer, FrozenDisk, Intent, Kind, Role, Sidecar};
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
    /// The data disks, which are frozen before,
    pub data: Vec<DiskFreeze>,
    /// … the container's own disk.
    pub own: DiskFreeze,
    guid: LayerGuid,
    _held: Arc<()>,
}

impl PendingCommit {
    /// All disks in the order in which they are to be frozen.
    pub fn disks(&self) -> impl Iterator<Item = &DiskFreeze> {
        self.data.iter().chain([&self.own])
    }
}

/// Where the parts of a disk that is to be frozen go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFreeze {
    /// The container's disk.
    pub leaf: PathBuf,
    /// Where the frozen file goes; nothing is there yet.
    pub frozen: PathBuf,
    /// The path in the frozen file's parent locator: `.\parent.vhdx`; `None` for one without a parent.
    pub frozen_parent: Option<String>,
    /// The path in the next disk's parent locator: `..\..\images\frozen.vhdx`.
    pub next_parent: String,
}

/// What the store remembers of a commit until it ends.
#[derive(Clone, Debug)]
pub(crate) struct CommitUnderWay {
    pub work: Work,
    pub own: DiskUnderWay,
    pub data: Vec<DiskUnderWay>,
    pub reference: Option<Name>,
    /// Lives while somebody holds the [`PendingCommit`].
    pub held: Weak<()>,
}

/// One disk of it.
#[derive(Clone, Debug)]
pub(crate) struct DiskUnderWay {
    pub leaf: PathBuf,
    /// The frozen file's base name in `images/`.
    pub file: String,
    /// The layer the disk stood on when the commit began, and its pin.
    pub parent: Option<(LayerGuid, Pin)>,
}

/// A disk that is about to be frozen, and the keys and names that are chosen for it.
struct Planned {
    leaf: PathBuf,
    file: String,
    parent: Option<(LayerGuid, String)>,
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
    /// Records that the disk at `leaf` is about to become an image, with `data` as its data disks,
    /// durably.
    ///
    /// All are containers' disks, `<root>/containers/<id>/<file>`. Fails with [`ErrorKind::Conflict`]
    /// while another commit of it is under way or when a chain is [`MAX_DEPTH`] files deep.
    pub fn begin_commit(
        &self,
        leaf: &Path,
        data: &[DataDisk],
        new: NewImage,
    ) -> Result<PendingCommit> {
        let mut index = self.index();
        check_spelling(&index, new.name.as_ref())?;
        self.settle_orphans(&mut index, leaf)?;
        if index.commits.values().any(|commit| commit.own.leaf == leaf) {
            return Err(Error::conflict(format!(
                "a commit of {} is already under way",
                leaf.display()
            ))
            .hint("try again when it has ended"));
        }
        for disk in data.iter().map(|disk| disk.path.as_path()).chain([leaf]) {
            self.refuse_checkpoint(&index, disk)?;
        }
        let parent = chain::parent(&index, leaf)?
            .ok_or_else(|| Error::bad_input(format!("{} stands on no image", leaf.display())))?;
        let lineage = index.lineage(&parent.file)?;
        let guid = LayerGuid::random();
        let name = match &new.name {
            Some(name) => name.short(),
            None => parent.sidecar.name.clone(),
        };
        let below = lineage.iter().find_map(|layer| layer.sidecar.config());
        let kind = parent.sidecar.kind;
        let config = compose(below.map(|config| config.document()), kind, guid, &new)?;
        let own = self.plan_freeze(&index, leaf, names::disk_file(&name, guid))?;
        let (mut planned, mut sidecars, mut layers) = (Vec::new(), Vec::new(), Vec::new());
        for disk in data {
            let (called, guid) = (format!("{name}_{}", disk.name), LayerGuid::random());
            let file = names::disk_file(&called, guid);
            let role = Role::Layer(None);
            let (kind, chain, disks) = (Kind::Machine, None, Vec::new());
            let sidecar = Sidecar { guid, kind, name: called, chain, role, disks, steps: 1 };
            sidecars.push((names::sidecar_file(&file), sidecar));
            planned.push(self.plan_freeze(&index, &disk.path, file)?);
            layers.push(DataLayer { name: disk.name.clone(), guid });
        }
        let sidecar = Sidecar {
            guid,
            kind,
            name,
            chain: None,
            role: Role::Image(config),
            disks: layers,
            steps: 1,
        };
        let intent = Intent::Commit {
            file: own.file.clone(),
            leaf: self.container_disk(leaf)?,
            reference: new.name.as_ref().map(Name::to_string),
            disks: planned
                .iter()
                .map(|one| {
                    Ok(FrozenDisk { file: one.file.clone(), leaf: self.container_disk(&one.leaf)? })
                })
                .collect::<Result<_>>()?,
        };
        let layer = sidecar.as_layer();
        let prepared = [(IMAGE, &sidecar), (LAYER, &layer)].into_iter();
        let of_data = sidecars.iter().map(|(file, sidecar)| (file.as_str(), sidecar));
        let work = self.journal.begin_with(guid, &intent, prepared.chain(of_data))?;
        let held = Arc::default();
        let pending = PendingCommit {
            data: planned.iter().map(|one| self.freeze_of(one)).collect(),
            own: self.freeze_of(&own),
            guid,
            _held: Arc::clone(&held),
        };
        let mut under_way = |planned: Planned| {
            let Planned { leaf, file, parent } = planned;
            DiskUnderWay { leaf, file, parent: parent.map(|(guid, _)| (guid, index.pin(guid))) }
        };
        let commit = CommitUnderWay {
            work,
            own: under_way(own),
            data: planned.into_iter().map(&mut under_way).collect(),
            reference: new.name,
            held: Arc::downgrade(&held),
        };
        index.commits.insert(guid, commit);
        Ok(pending)
    }

    /// Looks whether a disk may be frozen as `file`.
    fn plan_freeze(&self, index: &Index, leaf: &Path, file: String) -> Result<Planned> {
        let parent = chain::parent(index, leaf)?;
        let below = parent.map(|parent| index.lineage(&parent.file)).transpose()?;
        check_depth(below.map_or(0, |below| below.len()) + 1, leaf)?;
        let parent = parent.map(|parent| (parent.sidecar.guid, parent.file.clone()));
        Ok(Planned { leaf: leaf.to_owned(), file, parent })
    }

    fn freeze_of(&self, planned: &Planned) -> DiskFreeze {
        DiskFreeze {
            leaf: planned.leaf.clone(),
            frozen: self.image_path(&planned.file),
            frozen_parent: planned.parent.as_ref().map(|(_, file)| names::sibling_locator(file)),
            next_parent: names::scratch_locator(self.places.images_name(), &planned.file),
        }
    }

    /// Freezes the disks of a container that does not run.
    ///
    /// Fails with [`ErrorKind::InUse`] if it does; a failure leaves the container's own disk as it was.
    pub fn freeze_stopped(&self, pending: &PendingCommit) -> Result<()> {
        for disk in pending.disks() {
            let plan = FreezePlan {
                frozen: disk.frozen.clone(),
                frozen_parent: disk.frozen_parent.clone(),
                next_parent: disk.next_parent.clone(),
            };
            layer_file::freeze(&self.chain(&disk.leaf)?, &plan)?;
        }
        Ok(())
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
        match self.look(&commit.own)? {
            Freezing::Done => {
                self.keep_data(&mut index, &commit)?;
                self.take_back(&mut index, &commit.work, &commit.own.file)?;
            }
            Freezing::NotDone => self.forget(&mut index, &commit)?,
            Freezing::Undecided => self.not_frozen(&mut index, &commit)?,
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
            .filter(|(_, commit)| commit.own.leaf == leaf)
            .map(|(guid, commit)| (*guid, commit.clone()))
            .collect();
        let mut images = Vec::new();
        for (guid, commit) in commits {
            match self.look(&commit.own)? {
                Freezing::Done => images.push(self.land_commit(&mut index, guid, &commit)?),
                Freezing::NotDone => self.forget(&mut index, &commit)?,
                Freezing::Undecided => self.not_frozen(&mut index, &commit)?,
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
            .filter(|(_, commit)| commit.own.leaf == leaf && commit.held.strong_count() == 0)
            .map(|(guid, commit)| (*guid, commit.clone()))
            .collect();
        for (guid, commit) in orphans {
            match self.look(&commit.own)? {
                Freezing::Done => drop(self.land_commit(index, guid, &commit)?),
                Freezing::NotDone => {
                    self.forget(index, &commit)?;
                    index.commits.remove(&guid);
                }
                Freezing::Undecided => {}
            }
        }
        Ok(())
    }

    /// Finds out how far a freeze got, finishing or undoing it if nobody has the disk open.
    pub(crate) fn look(&self, disk: &DiskUnderWay) -> Result<Freezing> {
        let frozen = self.image_path(&disk.file);
        match layer_file::recover_freeze(&disk.leaf, &frozen) {
            Ok(Recovered::Forward) => Ok(Freezing::Done),
            Ok(Recovered::Back) => Ok(Freezing::NotDone),
            Err(error) if error.kind() == ErrorKind::InUse => Ok(Freezing::Undecided),
            // The container was removed while its commit was in doubt. It needs no child any more.
            Err(error) if error.kind() == ErrorKind::NotFound && !durable::exists(&disk.leaf)? => {
                match durable::exists(&frozen)? {
                    true => Ok(Freezing::Done),
                    false => Ok(Freezing::NotDone),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Makes layers of the data disks that were frozen, whatever becomes of the commit.
    fn keep_data(&self, index: &mut Index, commit: &CommitUnderWay) -> Result<()> {
        for disk in &commit.data {
            match self.look(disk)? {
                Freezing::Done => self.put_layer_in_place(index, &commit.work, &disk.file)?,
                Freezing::NotDone => {}
                Freezing::Undecided => self.refuse_frozen(disk)?,
            }
        }
        Ok(())
    }

    /// Ends a commit whose container's own disk was not frozen.
    pub(crate) fn forget(&self, index: &mut Index, commit: &CommitUnderWay) -> Result<()> {
        self.keep_data(index, commit)?;
        commit.work.end()
    }

    /// The disk is held by a shim which, says the caller, is in no commit: it was not frozen.
    fn not_frozen(&self, index: &mut Index, commit: &CommitUnderWay) -> Result<()> {
        self.refuse_frozen(&commit.own)?;
        self.forget(index, commit)
    }

    fn refuse_frozen(&self, disk: &DiskUnderWay) -> Result<()> {
        match durable::exists(&self.image_path(&disk.file))? {
            false => Ok(()),
            true => Err(Error::new(
                ErrorKind::InUse,
                format!("{} is being frozen by its shim", disk.leaf.display()),
            )),
        }
    }

    pub(crate) fn land_commit(
        &self,
        index: &mut Index,
        guid: LayerGuid,
        commit: &CommitUnderWay,
    ) -> Result<ImageInfo> {
        self.keep_data(index, commit)?;
        let id = self.land(index, &commit.work, &commit.own.file, commit.reference.as_ref())?;
        index.commits.remove(&guid);
        match id {
            Some(id) => Ok(self.info(index, index.image(&id)?)),
            None => Err(Error::conflict(format!("{} was committed as a layer", commit.own.file))),
        }
    }

    fn verify_frozen(&self, pending: &PendingCommit) -> Result<()> {
        for disk in pending.disks() {
            if !durable::exists(&disk.frozen)? {
                return Err(Error::conflict(format!("{} was not frozen", disk.leaf.display())));
            }
            layer_file::verify(&self.chain(&disk.frozen)?)?;
        }
        Ok(())
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

pub(crate) fn check_depth(depth: usize, leaf: &Path) -> Result<()> {
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
