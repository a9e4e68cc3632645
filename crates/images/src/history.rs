//! How an image came about, as its configuration tells it, with the sizes of its files.

use crate::error::Result;
use crate::id::ImageId;
use crate::name::Name;
use crate::store::Store;
use jiff::Timestamp;

/// One step of an image's making.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryStep {
    /// The image that this step made, if it is one here.
    pub image: Option<ImageId>,
    /// That image's names.
    pub names: Vec<Name>,
    /// When.
    pub created: Option<Timestamp>,
    /// By which command.
    pub created_by: String,
    /// What was said about it.
    pub comment: String,
    /// Bytes that the step's file takes on the host; 0 for a step without one.
    pub own_bytes: u64,
}

impl Store {
    /// Lists the steps that made an image, newest first.
    pub fn history(&self, image: &ImageId) -> Result<Vec<HistoryStep>> {
        let index = self.index();
        let image = index.image(image)?;
        // Every step that made a layer has the next file down. The common root of app images is
        // below all of them and no step of anyone's, nor is the empty file of an image that was loaded.
        let lineage = index.lineage(&image.layer.file)?;
        let files = (0..lineage.len()).filter(|&number| {
            let below = lineage.get(number + 1).and_then(|below| below.sidecar.chain);
            below.is_none() || lineage[number].sidecar.chain != below
        });
        // Of steps whose files were folded the uppermost has them all.
        let mut files = files.flat_map(|number| {
            let others = lineage[number].sidecar.steps.saturating_sub(1) as usize;
            std::iter::once(Some(number)).chain(std::iter::repeat_n(None, others))
        });
        let own = std::iter::once(Some(image.id)).chain(std::iter::repeat(None));
        let steps = image.config.document().history.iter().rev().zip(own).map(|(step, own)| {
            let layer = if step.empty_layer { None } else { files.next().flatten() };
            let layer = layer.map(|number| lineage[number]);
            let made = own.or_else(|| layer?.sidecar.image_id());
            HistoryStep {
                image: made,
                names: made.map(|id| index.names(&id).to_vec()).unwrap_or_default(),
                created: step.created,
                created_by: step.created_by.clone(),
                comment: step.comment.clone(),
                own_bytes: layer
                    .and_then(|layer| layer.disk.as_ref().ok())
                    .map_or(0, |facts| facts.allocated),
            }
        });
        Ok(steps.collect())
    }
}
