//! Removing an image with all that stand on it: shown first, then all or nothing.
//!
//! ```text
//!   base ◄─┬─ web ◄─ api         remove_tree(web)     base
//!          │    ▲                     refused while a container was made from web or api
//!          │    c1
//! ```
//! A container that an image was committed *from* stands on its layer but was not made from it: it
//! stops nothing and keeps its bytes. Containers are never removed.

use crate::collect::sweep;
use crate::demote::gone;
use crate::error::{Error, Result};
use crate::find::find;
use crate::id::{ImageId, LayerGuid};
use crate::import::end;
use crate::index::Index;
use crate::journal::Work;
use crate::land::end_of_done;
use crate::names;
use crate::remove::ImageUser;
use crate::state::{Gone, Intent};
use crate::store::{ImageInfo, Store};
use std::collections::BTreeMap;

/// What removing a tree comes to.
#[derive(Clone, Debug)]
pub struct DoomedTree {
    /// The images that go, each after all that stand on it.
    pub images: Vec<Doomed>,
    /// The containers made from one of them: as long as there are any, nothing goes.
    pub users: Vec<ImageUser>,
}

/// An image that goes with its tree.
#[derive(Clone, Debug)]
pub struct Doomed {
    /// The image.
    pub image: ImageInfo,
    /// How many of the images that go it stands on.
    pub level: usize,
}

impl Store {
    /// Tells what removing an image with all that stand on it would come to; changes nothing.
    ///
    /// `users` are all containers there are.
    pub fn doomed_tree(&self, reference: &str, users: &[ImageUser]) -> Result<DoomedTree> {
        let index = self.index();
        doomed(self, &index, reference, users)
    }

    /// Removes an image with all its names and all images that stand on it, durably: all of them, or
    /// none.
    ///
    /// Fails with [`crate::ErrorKind::Conflict`] where a container was made from one of them; the
    /// remedy names those containers. Returns what went, in order.
    pub fn remove_tree(&self, reference: &str, users: &[ImageUser]) -> Result<Vec<Doomed>> {
        let mut index = self.index();
        let tree = doomed(self, &index, reference, users)?;
        refuse_users(&index, &tree)?;
        self.reserve.spend(|| self.remove_images(&mut index, &tree.images))?;
        sweep(self, &mut index);
        Ok(tree.images)
    }

    fn remove_images(&self, index: &mut Index, images: &[Doomed]) -> Result<()> {
        let gone: Vec<_> =
            images.iter().map(|doomed| gone(index, &doomed.image.id)).collect::<Result<_>>()?;
        let sidecars: Vec<_> =
            gone.iter().map(|(gone, layer)| (names::sidecar_file(&gone.file), layer)).collect();
        let sidecars = sidecars.iter().map(|(name, layer)| (name.as_str(), *layer));
        let images: Vec<_> = gone.iter().map(|(gone, _)| gone.clone()).collect();
        let intent = Intent::RemoveAll { images: images.clone() };
        let work = self.journal.begin_with(LayerGuid::random(), &intent, sidecars)?;
        // From here on only renames follow: a failure is left to the next start, which finishes.
        self.drop_names(index, images.iter().flat_map(|image| &image.references))
            .inspect_err(|_| end(&work))?;
        self.demote(index, &work, &images)?;
        end_of_done(&work);
        Ok(())
    }

    /// Does what [`Intent::RemoveAll`] says, or the rest of it, and strikes it out.
    pub(crate) fn finish_removals(
        &self,
        index: &mut Index,
        work: &Work,
        images: &[Gone],
    ) -> Result<()> {
        self.drop_names(index, images.iter().flat_map(|image| &image.references))?;
        self.demote(index, work, images)?;
        work.end()
    }
}

fn doomed(
    store: &Store,
    index: &Index,
    reference: &str,
    users: &[ImageUser],
) -> Result<DoomedTree> {
    let root = find(index, reference)?.id();
    let mut children: BTreeMap<ImageId, Vec<ImageId>> = BTreeMap::new();
    for image in index.images() {
        if let Some(parent) = index.parent_image(image.layer) {
            children.entry(parent.id).or_default().push(image.id);
        }
    }
    let mut images = Vec::new();
    let mut pending = vec![(root, 0)];
    // Each image has one nearest image below: none comes twice, whatever the files say.
    while let Some((id, level)) = pending.pop() {
        images.push(Doomed { image: store.info(index, index.image(&id)?), level });
        let above = children.remove(&id).unwrap_or_default();
        pending.extend(above.into_iter().filter(|id| *id != root).map(|id| (id, level + 1)));
    }
    images.reverse();
    let users = users
        .iter()
        .filter(|user| images.iter().any(|doomed| doomed.image.id == user.image))
        .cloned()
        .collect();
    Ok(DoomedTree { images, users })
}

fn refuse_users(index: &Index, tree: &DoomedTree) -> Result<()> {
    if tree.users.is_empty() {
        return Ok(());
    }
    let users: Vec<_> = tree
        .users
        .iter()
        .map(|user| format!("{} (from {})", user.name, index.label(&user.image)))
        .collect();
    let root = tree.images.last().map(|doomed| index.label(&doomed.image.id)).unwrap_or_default();
    Err(Error::conflict(format!(
        "conflict: unable to delete {root} and the images that stand on it: containers were made \
         from them: {}",
        users.join(", ")
    ))
    .hint("remove those containers first; nothing was removed"))
}
