//! What is in `images/`, in memory: layers, who stands on whom, tags, and what may not be swept.
//!
//! A parent is known by the base name that its child's locator carries; the linkage itself is
//! verified by `ireko-disk` whenever a chain is opened.

use crate::commit::{CommitUnderWay, DiskUnderWay};
use crate::error::{Error, Result};
use crate::id::{ImageId, LayerGuid};
use crate::name::Name;
use crate::state::{Role, Sidecar};
use ireko_disk::Guid;
use ireko_oci::ImageConfig;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use unicode_normalization::UnicodeNormalization;

/// The longest lineage that is walked; a longer one is damage or a cycle.
pub(crate) const MAX_LINEAGE: usize = 1024;

/// One file in `images/` and the sidecar beside it.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// The file's base name.
    pub file: String,
    pub sidecar: Sidecar,
    /// What the file says, or why it cannot be read.
    pub disk: std::result::Result<DiskFacts, String>,
}

/// See [`Index::pin`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Pin(Arc<()>);

/// A layer that is an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageRef<'a> {
    pub id: ImageId,
    pub layer: &'a Layer,
    pub config: &'a ImageConfig,
}

impl Layer {
    pub(crate) fn as_image(&self) -> Option<ImageRef<'_>> {
        match &self.sidecar.role {
            Role::Image(config) => {
                Some(ImageRef { id: config.digest().into(), layer: self, config })
            }
            Role::Layer(_) => None,
        }
    }

    /// Returns the key of the parent's name, where there is one and the file can be read.
    fn parent_key(&self) -> Option<&str> {
        self.disk.as_ref().ok()?.parent_key.as_deref()
    }
}

/// What a layer file says about itself.
#[derive(Clone, Debug)]
pub(crate) struct DiskFacts {
    /// What a child recognises the file's bytes by. Copies of the file share it.
    pub identity: Guid,
    /// The parent's base name, as the locator has it.
    pub parent: Option<String>,
    /// The same as [`key`] has it.
    pub parent_key: Option<String>,
    /// Bytes.
    pub virtual_size: u64,
    /// Bytes the file takes on the host.
    pub allocated: u64,
}

/// What a base name is found by: Windows, which wrote some of the locators, knows no case, and a Mac,
/// over which a folder may have come, takes letters with marks apart.
pub(crate) fn key(file: &str) -> String {
    match file.is_ascii() {
        true => file.to_ascii_lowercase(),
        false => file.nfc().collect::<String>().to_lowercase(),
    }
}

/// The tree in memory.
#[derive(Debug, Default)]
pub(crate) struct Index {
    layers: BTreeMap<LayerGuid, Layer>,
    /// By the [`key`] of the base name.
    by_file: HashMap<String, LayerGuid>,
    by_image: HashMap<ImageId, LayerGuid>,
    tags: BTreeMap<Name, ImageId>,
    /// The same the other way round; each image's names are in order.
    names: HashMap<ImageId, Vec<Name>>,
    /// Layers that a verb under way stands on, while its [`Pin`] lives.
    pins: Vec<(LayerGuid, Weak<()>)>,
    /// Commits between their intent and their end, by the frozen file's key.
    pub commits: BTreeMap<LayerGuid, CommitUnderWay>,
    /// Files whose sidecar cannot be read, and why. While there is one, nothing is swept: it may
    /// stand on anything.
    pub damaged: BTreeMap<String, String>,
}

impl Index {
    pub(crate) fn insert(&mut self, layer: Layer) {
        let guid = layer.sidecar.guid;
        self.forget(guid);
        if let Some(id) = layer.sidecar.image_id() {
            self.by_image.insert(id, guid);
        }
        self.by_file.insert(key(&layer.file), guid);
        self.layers.insert(guid, layer);
    }

    pub(crate) fn forget(&mut self, guid: LayerGuid) {
        if let Some(layer) = self.layers.remove(&guid) {
            self.by_file.remove(&key(&layer.file));
            if let Some(id) = layer.sidecar.image_id() {
                self.by_image.remove(&id);
            }
        }
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.layers.values()
    }

