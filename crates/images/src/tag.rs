//! Tags: names that point at images. They live in `tags.json` alone; no file is renamed.

use crate::error::{Error, Result};
use crate::id::ImageId;
use crate::store::Store;
use ireko_oci::Reference;

impl Store {
    /// Gives an image one more name, durably; an image that had the name loses it.
    ///
    /// `:latest` is meant where the reference has no tag. A digest is no name for a local image:
    /// [`crate::ErrorKind::BadInput`].
    pub fn tag(&self, image: &ImageId, reference: &Reference) -> Result<()> {
        let reference = taggable(reference)?;
        let mut index = self.index();
        index.image(image)?;
        let mut tags = index.tags().clone();
        tags.insert(reference, *image);
        self.set_tags(&mut index, tags)
    }
}

/// Returns the reference as it stands in `tags.json`.
pub(crate) fn taggable(reference: &Reference) -> Result<Reference> {
    match reference.digest() {
        Some(_) => Err(Error::bad_input("refusing to create a tag with a digest reference")),
        None => Ok(reference.clone().with_default_tag()),
    }
}
