//! Merging an image with files below it.

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::Result;
use crate::progress::Watcher;
use crate::store::Name;
use ireko_images::{MergeFiles, MergeRequest, Merged, Sources};

impl Engine {
    /// Merges the topmost files of an image into a new image called `name`.
    ///
    /// Errors where the name is in use, and where the sources are to go, where a container was made
    /// from the image. Ends, and leaves nothing, when the watcher's other end is dropped.
    pub async fn merge_image(
        &self,
        image: &str,
        name: &str,
        files: MergeFiles,
        sources: Sources,
        watcher: Watcher,
    ) -> Result<Merged> {
        let name = Name::parse(name)?;
        let request = MergeRequest { image: image.to_owned(), name, files, sources };
        let engine = self.clone();
        blocking(move || {
            let merged = engine.store.merge(&request, &|| engine.image_users(), &watcher)?;
            engine.tell_removed(&merged.image.id.to_string(), &merged.removed);
            engine.emit_image(&merged.image.id.to_string(), "tag", &request.name.familiar());
            engine.fold_soon();
            Ok(merged)
        })
        .await
    }
}
