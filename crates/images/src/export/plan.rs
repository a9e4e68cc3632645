//! Which files an export reads, and what it says of them.

use super::Layers;
use crate::error::{During, Result};
use crate::id::ImageId;
use crate::index::{Index, Pin};
use crate::state::Exported;
use crate::store::Store;
use jiff::Timestamp;
use std::path::PathBuf;

/// The layers that are exported. They stay in place while this lives.
#[derive(Debug)]
pub(super) struct Plan {
    pub image: ImageId,
    /// Base first.
    pub layers: Vec<PlannedLayer>,
    /// When the image was made.
    pub created: Timestamp,
    _pin: Pin,
}

#[derive(Debug)]
pub(super) struct PlannedLayer {
    /// Its base name.
    pub file: String,
    pub path: PathBuf,
    /// Its sidecar's text, with the names it has.
    pub sidecar: Vec<u8>,
}

impl Plan {
    pub(super) fn make(
        store: &Store,
        index: &mut Index,
        image: &ImageId,
        layers: Layers,
    ) -> Result<Self> {
        let found = index.image(image)?;
        let (guid, own) = (found.layer.sidecar.guid, found.layer.file.clone());
        let created = found.config.document().created.unwrap_or_default();
        let mut lineage = match layers {
            Layers::Own => vec![found.layer],
            Layers::Tree => index.lineage(&own)?,
        };
        lineage.reverse();
        let planned = |layer: &&crate::index::Layer| {
            let names = layer.as_image().map(|image| index.names(&image.id).to_vec());
            let names = names.unwrap_or_default();
            PlannedLayer {
                path: store.image_path(&layer.file),
                sidecar: Exported { sidecar: layer.sidecar.clone(), names }.to_json(),
                file: layer.file.clone(),
            }
        };
        let layers = lineage.iter().map(planned).collect();
        Ok(Self { image: *image, layers, created, _pin: index.pin(guid) })
    }

    /// Returns the length of all disk files.
    pub(super) fn bytes(&self) -> Result<u64> {
        let length = |layer: &PlannedLayer| {
            let file = std::fs::metadata(&layer.path);
            file.map(|file| file.len()).during(|| format!("look at {}", layer.path.display()))
        };
        self.layers.iter().try_fold(0_u64, |sum, layer| Ok(sum.saturating_add(length(layer)?)))
    }
}
