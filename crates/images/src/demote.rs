//! Images that become mere layers, several at once: all of them or none.
//!
//! What stands on such a layer keeps its bytes; what nothing stands on is swept afterwards.

use crate::error::Result;
use crate::id::ImageId;
use crate::index::Index;
use crate::journal::Work;
use crate::name::Name;
use crate::state::{Gone, Sidecar};
use crate::store::Store;
use crate::{durable, names};

/// Describes an image that goes, with the sidecar it has as a layer.
pub(crate) fn gone(index: &Index, id: &ImageId) -> Result<(Gone, Sidecar)> {
    let layer = index.image(id)?.layer;
    let references = index.names(id).iter().map(Name::to_string).collect();
    Ok((Gone { file: layer.file.clone(), references }, layer.sidecar.as_layer()))
}

impl Store {
    /// Makes the images layers; their sidecars as such are in `work`. Repeated at recovery. Their
    /// names are taken away first, by the caller: from there on nothing needs space.
    pub(crate) fn demote(&self, index: &mut Index, work: &Work, images: &[Gone]) -> Result<()> {
        for Gone { file, .. } in images {
            let prepared = work.path(&names::sidecar_file(file));
            if durable::exists(&prepared)? {
                durable::rename(&prepared, &self.sidecar_path(file))?;
            }
            if durable::exists(&self.sidecar_path(file))? {
                index.insert(self.load(file)?);
            }
        }
        Ok(())
    }

    /// Takes names away, where they are still these images'.
    pub(crate) fn drop_names<'a>(
        &self,
        index: &mut Index,
        names: impl IntoIterator<Item = &'a String>,
    ) -> Result<()> {
        let names: Vec<_> = names.into_iter().collect();
        let mut tags = index.tags().clone();
        tags.retain(|name, _| !names.contains(&&name.to_string()));
        self.set_tags(index, tags)
    }
}
