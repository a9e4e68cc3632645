//! Sweeping layers that nothing stands on.
//!
//! ```text
//!   images, containers' disks, verbs under way ──► all they stand on   stays
//!   layers besides                                                     go
//! ```
//!
//! Which layers containers need is read from their disks each time, because those are the truth.
//! If any file cannot be read, nothing is swept: it may stand on anything.

use crate::error::{Error, Result};
use crate::id::LayerGuid;
use crate::index::{Index, Layer};
use crate::store::Store;
use crate::{durable, layer_file};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file that nothing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// Its base name in `images/`.
    pub file: String,
    /// Its key, if it is a layer; else it is what an interrupted verb left.
    pub layer: Option<LayerGuid>,
    /// Bytes that it takes on the host.
    pub own_bytes: u64,
}

impl Store {
    /// Removes the layers that neither an image nor a container needs, and returns their keys.
    ///
    /// For after a container was removed; the store does it by itself when an image is.
    pub fn collect(&self) -> Vec<LayerGuid> {
        sweep(self, &mut self.index())
    }

    /// Lists the files in `images/` that nothing needs, in the order in which they may be removed.
    ///
    /// Fails with [`crate::ErrorKind::Conflict`] while a file cannot be read: it may stand on
    /// anything.
    pub fn garbage(&self) -> Result<Vec<Garbage>> {
        garbage(self, &self.index())
    }

    /// Removes what [`Store::garbage`] lists, and returns it.
    pub fn collect_garbage(&self) -> Result<Vec<Garbage>> {
        let mut index = self.index();
        let garbage = garbage(self, &index)?;
        for one in &garbage {
            match one.layer {
                Some(guid) => remove_layer(self, &mut index, guid)?,
                None => durable::remove_file(&self.image_path(&one.file))?,
            }
        }
        Ok(garbage)
    }
}

/// Sweeps; a failure is logged and leaves the rest to the next sweep.
pub(crate) fn sweep(store: &Store, index: &mut Index) -> Vec<LayerGuid> {
    let mut swept = Vec::new();
    let mut sweep = || -> Result<()> {
        for layer in unneeded(store, index)? {
            remove_layer(store, index, layer.sidecar.guid)?;
            swept.push(layer.sidecar.guid);
        }
        Ok(())
    };
    if let Err(error) = sweep() {
        tracing::warn!(error = %crate::error::chain(&error), "not all was swept");
    }
    swept
}

fn remove_layer(store: &Store, index: &mut Index, guid: LayerGuid) -> Result<()> {
    let Some(layer) = index.layer(guid).cloned() else { return Ok(()) };
    index.forget(guid);
    durable::remove_file(&store.image_path(&layer.file))?;
    durable::remove_file(&store.sidecar_path(&layer.file))?;
    tracing::info!(file = layer.file, "removed a layer that nothing needed");
    Ok(())
}

fn garbage(store: &Store, index: &Index) -> Result<Vec<Garbage>> {
    let mut garbage: Vec<_> = unneeded(store, index)?
        .into_iter()
        .map(|layer| Garbage {
            layer: Some(layer.sidecar.guid),
            own_bytes: layer.disk.as_ref().map_or(0, |facts| facts.allocated),
            file: layer.file,
        })
        .collect();
    // Under the index's lock nobody else writes in `images/`: what is being made is left over.
    for file in durable::names_in(&store.places.images)? {
        if durable::is_aside(&file) {
            let metadata = store.image_path(&file).metadata();
            let own_bytes = metadata.map_or(0, |metadata| metadata.blocks() * 512);
            garbage.push(Garbage { file, layer: None, own_bytes });
        }
    }
    Ok(garbage)
}

/// Lists the layers that nothing needs, children before their parents, so that a crash between
/// leaves no child without one.
fn unneeded(store: &Store, index: &Index) -> Result<Vec<Layer>> {
    let mut needed = BTreeSet::new();
    let of_images = index.images().flat_map(|image| {
        let disks = image.layer.sidecar.disks.iter().map(|disk| disk.guid);
        std::iter::once(image.layer.sidecar.guid).chain(disks)
    });
    for guid in of_images.chain(index.pinned()) {
        if let Some(layer) = index.layer(guid) {
            mark(index, &layer.file, &mut needed)?;
        }
    }
    if index.layers().all(|layer| needed.contains(&layer.sidecar.guid)) {
        return Ok(Vec::new());
    }
    if let Some((file, reason)) = index.damaged.iter().next() {
        let message = format!("nothing is swept while images/{file} cannot be read: {reason}");
        return Err(Error::conflict(message).hint("repair that file, or move it away"));
    }
    for disk in container_disks(&store.places.containers)? {
        let info = layer_file::info(&disk)?;
        if let Some(parent) = layer_file::parent_name(&info, &disk)? {
            mark(index, &parent, &mut needed)?;
        }
    }
    let mut unneeded: Vec<_> = index
        .layers()
        .filter(|layer| !needed.contains(&layer.sidecar.guid))
        .map(|layer| (index.lineage(&layer.file).map_or(0, |l| l.len()), layer.clone()))
        .collect();
    unneeded.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
    Ok(unneeded.into_iter().map(|(_, layer)| layer).collect())
}

/// Marks `file` and all it stands on.
fn mark(index: &Index, file: &str, needed: &mut BTreeSet<LayerGuid>) -> Result<()> {
    let mut next = Some(file);
    while let Some(file) = next {
        // What is not there needs no keeping; whoever stands on it is told when it is opened.
        let Some(layer) = index.by_file(file) else { return Ok(()) };
        if !needed.insert(layer.sidecar.guid) {
            return Ok(());
        }
        next = match &layer.disk {
            Ok(facts) => facts.parent.as_deref(),
            Err(reason) => {
                return Err(Error::corrupt(format!("images/{file}: {reason}")));
            }
        };
    }
    Ok(())
}

/// Lists every disk in the containers' folders, half-made and half-frozen ones too.
pub(crate) fn container_disks(containers: &Path) -> Result<Vec<PathBuf>> {
    let mut disks = Vec::new();
    for container in durable::names_in(containers)? {
        let folder = containers.join(container);
        if !folder.is_dir() {
            continue;
        }
        for name in durable::names_in(&folder)? {
            let lower = name.to_ascii_lowercase();
            if lower.contains(".vhdx") || lower.contains(".avhdx") {
                disks.push(folder.join(name));
            }
        }
    }
    Ok(disks)
}
