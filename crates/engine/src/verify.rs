//! Verifying images, and repairing what links them.

use crate::blocking::{blocking, to_its_end};
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, Result};
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

    /// Links every disk whose parent was moved or renamed to it. Containers of other programs that were
    /// left alone for want of a parent are taken in then.
    pub async fn repair_images(&self) -> Result<Repaired> {
        let (engine, store) = (self.clone(), Arc::clone(&self.store));
        to_its_end(async move {
            let repaired = blocking(move || Ok(store.repair()?)).await?;
            engine.take_in_strangers().await?;
            Ok(repaired)
        })
        .await
    }

    /// Links an image's file, or a container's own disk, to an image's file as its parent.
    ///
    /// A name that both have is the image's. Errors where the container runs or is suspended.
    pub async fn repair_image(
        &self,
        name: &str,
        parent: &str,
        check: ParentCheck,
    ) -> Result<Relinked> {
        let (engine, store) = (self.clone(), Arc::clone(&self.store));
        let (name, parent) = (name.to_owned(), parent.to_owned());
        to_its_end(async move {
            let no_image = match engine.image(&name).await {
                Ok(_) => {
                    let repair = move || Ok(store.repair_image(&name, &parent, check)?);
                    return blocking(repair).await;
                }
                Err(error) => error,
            };
            if let Ok(container) = engine.find(&name) {
                return engine.repair_container(&container, parent, check).await;
            }
            let Some(disk) = engine.disk_of_stranger(&name).await? else { return Err(no_image) };
            let linked = blocking(move || Ok(store.repair_disk(&disk, &parent, check)?)).await?;
            engine.take_in_strangers().await?;
            Ok(linked)
        })
        .await
    }

    async fn repair_container(
        &self,
        container: &Container,
        parent: String,
        check: ParentCheck,
    ) -> Result<Relinked> {
        let _verb = container.verb.lock().await;
        let record = container.record();
        if record.vm().is_some() || record.is_suspended() {
            let message = format!("the disk of container {} is in use", record.name);
            return Err(Error::conflict(message)
                .hint("stop the container first; one that is suspended, start and stop"));
        }
        let (store, disk) = (Arc::clone(&self.store), container.scratch());
        blocking(move || Ok(store.repair_disk(&disk, &parent, check)?)).await
    }
}
