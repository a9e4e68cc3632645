//! Merging an image with files below it into one file: a new image, or one that takes its place.
//!
//! ```text
//!                                  ┌─ x                                          ┌─ x
//!   app-root ◄─ base ◄─ web ◄─ api ┴─ c1      app-root ◄─ base ◄─ web ◄─ api ────┴─ c1
//!                                                           └──── new             new = web + api
//!   merge(api, "new", 2 files)
//!   … and delete                              app-root ◄─ base ◄─ new ┬─ x        new lies in api's file
//!                                                                     └─ c1
//!   merge(api, "new", all files)              new                                 a disk of its own
//! ```
//! The sources are only read, and stay. Where they are to go, the merged file has the same bytes and
//! the same DataWriteGuid as the one that it replaces, and takes its name by a rename: whatever stands
//! on that finds it as before. See docs/decisions/0004.
//!
//! The common root of app images belongs to all of them: only a merge of all files takes it in.

use crate::compose::{NewImage, compose_merged};
use crate::demote::gone;
use crate::error::{During, Error, Result};
use crate::find::find;
use crate::id::{ImageId, LayerGuid};
use crate::import::end;
use crate::index::{ImageRef, Index, Layer, Pin};
use crate::journal::{IMAGE, Prepared, Work};
use crate::land::end_of_done;
use crate::name::Name;
use crate::remove::{ImageUser, Removed};
use crate::state::{Intent, Kind, Replacement, Role, Sidecar};
use crate::store::{ImageInfo, Store};
use crate::tag::check_unused;
use crate::{collect, durable, layer_file, names, step};
use ireko_disk::{MergeOptions, Watch, merge};
use jiff::Timestamp;
use std::path::{Path, PathBuf};

/// What is merged into what.
#[derive(Clone, Debug)]
pub struct MergeRequest {
    /// The image, by any of its names.
    pub image: String,
    /// What the merged image is called.
    pub name: Name,
    /// How many files.
    pub files: MergeFiles,
    /// What becomes of the images that are merged.
    pub sources: Sources,
}

/// How many files are merged, from the image's own downwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeFiles {
    /// So many, at least 2.
    Top(usize),
    /// Every one: the merged image stands on nothing.
    All,
}

/// What becomes of the images that are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sources {
    /// They stay.
    Keep,
    /// The merged image takes the place of the uppermost, and those that nobody else uses go.
    Delete,
}

/// What a merge did.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The new image.
    pub image: ImageInfo,
    /// How many files it is made of.
    pub files: usize,
    /// The names and images that went.
    pub removed: Vec<Removed>,
    /// Images that were to go and stayed, each with the reason, for people.
    pub kept: Vec<String>,
}

/// What is to be merged: found under the lock, used without.
struct Plan {
    top: ImageId,
    stretch: Stretch,
    pin: Pin,
}

/// The topmost files of a chain, which are to be one.
pub(crate) struct Stretch {
    /// All files of the chain, leaf first.
    pub chain: Vec<PathBuf>,
    /// How many are to be one.
    pub files: usize,
    /// The base name of the file below them.
    pub parent: Option<String>,
}

/// What a merged file is known by to those who stand on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// It is a file of its own.
    New,
    /// It takes the place of the uppermost.
    OfTheUppermost,
}

/// Which images go when the merged one takes the place of the uppermost.
struct Deletion {
    images: Vec<ImageId>,
    kept: Vec<String>,
}

impl Store {
    /// Merges the topmost files of an image into one; durable on return.
    ///
    /// `users` lists all containers there are; it is called when the image is looked for and again
    /// when the merged file is whole. Progress counts bytes of data. Fails with
    /// [`crate::ErrorKind::Conflict`] where the name is another image's, and, where the sources are to
    /// go, where a container was made from the image. Whatever fails, and when it is cancelled, the
    /// store is as it was.
    pub fn merge(
        &self,
        request: &MergeRequest,
        users: &dyn Fn() -> Vec<ImageUser>,
        watch: &dyn Watch,
    ) -> Result<Merged> {
        let plan = self.plan(request, &users())?;
        let guid = LayerGuid::random();
        let file = names::disk_file(&request.name.short(), guid);
        let intent = Intent::Arrive { file: file.clone(), reference: None };
        let work = self.journal.begin(guid, &intent, Prepared::default())?;
        let identity = match request.sources {
            Sources::Keep => Identity::New,
            Sources::Delete => Identity::OfTheUppermost,
        };
        self.write_merged(&plan.stretch, identity, &work.path(&file), watch)
            .inspect_err(|_| end(&work))?;
        let mut index = self.index();
        match request.sources {
            Sources::Keep => self.publish_merged(&mut index, &plan, request, &work, guid, &file),
            Sources::Delete => self.replace(&mut index, plan, request, &work, &file, &users()),
        }
    }