    pub(crate) fn images(&self) -> impl Iterator<Item = ImageRef<'_>> {
        self.layers.values().filter_map(Layer::as_image)
    }

    pub(crate) fn layer(&self, guid: LayerGuid) -> Option<&Layer> {
        self.layers.get(&guid)
    }

    pub(crate) fn by_file(&self, file: &str) -> Option<&Layer> {
        self.by_key(&key(file))
    }

    fn by_key(&self, key: &str) -> Option<&Layer> {
        self.layers.get(self.by_file.get(key)?)
    }

    /// Finds an image by its id; docker's words where there is none.
    pub(crate) fn image(&self, id: &ImageId) -> Result<ImageRef<'_>> {
        self.by_image
            .get(id)
            .and_then(|guid| self.layers.get(guid)?.as_image())
            .ok_or_else(|| Error::not_found(format!("No such image: {id}")))
    }

    /// Lists `file` and all it stands on, base last. Bounded, so a cycle is an error.
    pub(crate) fn lineage(&self, file: &str) -> Result<Vec<&Layer>> {
        let mut lineage = Vec::new();
        let first = key(file);
        let mut next = Some((first.as_str(), file));
        let mut child: Option<&str> = None;
        while let Some((key, file)) = next {
            let layer = self.by_key(key).ok_or_else(|| self.missing(file, child))?;
            if lineage.len() == MAX_LINEAGE {
                return Err(Error::corrupt(format!(
                    "{} stands on more than {MAX_LINEAGE} layers, or on itself",
                    lineage.first().map_or(file, |first: &&Layer| &first.file)
                )));
            }
            lineage.push(layer);
            next = match &layer.disk {
                Ok(facts) => facts.parent_key.as_deref().zip(facts.parent.as_deref()),
                Err(reason) => return Err(Error::corrupt(format!("images/{file}: {reason}"))),
            };
            child = Some(&layer.file);
        }
        Ok(lineage)
    }

    /// Counts the steps of a history that made the topmost `files` of a lineage.
    pub(crate) fn steps(&self, file: &str, files: usize) -> Result<usize> {
        let lineage = self.lineage(file)?;
        let steps = lineage.iter().take(files).map(|layer| layer.sidecar.steps as usize);
        Ok(steps.fold(0, usize::saturating_add))
    }

    fn missing(&self, file: &str, child: Option<&str>) -> Error {
        let why = match self.damaged.get(file) {
            Some(reason) => reason.clone(),
            None => format!("images/{file} is not there"),
        };
        let message = match child {
            Some(child) => format!("the parent of images/{child} cannot be used: {why}"),
            None => format!("the parent cannot be used: {why}"),
        };
        Error::corrupt(message).hint(format!("put {file} and its .json back into images/"))
    }

    /// Returns the image that `layer` stands on: the nearest below it.
    pub(crate) fn parent_image(&self, layer: &Layer) -> Option<ImageRef<'_>> {
        self.nearest_by_key(layer.parent_key()?)
    }

    /// Returns `file` if it is an image, else the nearest image below it.
    pub(crate) fn nearest_image(&self, file: &str) -> Option<ImageRef<'_>> {
        self.nearest_by_key(&key(file))
    }

    fn nearest_by_key(&self, key: &str) -> Option<ImageRef<'_>> {
        let mut layer = self.by_key(key)?;
        for _ in 0..MAX_LINEAGE {
            if let Some(image) = layer.as_image() {
                return Some(image);
            }
            layer = self.by_key(layer.parent_key()?)?;
        }
        None
    }

    /// Lists the images that stand on this one with no image between.
    pub(crate) fn child_images(&self, parent: ImageId) -> Vec<ImageRef<'_>> {
        self.images()
            .filter(|child| self.parent_image(child.layer).is_some_and(|p| p.id == parent))
            .collect()
    }

    /// Returns every name there is.
    pub(crate) fn tags(&self) -> &BTreeMap<Name, ImageId> {
        &self.tags
    }

    pub(crate) fn set_tags(&mut self, tags: BTreeMap<Name, ImageId>) {
        self.names.clear();
        for (name, id) in &tags {
            self.names.entry(*id).or_default().push(name.clone());
        }
        self.tags = tags;
    }

    /// Lists an image's names in order.
    pub(crate) fn names(&self, id: &ImageId) -> &[Name] {
        self.names.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// Names an image for people: its first name, else its short id.
    pub(crate) fn label(&self, id: &ImageId) -> String {
        self.names(id).first().map_or_else(|| id.short(), Name::familiar)
    }

    /// Finds the disk of a commit under way whose frozen file is, or will be, called `file`.
    pub(crate) fn commit_of(&self, file: &str) -> Option<&DiskUnderWay> {
        let mut disks = self.commits.values().flat_map(|it| it.data.iter().chain([&it.own]));
        disks.find(|disk| disk.file == file)
    }

    /// Keeps a layer, and all it stands on, from being swept until the pin and its clones are gone.
    pub(crate) fn pin(&mut self, guid: LayerGuid) -> Pin {
        self.pins.retain(|(_, alive)| alive.strong_count() > 0);
        let pin = Pin::default();
        self.pins.push((guid, Arc::downgrade(&pin.0)));
        pin
    }

    /// Refuses while a verb other than that of `own` stands on this layer, or on what stands on it: it may
    /// have listed the files below and not opened them yet.
    pub(crate) fn refuse_read(&self, layer: LayerGuid, own: &Pin) -> Result<()> {
        let own = Arc::downgrade(&own.0);
        let others = self.pins.iter().filter(|(_, alive)| !alive.ptr_eq(&own));
        let others = others.filter(|(_, alive)| alive.strong_count() > 0);
        for other in others.filter_map(|(guid, _)| self.layer(*guid)) {
            let below = self.lineage(&other.file)?;
            if let Some(one) = below.iter().find(|one| one.sidecar.guid == layer) {
                return Err(Error::conflict(format!("{} is being used by another verb", one.file))
                    .hint("try again when that has ended"));
            }
        }
        Ok(())
    }

    pub(crate) fn pinned(&self) -> impl Iterator<Item = LayerGuid> {
        self.pins.iter().filter(|(_, alive)| alive.strong_count() > 0).map(|(guid, _)| *guid)
    }
}
