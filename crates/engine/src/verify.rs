//! Verifying images, and repairing what links them.

use crate::blocking::{blocking, to_its_end};
use crate::engine::Engine;
use crate::error::Result;
use crate::progress::Watcher;
use ireko_images::{Depth, ParentCheck, Relinked, Repaired, Verified};
use std::sync::Arc;

impl Engine {
    /// Verifies images, all of them where none is named. Ends when the watcher's other end is dropped.
    pub async fn verify_images(
        &self,
        images: Vec<String>,
        depth: Depth,
        watcher: Watcher,
    ) -> Result<Verified> {
        let store = Arc::clone(&self.store);
        blocking(move || Ok(store.verify(&images, depth, &watcher)?)).await
    }

    /// Links every disk whose parent was moved or renamed to it.
    pub async fn repair_images(&self) -> Result<Repaired> {
        let store = Arc::clone(&self.store);
        to_its_end(blocking(move || Ok(store.repair()?))).await
    }

    /// Links an image's file to another's as its parent.
    pub async fn repair_image(
        &self,
        image: &str,
        parent: &str,
        check: ParentCheck,
    ) -> Result<Relinked> {
        let store = Arc::clone(&self.store);
        let (image, parent) = (image.to_owned(), parent.to_owned());
        to_its_end(blocking(move || Ok(store.repair_image(&image, &parent, check)?))).await
    }
}