    fn plan(&self, request: &MergeRequest, users: &[ImageUser]) -> Result<Plan> {
        let mut index = self.index();
        let top = find(&index, &request.image)?.id();
        let image = index.image(&top)?;
        let guid = image.layer.sidecar.guid;
        let lineage = index.lineage(&image.layer.file)?;
        let files = count(&index.label(&top), &lineage, request.files)?;
        check_name(&index, request, &top)?;
        if request.sources == Sources::Delete {
            deletion(&index, image, files, users)?;
        }
        let chain = lineage.iter().map(|layer| self.image_path(&layer.file)).collect();
        let parent = lineage.get(files).map(|layer| layer.file.clone());
        Ok(Plan { top, stretch: Stretch { chain, files, parent }, pin: index.pin(guid) })
    }

    /// Writes the merged file and verifies that it opens.
    pub(crate) fn write_merged(
        &self,
        stretch: &Stretch,
        identity: Identity,
        to: &Path,
        watch: &dyn Watch,
    ) -> Result<()> {
        let Stretch { chain, files, parent } = stretch;
        let top = chain.first().map(|path| path.display().to_string()).unwrap_or_default();
        let merging = || format!("merge {files} files from {top} downwards");
        step::allocating().during(merging)?;
        let options = MergeOptions {
            relative_path: parent.as_deref().map(names::sibling_locator),
            keep_identity: identity == Identity::OfTheUppermost,
            ..MergeOptions::default()
        };
        merge::into_new(chain, *files, to, &options, watch).during(merging)?;
        let below = chain.iter().skip(*files).cloned();
        let merged: Vec<_> = std::iter::once(to.to_owned()).chain(below).collect();
        layer_file::verify(&merged)
    }

    fn publish_merged(
        &self,
        index: &mut Index,
        plan: &Plan,
        request: &MergeRequest,
        work: &Work,
        guid: LayerGuid,
        file: &str,
    ) -> Result<Merged> {
        let prepare = |index: &Index| {
            check_name(index, request, &plan.top)?;
            let top = index.image(&plan.top)?;
            let config = compose_merged(
                top.config.document(),
                top.layer.sidecar.kind,
                guid,
                index.steps(&top.layer.file, plan.stretch.files)?,
                &new_image(index, top, plan.stretch.files, request),
            )?;
            let sidecar = Sidecar {
                guid,
                kind: top.layer.sidecar.kind,
                name: request.name.short(),
                chain: None,
                role: Role::Image(config),
                // Layers of their own, which are never merged.
                disks: top.layer.sidecar.disks.clone(),
                steps: 1,
            };
            let reference = Some(request.name.to_string());
            work.complete(&Intent::Arrive { file: file.to_owned(), reference }, &sidecar)
        };
        let landed = prepare(index)
            .and_then(|()| self.land(index, work, file, Some(&request.name)))
            .and_then(|id| id.ok_or_else(|| Error::corrupt("the merged image is none")));
        match landed {
            Ok(id) => {
                let image = self.info(index, index.image(&id)?);
                Ok(Merged {
                    image,
                    files: plan.stretch.files,
                    removed: Vec::new(),
                    kept: Vec::new(),
                })
            }
            Err(error) => {
                if let Err(second) = self.take_back(index, work, file) {
                    tracing::warn!(error = %crate::error::chain(&second), "left to the next start");
                }
                Err(error)
            }
        }
    }

