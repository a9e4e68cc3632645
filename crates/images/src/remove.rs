//! Removing an image, or only one of its names, as docker does.
//!
//! ```text
//!   by a name, of several     the name goes
//!   by its only name          the image goes; refused while containers or images stand on it
//!     with force              the image goes; only the name, while one runs or images stand on it
//!   by id                     the image goes with its name; refused while it has several,
//!     with force              … or while a container runs or images stand on it
//! ```
//!
//! An image that goes becomes a layer first, by a rename; then whatever nothing stands on is swept.
//! So a container whose image is gone, and one that an image was committed *from*, keep their bytes.

use crate::collect::sweep;
use crate::durable;
use crate::error::{Error, Result};
use crate::find::{Found, find};
use crate::id::{ImageId, LayerGuid};
use crate::import::end;
use crate::index::{ImageRef, Index};
use crate::journal::{LAYER, Prepared, Work};
use crate::name::Name;
use crate::state::Intent;
use crate::store::Store;

/// A container that was made from an image. One that merely stands on the image's layer, because
/// the image was committed from it, is no user.
#[derive(Clone, Debug)]
pub struct ImageUser {
    /// The container's id.
    pub id: String,
    /// The container's name, for people.
    pub name: String,
    /// The image it was made from.
    pub image: ImageId,
    /// It runs, or is paused.
    pub running: bool,
}

/// One thing that [`Store::remove`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// An image lost this name.
    Untagged(Name),
    /// This image is gone.
    Deleted(ImageId),
}

impl Store {
    /// Removes an image or one of its names, durably; says what was done, in order.
    ///
    /// `users` are all containers there are, whatever their image. Refusals are
    /// [`crate::ErrorKind::Conflict`] with docker's phrases, the remedy names the users.
    pub fn remove(
        &self,
        reference: &str,
        force: bool,
        users: &[ImageUser],
    ) -> Result<Vec<Removed>> {
        let mut index = self.index();
        let found = find(&index, reference)?;
        let image = index.image(&found.id())?;
        let plan = plan(&index, image, &found, reference, force, users)?;
        let id = image.id;
        let removed = plan.removed(id);
        self.reserve.spend(|| match plan.delete {
            true => self.delete(&mut index, id, &plan.untag),
            false => self.untag(&mut index, &plan.untag),
        })?;
        if plan.delete {
            sweep(self, &mut index);
        }
        Ok(removed)
    }

    /// Tells what [`Store::remove`] would do now, or refuses as it would; changes nothing.
    pub fn would_remove(
        &self,
        reference: &str,
        force: bool,
        users: &[ImageUser],
    ) -> Result<Vec<Removed>> {
        let index = self.index();
        let found = find(&index, reference)?;
        let image = index.image(&found.id())?;
        Ok(plan(&index, image, &found, reference, force, users)?.removed(image.id))
    }

    fn untag(&self, index: &mut Index, references: &[Name]) -> Result<()> {
        let mut tags = index.tags().clone();
        tags.retain(|name, _| !references.contains(name));
        self.set_tags(index, tags)
    }

    fn delete(&self, index: &mut Index, id: ImageId, references: &[Name]) -> Result<()> {
        let layer = index.image(&id)?.layer;
        let file = layer.file.clone();
        let intent = Intent::Remove {
            file: file.clone(),
            references: references.iter().map(Name::to_string).collect(),
        };
        let sidecar = layer.sidecar.as_layer();
        let prepared = Prepared { image: None, layer: Some(&sidecar) };
        let work = self.journal.begin(LayerGuid::random(), &intent, prepared)?;
        // From here on only renames follow: a failure is left to the next start, which finishes.
        self.untag(index, references).inspect_err(|_| end(&work))?;
        self.finish_removal(index, &work, &file, references)
    }

    /// Takes the names away and makes the image a layer; repeated at recovery.
    pub(crate) fn finish_removal(
        &self,
        index: &mut Index,
        work: &Work,
        file: &str,
        references: &[Name],
    ) -> Result<()> {
        self.untag(index, references)?;
        if durable::exists(&work.path(LAYER))? {
            durable::rename(&work.path(LAYER), &self.sidecar_path(file))?;
        }
        if durable::exists(&self.sidecar_path(file))? {
            index.insert(self.load(file)?);
        }
        work.end()
    }
}

/// What a removal comes to.
struct Plan {
    untag: Vec<Name>,
    delete: bool,
}

impl Plan {
    fn removed(&self, id: ImageId) -> Vec<Removed> {
        let untagged = self.untag.iter().cloned().map(Removed::Untagged);
        untagged.chain(self.delete.then_some(Removed::Deleted(id))).collect()
    }
}

fn plan(
    index: &Index,
    image: ImageRef<'_>,
    found: &Found,
    reference: &str,
    force: bool,
    users: &[ImageUser],
) -> Result<Plan> {
    let names = index.names(&image.id).to_vec();
    let users: Vec<_> = users.iter().filter(|user| user.image == image.id).collect();
    let running: Vec<_> = users.iter().copied().filter(|user| user.running).collect();
    let children = index.child_images(image.id);
    let children: Vec<_> = children.iter().map(|child| index.label(&child.id)).collect();
    let busy = !running.is_empty() || !children.is_empty();

    match found {
        Found::ByTag(_, name) if names.len() > 1 || (force && busy) => {
            Ok(Plan { untag: vec![name.clone()], delete: false })
        }
        Found::ByTag(_, name) => {
            if let Some(user) = users.first().filter(|_| !force) {
                return Err(Error::conflict(format!(
                    "conflict: unable to remove repository reference {reference:?} (must force) - \
                     container {} is using its referenced image {}",
                    short(&user.id),
                    image.id.short()
                ))
                .hint(used_by(&users)));
            }
            refuse_children(image.id, &children)?;
            Ok(Plan { untag: vec![name.clone()], delete: true })
        }
        Found::ById(id) => {
            refuse_children(*id, &children)?;
            if let Some(user) = running.first() {
                return Err(unable(
                    *id,
                    "cannot be forced",
                    &format!("image is being used by running container {}", short(&user.id)),
                )
                .hint(used_by(&running)));
            }
            if names.len() > 1 && !force {
                return Err(unable(
                    *id,
                    "must be forced",
                    "image is referenced in multiple repositories",
                )
                .hint(format!("its names are {}", join(names.iter().map(Name::familiar)))));
            }
            if let Some(user) = users.first().filter(|_| !force) {
                return Err(unable(
                    *id,
                    "must be forced",
                    &format!("image is being used by stopped container {}", short(&user.id)),
                )
                .hint(used_by(&users)));
            }
            Ok(Plan { untag: names, delete: true })
        }
    }
}

fn refuse_children(id: ImageId, children: &[String]) -> Result<()> {
    if children.is_empty() {
        return Ok(());
    }
    let children = join(children.iter().cloned());
    let reason = format!("image has dependent child images: {children}");
    Err(unable(id, "cannot be forced", &reason).hint("remove those images first"))
}

fn unable(id: ImageId, force: &str, reason: &str) -> Error {
    Error::conflict(format!("conflict: unable to delete {} ({force}) - {reason}", id.short()))
}

fn used_by(users: &[&ImageUser]) -> String {
    let names = join(users.iter().map(|user| user.name.clone()));
    format!("containers made from it: {names}; remove them first")
}

fn join(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
