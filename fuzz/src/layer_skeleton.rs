//! Any bytes of a layer's skeleton.

use ireko_images::Bone;
use ireko_images::hostile::skeleton;

/// Its records, uncompressed.
pub fn run(data: &[u8]) {
    let mut skeleton = skeleton(data.to_vec());
    let mut seen = 0;
    while let Ok(Some(bone)) = skeleton.next_bone() {
        seen += match bone {
            Bone::Literal(bytes) => bytes.len(),
            Bone::Content { path, .. } => path.len(),
        };
        assert!(seen <= data.len());
    }
}