    /// Lets the merged file, called `made` in `work`, take the place of the uppermost image's. Lets go of
    /// the plan while the index is still locked: of two verbs that refuse each other one has its way.
    fn replace(
        &self,
        index: &mut Index,
        plan: Plan,
        request: &MergeRequest,
        work: &Work,
        made: &str,
        users: &[ImageUser],
    ) -> Result<Merged> {
        let (intent, deletion, removed) = self
            .prepare_replacement(index, &plan, request, work, made, users)
            .inspect_err(|_| end(work))?;
        let id = self.replacement_id(work, &intent).and_then(|id| {
            // The one step that needs space is the first: after it only renames follow, and a
            // failure is left to the next start, which finishes.
            self.name_replacement(index, &intent, id).inspect_err(|_| end(work))?;
            self.finish_replacement(index, work, &intent)?;
            Ok(id)
        })?;
        end_of_done(work);
        collect::sweep(self, index);
        let image = self.info(index, index.image(&id)?);
        Ok(Merged { image, files: plan.stretch.files, removed, kept: deletion.kept })
    }

    /// Looks once more whether all may be done, and records it: from then on it is.
    fn prepare_replacement(
        &self,
        index: &Index,
        plan: &Plan,
        request: &MergeRequest,
        work: &Work,
        made: &str,
        users: &[ImageUser],
    ) -> Result<(Replacement, Deletion, Vec<Removed>)> {
        check_name(index, request, &plan.top)?;
        // The image may be gone, or another one by another merge.
        let top = index.image(&plan.top)?;
        index.refuse_read(top.layer.sidecar.guid, &plan.pin)?;
        let files = plan.stretch.files;
        let deletion = deletion(index, top, files, users)?;
        let new = new_image(index, top, files, request);
        let Sidecar { kind, guid, name, disks, .. } = top.layer.sidecar.clone();
        // What stands for the layer's digest must not be what it was before the merge.
        let (document, fresh) = (top.config.document(), LayerGuid::random());
        let steps = index.steps(&top.layer.file, files)?;
        let config = compose_merged(document, kind, fresh, steps, &new)?;
        let role = Role::Image(config);
        let sidecar = Sidecar { guid, kind, name, chain: None, role, disks, steps: 1 };
        let mut images = Vec::new();
        for id in &deletion.images {
            let (gone, layer) = gone(index, id)?;
            work.add(&names::sidecar_file(&gone.file), &layer.to_json())?;
            images.push(gone);
        }
        let (former, _) = gone(index, &plan.top)?;
        let replacement = Replacement {
            file: former.file,
            former: former.references,
            reference: request.name.to_string(),
            images,
        };
        let mut removed = Vec::new();
        for id in std::iter::once(&plan.top).chain(&deletion.images) {
            let names = index.names(id).iter().filter(|name| **name != request.name);
            removed.extend(names.cloned().map(Removed::Untagged));
            removed.push(Removed::Deleted(*id));
        }
        durable::rename(&work.path(made), &work.path(&replacement.file))?;
        work.complete(&Intent::Replace(replacement.clone()), &sidecar)?;
        Ok((replacement, deletion, removed))
    }

    /// Does what [`Intent::Replace`] says, or the rest of it, and strikes it out.
    pub(crate) fn settle_replacement(
        &self,
        index: &mut Index,
        work: &Work,
        replacement: &Replacement,
    ) -> Result<()> {
        let id = self.replacement_id(work, replacement)?;
        self.name_replacement(index, replacement, id)?;
        self.finish_replacement(index, work, replacement)?;
        work.end()
    }

    /// Returns the id of the image that comes.
    fn replacement_id(&self, work: &Work, replacement: &Replacement) -> Result<ImageId> {
        let prepared = work.path(IMAGE);
        let sidecar = match durable::exists(&prepared)? {
            true => Sidecar::read(&prepared)?,
            false => Sidecar::read(&self.sidecar_path(&replacement.file))?,
        };
        sidecar.image_id().ok_or_else(|| Error::corrupt("the merged image is none"))
    }

    fn name_replacement(
        &self,
        index: &mut Index,
        replacement: &Replacement,
        id: ImageId,
    ) -> Result<()> {
        let below = replacement.images.iter().flat_map(|image| &image.references);
        let lost: Vec<_> = replacement.former.iter().chain(below).collect();
        let mut tags = index.tags().clone();
        tags.retain(|name, _| !lost.contains(&&name.to_string()));
        tags.insert(Name::parse(&replacement.reference)?, id);
        self.set_tags(index, tags)
    }

