//! Which files an export reads, and what it says of them.

use super::Layers;
use crate::data_disks::DiskName;
use crate::error::{During, Error, Result};
use crate::id::ImageId;
use crate::index::{Index, Pin};
use crate::state::{DataLayer, Exported};
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
    /// Data disks that are not exported.
    pub left_out: Vec<DiskName>,
    _pins: Vec<Pin>,
}

#[derive(Debug)]
pub(super) struct PlannedLayer {
    /// Its base name.
    pub file: String,
    pub path: PathBuf,
    /// Its sidecar's text, with the names it has.
    pub sidecar: Vec<u8>,
}

/// Which files are exported.
#[derive(Clone, Copy)]
pub(super) enum Files<'a> {
    /// Those of the image's disk and of all its data disks.
    Zip(Layers),
    /// Those of one disk: the image's own, or a data disk.
    Disk(Option<&'a DiskName>),
}

fn no_such_disk(name: &DiskName, known: &[DataLayer]) -> Error {
    let names: Vec<_> = known.iter().map(|disk| disk.name.as_str()).collect();
    let error = Error::not_found(format!("the image has no data disk {name}"));
    match names[..] {
        [] => error.hint("it has no data disks at all"),
        _ => error.hint(format!("it has {}", names.join(", "))),
    }
}

impl Plan {
    pub(super) fn make(
        store: &Store,
        index: &mut Index,
        image: &ImageId,
        files: Files<'_>,
    ) -> Result<Self> {
        let found = index.image(image)?;
        let created = found.config.document().created.unwrap_or_default();
        let data = found.layer.sidecar.disks.iter();
        let data = data.map(|disk| index.data_layer(disk)).collect::<Result<Vec<_>>>()?;
        let tops = std::iter::once(found.layer).chain(data.iter().copied());
        let pinned: Vec<_> = tops.clone().map(|layer| layer.sidecar.guid).collect();
        let mut lineage = match files {
            Files::Zip(Layers::Own) => tops.collect(),
            Files::Zip(Layers::Tree) => index.files_of_tree(found.layer)?,
            Files::Disk(None) => index.lineage(&found.layer.file)?,
            Files::Disk(Some(name)) => {
                let known = &found.layer.sidecar.disks;
                let at = known.iter().position(|disk| disk.name.is_same(name));
                let at = at.ok_or_else(|| no_such_disk(name, known))?;
                index.lineage(&data[at].file)?
            }
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
        let left_out = match files {
            Files::Zip(_) => Vec::new(),
            Files::Disk(only) => {
                let disks = found.layer.sidecar.disks.iter().map(|disk| &disk.name);
                let others = disks.filter(|name| only.is_none_or(|only| !only.is_same(name)));
                others.cloned().collect()
            }
        };
        let _pins = pinned.into_iter().map(|guid| index.pin(guid)).collect();
        Ok(Self { image: *image, layers, created, left_out, _pins })
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
