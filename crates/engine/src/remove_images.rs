//! Removing images: what it would come to, and whole trees of them.

use crate::blocking::{blocking, to_its_end};
use crate::engine::Engine;
use crate::error::Result;
use crate::store::Removed;
use ireko_images::{Doomed, DoomedTree};

impl Engine {
    /// What removing an image's name, or the image, would come to. Errors as the removal would.
    pub async fn would_remove_image(&self, reference: &str, force: bool) -> Result<Vec<Removed>> {
        let (engine, wanted) = (self.clone(), reference.to_owned());
        blocking(move || Ok(engine.store.would_remove(&wanted, force, &engine.image_users())?))
            .await
    }

    /// What removing an image with all that stand on it would come to.
    pub async fn doomed_tree(&self, reference: &str) -> Result<DoomedTree> {
        let (engine, wanted) = (self.clone(), reference.to_owned());
        blocking(move || Ok(engine.store.doomed_tree(&wanted, &engine.image_users())?)).await
    }

    /// Removes an image with all that stand on it, or nothing; returns what went, in order.
    pub async fn remove_tree(&self, reference: &str) -> Result<Vec<Doomed>> {
        let (engine, wanted) = (self.clone(), reference.to_owned());
        to_its_end(blocking(move || {
            let gone = engine.store.remove_tree(&wanted, &engine.image_users())?;
            for Doomed { image, .. } in &gone {
                let names = image.names.iter().cloned().map(Removed::Untagged);
                let removed: Vec<_> = names.chain([Removed::Deleted(image.id)]).collect();
                engine.tell_removed(&image.id.to_string(), &removed);
            }
            engine.fold_soon();
            Ok(gone)
        }))
        .await
    }
}
