//! Any bytes of a zip of images: what is in it, and what it says about them.

use crate::file;
use ireko_images::hostile;

/// An archive, as it is.
pub fn run(data: &[u8]) {
    file::with(data, |path| {
        for name in hostile::layers_of_zip(path).unwrap_or_default() {
            assert!(!name.contains(['/', '\\']));
            assert!(hostile::disk_file(&name).is_some(), "{name:?}");
        }
    });
}
