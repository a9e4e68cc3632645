//! Making an app image from work done in a guest: a new layer over the common app root.
//!
//! ```text
//!   begin ──► journal/<guid>/<slug>_<guid>.vhdx ──► the guest writes it ──► publish ──► an image
//!                       │ child of                                     └──► abort ──► nothing
//!             images/app-root_<guid>.vhdx          killed anywhere before publish: nothing
//! ```

use crate::compose::{NewImage, compose};
use crate::error::{Error, Result};
use crate::id::{ImageId, LayerGuid};
use crate::index::{Layer, Pin};
use crate::journal::{Prepared, Work};
use crate::layers::Ground;
use crate::name::Name;
use crate::state::{DataLayer, Intent, Kind, Role, Sidecar};
use crate::store::{ImageInfo, Store};
use crate::tag::{NameInUse, check_spelling, check_unused};
use crate::{durable, layer_file, names};
use ireko_oci::ImageConfig;
use std::path::{Path, PathBuf};

/// A layer that is being made. Hand it to [`Store::publish_app_layer`]; what is dropped instead is
/// thrown away, as by [`Store::abort_app_layer`].
#[derive(Debug)]
#[must_use]
pub struct PendingLayer {
    /// The disk to write; [`Store::chain`] gives the files below it.
    pub leaf: PathBuf,
    /// A folder for whatever else the work needs; it goes with the work.
    pub work_dir: PathBuf,
    guid: LayerGuid,
    name: String,
    file: String,
    work: Work,
    /// The work is done, or left to the next start.
    settled: bool,
    _parent: Pin,
}

impl Store {
    /// Makes a new, empty layer over the common app root.
    ///
    /// `common_root` is the cache's `base/root.vhdx`; it is copied into `images/` the first time.
    /// `name` is what the image will be called; the file is named after it.
    pub fn begin_app_layer(&self, common_root: &Path, name: &str) -> Result<PendingLayer> {
        self.begin_layer(&self.app_ground(common_root)?, name)
    }

    /// Makes a new, empty layer; its file is named after `name`.
    pub fn begin_layer(&self, below: &Ground, name: &str) -> Result<PendingLayer> {
        let guid = LayerGuid::random();
        let file = names::disk_file(name, guid);
        let intent = Intent::Arrive { file: file.clone(), reference: None };
        let work = self.journal.begin(guid, &intent, Prepared::default())?;
        let leaf = work.path(&file);
        let parent_file = self.layer_file_name(below.guid)?;
        layer_file::create_child(
            &leaf,
            &self.image_path(&parent_file),
            &names::sibling_locator(&parent_file),
        )
        .inspect_err(|_| end(&work))?;
        Ok(PendingLayer {
            leaf,
            work_dir: work.folder().to_owned(),
            guid,
            name: name.to_owned(),
            file,
            work,
            settled: false,
            _parent: below.pin.clone(),
        })
    }

    /// Makes the layer an image, verified and durable, and returns it.
    ///
    /// Nobody has the disk open any more. A failure throws the layer away.
    pub fn publish_app_layer(&self, pending: PendingLayer, new: NewImage) -> Result<ImageInfo> {
        self.publish(pending, None, Kind::App, (new, Vec::new()), NameInUse::Moves)
    }

    /// The same for a layer over an image, with what is not said anew as that image has it.
    ///
    /// `pending` was begun over [`Store::image_ground`].
    pub fn publish_over(
        &self,
        pending: PendingLayer,
        below: &ImageId,
        new: NewImage,
        in_use: NameInUse,
    ) -> Result<ImageInfo> {
        let (config, kind, disks) = {
            let index = self.index();
            let image = index.image(below)?;
            let sidecar = &image.layer.sidecar;
            (image.config.clone(), sidecar.kind, sidecar.disks.clone())
        };
        self.publish(pending, Some(&config), kind, (new, disks), in_use)
    }

    fn publish(
        &self,
        pending: PendingLayer,
        below: Option<&ImageConfig>,
        kind: Kind,
        (new, disks): (NewImage, Vec<DataLayer>),
        in_use: NameInUse,
    ) -> Result<ImageInfo> {
        let guid = pending.guid;
        self.arrive(pending, (new.name.as_ref(), in_use), |guid, name| {
            let below = below.map(ImageConfig::document);
            let role = Role::Image(compose(below, kind, guid, &new)?);
            Ok(Sidecar { guid, kind, name, chain: None, role, disks, steps: 1 })
        })?;
        let index = self.index();
        let image = index.layer(guid).and_then(Layer::as_image);
        let image = image.ok_or_else(|| Error::not_found("the new image is gone already"))?;
        Ok(self.info(&index, image))
    }

    /// Throws the layer away.
    pub fn abort_app_layer(&self, mut pending: PendingLayer) -> Result<()> {
        pending.settled = true;
        pending.work.end()
    }

    /// Puts a layer that is ready in its place, as `sidecar` says; a failure throws it away.
    pub(crate) fn arrive(
        &self,
        mut pending: PendingLayer,
        (reference, in_use): (Option<&Name>, NameInUse),
        sidecar: impl FnOnce(LayerGuid, String) -> Result<Sidecar>,
    ) -> Result<()> {
        pending.settled = true;
        let PendingLayer { leaf, guid, name, file, work, .. } = &pending;
        let land = || -> Result<()> {
            check_spelling(&self.index(), reference)?;
            let chain = self.chain(leaf)?;
            layer_file::settle(&chain)?;
            layer_file::verify(&chain)?;
            let sidecar = sidecar(*guid, name.clone())?;
            let reference_text = reference.map(Name::to_string);
            let intent = Intent::Arrive { file: file.clone(), reference: reference_text };
            work.complete(&intent, &sidecar)?;
            let mut index = self.index();
            if let (Some(name), NameInUse::Stays) = (reference, in_use) {
                check_unused(&index, name)?;
            }
            self.land(&mut index, work, file, reference).map(drop)
        };
        land().inspect_err(|_| {
            if let Err(error) = self.take_back(&mut self.index(), work, file) {
                tracing::warn!(error = %crate::error::chain(&error), "import left to the next start");
            }
        })
    }

    fn layer_file_name(&self, guid: LayerGuid) -> Result<String> {
        let index = self.index();
        let layer = index
            .layer(guid)
            .ok_or_else(|| Error::not_found(format!("no layer {guid} in images/")))?;
        Ok(layer.file.clone())
    }
}

impl PendingLayer {
    /// Returns the key that the layer is going to have.
    pub(crate) fn guid(&self) -> LayerGuid {
        self.guid
    }
}

impl Drop for PendingLayer {
    fn drop(&mut self) {
        if !self.settled {
            end(&self.work);
        }
    }
}

/// Strikes out work that failed; what stays is thrown away at the next start.
pub(crate) fn end(work: &Work) {
    if let Err(error) = work.end() {
        tracing::warn!(error = %crate::error::chain(&error), "work left to the next start");
        durable::discard(work.folder());
    }
}