    fn finish_replacement(
        &self,
        index: &mut Index,
        work: &Work,
        replacement: &Replacement,
    ) -> Result<()> {
        self.put_in_place(index, work, &replacement.file)?;
        self.demote(index, work, &replacement.images)
    }
}

/// Counts the files that are merged.
fn count(image: &str, lineage: &[&Layer], wanted: MergeFiles) -> Result<usize> {
    let own = match lineage.last() {
        Some(base) if is_common_root(base) => lineage.len() - 1,
        _ => lineage.len(),
    };
    let made_of = || {
        let files = if own == 1 { "one file".to_owned() } else { format!("{own} files") };
        let over = if own < lineage.len() { " over the common root of app images" } else { "" };
        format!("{image} is made of {files}{over}")
    };
    match wanted {
        MergeFiles::All if lineage.len() > 1 => Ok(lineage.len()),
        MergeFiles::Top(files) if (2..=own).contains(&files) => Ok(files),
        MergeFiles::All => Err(Error::bad_input(format!("{}: it stands on nothing", made_of()))),
        MergeFiles::Top(files) if files < 2 => {
            Err(Error::bad_input("fewer than two files cannot be merged"))
        }
        MergeFiles::Top(files) => {
            let error = Error::bad_input(format!("{}: {files} cannot be merged", made_of()));
            match lineage.len() {
                1 => Err(error),
                _ => Err(error.hint("--all makes it one file that stands on nothing")),
            }
        }
    }
}

/// Tells the layer that all app images of a root stand on.
pub(crate) fn is_common_root(base: &Layer) -> bool {
    base.sidecar.kind == Kind::App && base.sidecar.role == Role::Layer(None)
}

/// Refuses a name that another image has, or this one, unless it goes.
fn check_name(index: &Index, request: &MergeRequest, top: &ImageId) -> Result<()> {
    match index.tags().get(&request.name) {
        Some(owner) if owner == top && request.sources == Sources::Delete => Ok(()),
        _ => check_unused(index, &request.name),
    }
}

/// Decides which images go. Fails with [`crate::ErrorKind::Conflict`] where the uppermost cannot.
fn deletion(
    index: &Index,
    top: ImageRef<'_>,
    files: usize,
    users: &[ImageUser],
) -> Result<Deletion> {
    let made_from = |id: &ImageId| -> Vec<&str> {
        users.iter().filter(|user| user.image == *id).map(|user| user.name.as_str()).collect()
    };
    let containers = made_from(&top.id);
    if !containers.is_empty() {
        return Err(Error::conflict(format!(
            "cannot delete image {}: containers were made from it: {}",
            index.label(&top.id),
            containers.join(", ")
        ))
        .hint("remove those containers first, or keep the images that are merged"));
    }
    let (mut going, mut kept) = (vec![top.id], Vec::new());
    let lineage = index.lineage(&top.layer.file)?;
    for image in lineage.iter().take(files).skip(1).filter_map(|layer| layer.as_image()) {
        let children = index.child_images(image.id);
        let child = children.iter().find(|child| !going.contains(&child.id));
        let label = index.label(&image.id);
        if let Some(container) = made_from(&image.id).first() {
            kept.push(format!("{label}: container {container} was made from it"));
        } else if let Some(child) = child {
            kept.push(format!("{label}: image {} stands on it", index.label(&child.id)));
        } else {
            going.push(image.id);
        }
    }
    Ok(Deletion { images: going.split_off(1), kept })
}

/// What is said about the merged image: the uppermost one's configuration, and what was merged.
fn new_image(index: &Index, top: ImageRef<'_>, files: usize, request: &MergeRequest) -> NewImage {
    let document = top.config.document();
    let lineage = index.lineage(&top.layer.file).unwrap_or_default();
    let merged = lineage.iter().take(files).filter_map(|layer| layer.as_image());
    let labels: Vec<_> = merged.map(|image| index.label(&image.id)).collect();
    NewImage {
        config: document.config.clone(),
        machine: document.machine,
        generalized: document.generalized,
        container: None,
        name: Some(request.name.clone()),
        comment: format!("merged {}", labels.join(", ")),
        author: document.author.clone(),
        created_by: String::new(),
        created: Timestamp::now(),
    }
}
