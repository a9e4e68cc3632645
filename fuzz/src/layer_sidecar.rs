//! Any bytes of a sidecar in a zip of images.

use ireko_images::hostile::sidecar;

/// All of it is the sidecar.
pub fn run(data: &[u8]) {
    if let Ok(written) = sidecar(data) {
        assert_eq!(sidecar(&written).expect("it was just written"), written);
    }
}
