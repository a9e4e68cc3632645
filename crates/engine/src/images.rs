//! The verbs on images, off the async threads and with their events.

use crate::blocking::{blocking, to_its_end};
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{ErrorKind, Result};
use crate::store::{ImageInfo, Name, Removed};
use ireko_images::{HistoryStep, ImageUser};
use std::sync::Arc;

impl Engine {
    /// Every image, newest first.
    pub async fn images(&self) -> Result<Vec<ImageInfo>> {
        let store = Arc::clone(&self.store);
        let mut images = blocking(move || Ok(store.list())).await?;
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    /// One image by tag, id or prefix of an id.
    pub async fn image(&self, reference: &str) -> Result<ImageInfo> {
        let (store, reference) = (Arc::clone(&self.store), reference.to_owned());
        blocking(move || Ok(store.find(&reference)?)).await
    }

    /// The image to make a container of; the built-in base image is made where it is missing.
    pub(crate) async fn image_to_run(&self, reference: &str) -> Result<ImageInfo> {
        match self.image(reference).await {
            Err(error) if error.kind() == ErrorKind::NotFound && is_base(reference) => {
                self.make_base().await
            }
            found => found,
        }
    }

    /// How an image came to be, newest step first.
    pub async fn history(&self, reference: &str) -> Result<Vec<HistoryStep>> {
        let (store, reference) = (Arc::clone(&self.store), reference.to_owned());
        blocking(move || Ok(store.history(&store.find(&reference)?.id)?)).await
    }

    /// Gives an image one more name, `repository[:tag]`.
    pub async fn tag(&self, image: &str, name: &str) -> Result<()> {
        let name = Name::parse(name)?;
        let (store, image) = (Arc::clone(&self.store), image.to_owned());
        let shown = name.familiar();
        let id = to_its_end(blocking(move || {
            let id = store.find(&image)?.id;
            store.tag(&id, &name)?;
            Ok(id)
        }))
        .await?;
        self.emit_image(&id.to_string(), "tag", &shown);
        Ok(())
    }

    /// Gives an image another name in place of one it has.
    pub async fn rename_image(&self, old: &str, new: &str) -> Result<()> {
        let (old, new) = (Name::parse(old)?, Name::parse(new)?);
        let (store, shown) = (Arc::clone(&self.store), new.familiar());
        let id = to_its_end(blocking(move || Ok(store.rename(&old, &new)?))).await?;
        self.emit_image(&id.to_string(), "tag", &shown);
        Ok(())
    }

    /// Removes an image's name, and the image with its last one.
    ///
    /// Errors with docker's words where a container uses it.
    pub async fn remove_image(&self, reference: &str, force: bool) -> Result<Vec<Removed>> {
        let (engine, wanted) = (self.clone(), reference.to_owned());
        to_its_end(blocking(move || {
            let id = engine.store.find(&wanted)?.id;
            let removed = engine.store.remove(&wanted, force, &engine.image_users())?;
            engine.tell_removed(&id.to_string(), &removed);
            engine.fold_soon();
            Ok(removed)
        }))
        .await
    }

    /// All containers, as users of images.
    pub(crate) fn image_users(&self) -> Vec<ImageUser> {
        self.all_containers().iter().filter_map(|container| user(container)).collect()
    }

    /// Announces what a verb removed; names that went were those of `id`, or of the image before.
    pub(crate) fn tell_removed(&self, id: &str, removed: &[Removed]) {
        for one in removed {
            match one {
                Removed::Untagged(name) => self.emit_image(id, "untag", &name.familiar()),
                Removed::Deleted(id) => {
                    self.emit_image(&id.to_string(), "delete", &id.to_string());
                }
            }
        }
    }
}

/// Whether this is a name of the built-in base image.
pub(crate) fn is_base(reference: &str) -> bool {
    Name::parse(reference).is_ok_and(|name| name.familiar() == "base:latest")
}

fn user(container: &Container) -> Option<ImageUser> {
    let record = container.record();
    Some(ImageUser {
        id: record.id.clone(),
        name: record.name.clone(),
        image: record.image_id.parse().ok()?,
        running: record.vm().is_some(),
    })
}
