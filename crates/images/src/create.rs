//! Making a container's disk: a new differencing child of an image, in O(1).

use crate::error::{Error, Result};
use crate::id::ImageId;
use crate::store::Store;
use crate::{layer_file, names};
use std::path::{Path, PathBuf};

impl Store {
    /// Makes a scratch disk on top of `image` in `folder`, durably, and returns its path.
    ///
    /// `folder` exists and is one of `<root>/containers/`, because the disk's locator is relative.
    /// Takes the same time and space whatever the image's size and depth.
    pub fn create_scratch(&self, image: &ImageId, folder: &Path) -> Result<PathBuf> {
        self.check_folder(folder)?;
        let (parent, scratch, _pin) = {
            let mut index = self.index();
            let image = index.image(image)?;
            let layer = image.layer;
            // A chain that cannot be walked would only fail later, at start.
            index.lineage(&layer.file)?;
            let (guid, file) = (layer.sidecar.guid, layer.file.clone());
            let scratch = format!("{}{}", names::slug(&layer.sidecar.name), names::DISK_SUFFIX);
            (file, folder.join(scratch), index.pin(guid))
        };
        let locator = names::scratch_locator(self.places.images_name(), &parent);
        layer_file::create_child(&scratch, &self.image_path(&parent), &locator)?;
        Ok(scratch)
    }

    /// Refuses a folder that is no container's.
    pub(crate) fn check_folder(&self, folder: &Path) -> Result<()> {
        match self.places.is_containers(folder) {
            true => Ok(()),
            false => Err(Error::bad_input(format!(
                "{} is not a folder in {}",
                folder.display(),
                self.places.containers.display()
            ))),
        }
    }
}
