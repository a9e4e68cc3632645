//! The store itself: its folders, its one lock, and what it knows of an image.

use crate::claims::Claims;
use crate::data_disks::ImageDisk;
use crate::error::Result;
use crate::id::{ImageId, LayerGuid};
use crate::index::{ImageRef, Index, Layer};
use crate::journal::Journal;
use crate::leaf_facts::LeafFacts;
use crate::name::Name;
use crate::places::Places;
use crate::reserve::Reserve;
use crate::state::{DataLayer, Kind, tags_to_json};
use crate::{durable, recover};
use ireko_oci::ImageConfig;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The tree of images under one root folder, and every verb on it.
///
/// One process at a time may hold a root's store (the daemon does, under its own lock). Within it
/// the store may be shared by threads; every call may wait for the disk.
#[derive(Debug)]
pub struct Store {
    pub(crate) places: Places,
    pub(crate) journal: Journal,
    pub(crate) reserve: Reserve,
    /// Held while files are copied in, so that each is copied once.
    pub(crate) adopting: Mutex<()>,
    /// Held while layers are folded.
    pub(crate) folding: Mutex<()>,
    pub(crate) claims: Claims,
    pub(crate) leaves: LeafFacts,
    index: Mutex<Index>,
}

/// What the store knows of an image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImageInfo {
    /// Its id: the sha256 of its configuration.
    pub id: ImageId,
    /// The key of its file.
    pub guid: LayerGuid,
    /// Its file.
    pub file: PathBuf,
    /// What a container of it is.
    pub kind: Kind,
    /// The name given at birth.
    pub name: String,
    /// What it is called now, in order; no name is normal.
    pub names: Vec<Name>,
    /// When it was made; 1970 where its configuration does not say.
    pub created: Timestamp,
    /// Its configuration.
    pub config: ImageConfig,
    /// The key of the file it stands on.
    pub parent: Option<LayerGuid>,
    /// The file it stands on.
    pub parent_file: Option<PathBuf>,
    /// The nearest image below it.
    pub parent_image: Option<ImageId>,
    /// How many files its disk is made of, itself included.
    pub depth: usize,
    /// Its data disks, in the order in which its containers have them.
    pub disks: Vec<ImageDisk>,
    /// Bytes that its own file, and those of its data disks, take on the host.
    pub own_bytes: u64,
    /// Bytes that its whole chain, and those of its data disks, take on the host.
    pub total_bytes: u64,
    /// Bytes a guest sees.
    pub virtual_size: u64,
    /// Why its disk cannot be used, where it cannot.
    pub damage: Option<String>,
}

impl Store {
    /// Opens the store under `root`, making what is missing.
    ///
    /// Verbs that a crash interrupted are finished or undone first; files in `images/` that came
    /// without a sidecar are taken in as machine images; layers nobody needs are swept. A file that
    /// cannot be read does not fail the call: it is logged, and using it fails.
    pub fn open(root: &Path) -> Result<Store> {
        let places = Places::open(root)?;
        let store = Store {
            journal: Journal::open(&root.join("journal"))?,
            reserve: Reserve::open(&root.join("journal")),
            adopting: Mutex::default(),
            folding: Mutex::default(),
            claims: Claims::default(),
            leaves: LeafFacts::default(),
            index: Mutex::default(),
            places,
        };
        recover::recover(&store)?;
        Ok(store)
    }

    /// Returns the folder of all containers' folders.
    pub fn containers(&self) -> &Path {
        &self.places.containers
    }

    /// Lists all images, in the order of their keys.
    pub fn list(&self) -> Vec<ImageInfo> {
        let index = self.index();
        index.images().map(|image| self.info(&index, image)).collect()
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        // The index changes only after the disk has; a panic between leaves at worst too little.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn image_path(&self, file: &str) -> PathBuf {
        self.places.images.join(file)
    }

    /// Makes `tags` the store's tags, on disk and in memory.
    pub(crate) fn set_tags(&self, index: &mut Index, tags: BTreeMap<Name, ImageId>) -> Result<()> {
        // Compared as written: names are equal in any spelling.
        let json = tags_to_json(&tags);
        if tags_to_json(index.tags()) != json {
            durable::replace(&self.places.tags, &json)?;
            index.set_tags(tags);
        }
        Ok(())
    }

    pub(crate) fn info(&self, index: &Index, image: ImageRef<'_>) -> ImageInfo {
        let ImageRef { id, layer, config } = image;
        let lineage = index.lineage(&layer.file);
        let files = index.files_of_image(layer);
        let damage = files.as_ref().err().map(|error| error.to_string());
        let (lineage, files) = (lineage.unwrap_or_default(), files.unwrap_or_default());
        let allocated =
            |layer: &Layer| layer.disk.as_ref().map(|facts| facts.allocated).unwrap_or_default();
        let disks = layer.sidecar.disks.iter().map(|disk| index.data_layer(disk).ok());
        let sizes = disks.clone().map(|layer| {
            layer.and_then(|layer| layer.disk.as_ref().ok()).map_or(0, |facts| facts.virtual_size)
        });
        ImageInfo {
            disks: (layer.sidecar.disks.iter().zip(sizes))
                .map(|(DataLayer { name, guid }, virtual_size)| ImageDisk {
                    name: name.clone(),
                    guid: *guid,
                    virtual_size,
                })
                .collect(),
            id,
            guid: layer.sidecar.guid,
            file: self.image_path(&layer.file),
            kind: layer.sidecar.kind,
            name: layer.sidecar.name.clone(),
            names: index.names(&id).to_vec(),
            created: config.document().created.unwrap_or_default(),
            parent: lineage.get(1).map(|parent| parent.sidecar.guid),
            parent_file: lineage.get(1).map(|parent| self.image_path(&parent.file)),
            parent_image: index.parent_image(layer).map(|parent| parent.id),
            depth: lineage.len(),
            own_bytes: disks.clone().flatten().chain([layer]).map(allocated).sum(),
            total_bytes: files.iter().map(|layer| allocated(layer)).sum(),
            virtual_size: layer.disk.as_ref().map(|facts| facts.virtual_size).unwrap_or_default(),
            damage,
            config: config.clone(),
        }
    }
}
