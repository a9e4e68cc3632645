//! What an image's disk is made of, as the layers that other programs know.
//!
//! ```text
//!   app-root ◄─ a layer that was loaded ◄─ (an image's own file, empty) ◄─ a commit
//!   the floor   its digest is known         passed over                   its digest is not
//! ```

use crate::error::Result;
use crate::id::{ImageId, LayerGuid};
use crate::layers::Ground;
use crate::store::Store;
use ireko_oci::{Digest, chain_id};

/// An image's layers.
#[derive(Debug)]
pub struct Stack {
    /// The empty disk below the lowest; `None` where the lowest stands on nothing.
    pub floor: Option<Ground>,
    /// Lowest first.
    pub layers: Vec<StackedLayer>,
}

/// One layer.
#[derive(Debug)]
pub struct StackedLayer {
    /// The key of its file.
    pub guid: LayerGuid,
    /// Itself and all below it.
    pub ground: Ground,
    /// The digest of its tar, where it came as one.
    pub diff_id: Option<Digest>,
    /// How many steps of the image's history made it.
    pub steps: u32,
}

impl Store {
    /// Lists an image's layers.
    pub fn stack(&self, image: &ImageId) -> Result<Stack> {
        let mut index = self.index();
        let found = index.image(image)?;
        let diff_ids = found.config.document().rootfs.diff_ids.clone();
        let lineage = index.lineage(&found.layer.file)?;
        let files: Vec<_> = lineage
            .iter()
            .rev()
            .map(|layer| {
                let sidecar = &layer.sidecar;
                (sidecar.guid, sidecar.chain, sidecar.config().is_some(), sidecar.steps)
            })
            .collect();
        let mut stack = Stack { floor: None, layers: Vec::new() };
        let mut below = None;
        for (number, (guid, chain, has_config, steps)) in files.into_iter().enumerate() {
            let ground = Ground { guid, chain, pin: index.pin(guid) };
            if number == 0 && !has_config && chain.is_none() {
                stack.floor = Some(ground);
                continue;
            }
            if chain.is_some() && chain == below {
                continue;
            }
            let is_it = |diff_id: &Digest| Some(chain_id(below, *diff_id)) == chain;
            let diff_id = diff_ids.iter().copied().find(is_it);
            stack.layers.push(StackedLayer { guid, ground, diff_id, steps });
            below = chain;
        }
        Ok(stack)
    }

    /// Tells whether a layer of this chain id is here.
    pub fn has_chain(&self, chain: Digest) -> bool {
        self.index().layers().any(|layer| layer.sidecar.chain == Some(chain))
    }
}
