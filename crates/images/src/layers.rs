//! Layers of OCI images, each over the one below it, and images on top of them.
//!
//! ```text
//!   app-root ◄─ layer 1 ◄─ layer 2 ◄─ image      the image's own file is empty: what it is, its sidecar says
//!                  ▲
//!                  └─ layer 2' ◄─ image'         a layer is kept once, by its chain id
//! ```
//! Whoever makes an image of several layers holds the [`Ground`] that it has reached, so that nothing of it is swept.

use crate::commit::check_depth;
use crate::error::{Error, Result};
use crate::id::{ImageId, LayerGuid};
use crate::import::PendingLayer;
use crate::index::{Index, Pin};
use crate::name::Name;
use crate::state::{Kind, Role, Sidecar};
use crate::store::{ImageInfo, Store};
use crate::tag::{NameInUse, check_spelling};
use ireko_oci::{Digest, ImageConfig, chain_id};
use std::path::Path;
use std::sync::PoisonError;

/// A layer that others can be made over; it stays as long as this does.
#[derive(Clone, Debug)]
pub struct Ground {
    pub(crate) guid: LayerGuid,
    /// Of all its layers but the common root; `None` for that.
    pub(crate) chain: Option<Digest>,
    pub(crate) pin: Pin,
}

impl Ground {
    /// The chain id of its layers, where it is known.
    pub fn chain(&self) -> Option<Digest> {
        self.chain
    }
}

impl Store {
    /// Returns what the lowest layer of every app image is made over.
    ///
    /// `common_root` is the cache's `base/root.vhdx`; it is copied into `images/` the first time.
    pub fn app_ground(&self, common_root: &Path) -> Result<Ground> {
        let (guid, pin) = self.bring_layer(common_root)?;
        Ok(Ground { guid, chain: None, pin })
    }

    /// Returns what a new layer over an image is made over.
    ///
    /// Fails with [`crate::ErrorKind::Conflict`] where it stands on as many files as can be.
    pub fn image_ground(&self, image: &ImageId) -> Result<Ground> {
        let mut index = self.index();
        let image = index.image(image)?;
        let (guid, chain) = (image.layer.sidecar.guid, image.layer.sidecar.chain);
        let lineage = index.lineage(&image.layer.file)?;
        check_depth(lineage.len() + 1, &self.image_path(&image.layer.file))?;
        let pin = index.pin(guid);
        Ok(Ground { guid, chain, pin })
    }

    /// Finds the layer with these uncompressed bytes over `below`, if it is here.
    pub fn layer_over(&self, below: &Ground, diff_id: Digest) -> Option<Ground> {
        find(&mut self.index(), chain_id(below.chain, diff_id))
    }

    /// Makes the layer durable and returns it: the same one for all that have the same chain id.
    ///
    /// `pending` was begun over `below` and holds the files of the tar with this digest; nobody has the disk open any more. A
    /// failure throws the layer away.
    pub fn publish_layer(
        &self,
        pending: PendingLayer,
        below: &Ground,
        diff_id: Digest,
    ) -> Result<Ground> {
        let chain = chain_id(below.chain, diff_id);
        let _one_at_a_time = self.adopting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = find(&mut self.index(), chain) {
            self.abort_app_layer(pending)?;
            return Ok(found);
        }
        let guid = pending.guid();
        self.arrive(pending, (None, NameInUse::Moves), |guid, name| {
            Ok(Sidecar {
                guid,
                kind: Kind::App,
                name,
                chain: Some(chain),
                role: Role::Layer(None),
                disks: Vec::new(),
                steps: 1,
            })
        })?;
        let pin = self.index().pin(guid);
        Ok(Ground { guid, chain: Some(chain), pin })
    }

    /// Makes an image of a configuration and the layers that it lists, of which `top` is the topmost.
    ///
    /// An image with these names loses them. Where the image is here already it only gets them; an image with its id that was not
    /// made of its layers is [`crate::ErrorKind::Conflict`].
    pub fn publish_loaded(
        &self,
        top: &Ground,
        config: &ImageConfig,
        name: &str,
        names: &[Name],
    ) -> Result<ImageInfo> {
        let listed = &config.document().rootfs.diff_ids;
        let chain = listed.iter().fold(None, |below, diff_id| Some(chain_id(below, *diff_id)));
        if chain != top.chain {
            return Err(Error::bad_input("the layers are not those of the image's configuration"));
        }
        names.iter().try_for_each(|name| check_spelling(&self.index(), Some(name)))?;
        let _one_at_a_time = self.adopting.lock().unwrap_or_else(PoisonError::into_inner);
        let id: ImageId = config.digest().into();
        let here = self.index().image(&id).ok().map(|image| image.layer.sidecar.chain == chain);
        if here == Some(false) {
            return Err(Error::conflict(format!(
                "the image {} is here, but was not made of its layers",
                id.short()
            ))
            .hint("somebody imported it as a disk: remove it first"));
        }
        if here.is_none() {
            let pending = self.begin_layer(top, name)?;
            self.arrive(pending, (names.first(), NameInUse::Moves), |guid, name| {
                let role = Role::Image(config.clone());
                let (kind, disks) = (Kind::App, Vec::new());
                Ok(Sidecar { guid, kind, name, chain, role, disks, steps: 1 })
            })?;
        }
        names.iter().try_for_each(|name| self.tag(&id, name))?;
        let index = self.index();
        Ok(self.info(&index, index.image(&id)?))
    }
}

fn find(index: &mut Index, chain: Digest) -> Option<Ground> {
    let has = index.layers().filter(|layer| layer.sidecar.chain == Some(chain));
    let usable = has.filter(|layer| index.lineage(&layer.file).is_ok());
    // An image's own file is one more in the chain.
    let guid = usable.min_by_key(|layer| layer.as_image().is_some())?.sidecar.guid;
    let pin = index.pin(guid);
    Some(Ground { guid, chain: Some(chain), pin })
}
