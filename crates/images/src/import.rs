//! Making an app image from work done in a guest: a new layer over the common app root.
//!
//! ```text
//!   begin ──► journal/<guid>/<slug>_<guid>.vhdx ──► the guest writes it ──► publish ──► an image
//!                       │ child of                                     └──► abort ──► nothing
//!             images/app-root_<guid>.vhdx          killed anywhere before publish: nothing
//! ```

use crate::compose::{NewImage, compose};
use crate::error::{Error, Result};
use crate::id::LayerGuid;
use crate::index::Pin;
use crate::journal::{Prepared, Work};
use crate::name::Name;
use crate::state::{Intent, Kind, Role, Sidecar};
use crate::store::{ImageInfo, Store};
use crate::tag::check_spelling;
use crate::{durable, layer_file, names};
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
        let (parent, pin) = self.bring_layer(common_root)?;
        let guid = LayerGuid::random();
        let file = names::disk_file(name, guid);
        let intent = Intent::Arrive { file: file.clone(), reference: None };
        let work = self.journal.begin(guid, &intent, Prepared::default())?;
        let leaf = work.path(&file);
        let parent_file = self.layer_file_name(parent)?;
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
            _parent: pin,
        })
    }

    /// Makes the layer an image, verified and durable, and returns it.
    ///
    /// Nobody has the disk open any more. A failure throws the layer away.
    pub fn publish_app_layer(&self, mut pending: PendingLayer, new: NewImage) -> Result<ImageInfo> {
        pending.settled = true;
        let published = self.publish(&pending, &new);
        if published.is_err() {
            let mut index = self.index();
            if let Err(error) = self.take_back(&mut index, &pending.work, &pending.file) {
                tracing::warn!(error = %crate::error::chain(&error), "import left to the next start");
            }
        }
        published
    }

    /// Throws the layer away.
    pub fn abort_app_layer(&self, mut pending: PendingLayer) -> Result<()> {
        pending.settled = true;
        pending.work.end()
    }

    fn publish(&self, pending: &PendingLayer, new: &NewImage) -> Result<ImageInfo> {
        check_spelling(&self.index(), new.name.as_ref())?;
        let chain = self.chain(&pending.leaf)?;
        layer_file::settle(&chain)?;
        layer_file::verify(&chain)?;
        let kind = Kind::App;
        let config = compose(None, kind, pending.guid, new)?;
        let sidecar = Sidecar {
            guid: pending.guid,
            kind,
            name: pending.name.clone(),
            role: Role::Image(config),
        };
        let intent = Intent::Arrive {
            file: pending.file.clone(),
            reference: new.name.as_ref().map(Name::to_string),
        };
        pending.work.complete(&intent, &sidecar)?;
        let mut index = self.index();
        let id = self.land(&mut index, &pending.work, &pending.file, new.name.as_ref())?;
        let id = id.ok_or_else(|| Error::corrupt("the new image is none"))?;
        Ok(self.info(&index, index.image(&id)?))
    }

    fn layer_file_name(&self, guid: LayerGuid) -> Result<String> {
        let index = self.index();
        let layer = index
            .layer(guid)
            .ok_or_else(|| Error::not_found(format!("no layer {guid} in images/")))?;
        Ok(layer.file.clone())
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
