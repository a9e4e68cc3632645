//! Sweeping layers that nothing stands on.
//!
//! ```text
//!   images, containers' disks, verbs under way ──► all they stand on   stays
//!   layers besides                                                     go
//! ```
//!
//! Which layers containers need is read from their disks each time, because those are the truth.
//! If any file cannot be read, nothing is swept: it may stand on anything.

use crate::error::Result;
use crate::id::LayerGuid;
use crate::index::Index;
use crate::store::Store;
use crate::{durable, layer_file};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

impl Store {
    /// Removes the layers that neither an image nor a container needs, and returns their keys.
    ///
    /// For after a container was removed; the store does it by itself when an image is.
    pub fn collect(&self) -> Vec<LayerGuid> {
        sweep(self, &mut self.index())
    }
}

/// Sweeps; a failure is logged and leaves the rest to the next sweep.
pub(crate) fn sweep(store: &Store, index: &mut Index) -> Vec<LayerGuid> {
    match try_sweep(store, index) {
        Ok(swept) => swept,
        Err(error) => {
            tracing::warn!(error = %crate::error::chain(&error), "nothing was swept");
            Vec::new()
        }
    }
}

fn try_sweep(store: &Store, index: &mut Index) -> Result<Vec<LayerGuid>> {
    let mut needed = BTreeSet::new();
    for image in index.images() {
        mark(index, &image.layer.file, &mut needed)?;
    }
    for guid in index.pinned() {
        if let Some(layer) = index.layer(guid) {
            mark(index, &layer.file, &mut needed)?;
        }
    }
    if index.layers().all(|layer| needed.contains(&layer.sidecar.guid)) {
        return Ok(Vec::new());
    }
    if let Some((file, reason)) = index.damaged.iter().next() {
        tracing::warn!(file, reason, "nothing is swept while a file cannot be read");
        return Ok(Vec::new());
    }
    for disk in container_disks(&store.places.containers)? {
        let info = layer_file::info(&disk)?;
        if let Some(parent) = layer_file::parent_name(&info, &disk)? {
            mark(index, &parent, &mut needed)?;
        }
    }
    let mut garbage: Vec<_> = index
        .layers()
        .filter(|layer| !needed.contains(&layer.sidecar.guid))
        .map(|layer| (index.lineage(&layer.file).map_or(0, |l| l.len()), layer.clone()))
        .collect();
    // Children before their parents, so that a crash between leaves no child without one.
    garbage.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
    let mut swept = Vec::new();
    for (_, layer) in garbage {
        let guid = layer.sidecar.guid;
        index.forget(guid);
        durable::remove_file(&store.image_path(&layer.file))?;
        durable::remove_file(&store.sidecar_path(&layer.file))?;
        tracing::info!(file = layer.file, "removed a layer that nothing needed");
        swept.push(guid);
    }
    Ok(swept)
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
                return Err(crate::error::Error::corrupt(format!("images/{file}: {reason}")));
            }
        };
    }
    Ok(())
}

/// Lists every disk in the containers' folders, half-made and half-frozen ones too.
fn container_disks(containers: &Path) -> Result<Vec<PathBuf>> {
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
