//! Any bytes of a file that is to become an image.

use crate::file;
use ireko_images::recognise as told;

/// The file.
pub fn run(data: &[u8]) {
    file::with(data, |path| {
        let what = told(path, None).ok();
        assert_eq!(told(path, None).ok(), what);
    });
}
