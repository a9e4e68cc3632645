//! Any bytes of a disk file that another program would convert: the first says of which format.

use crate::file;
use ireko_images::{DiskFormat, hostile};

/// More is no disk: 64 TiB.
const MAX_DISK: u64 = 64 << 40;

/// A format, and a file.
pub fn run(data: &[u8]) {
    let Some((first, content)) = data.split_first() else { return };
    let format = match first % 3 {
        0 => DiskFormat::Qcow2,
        1 => DiskFormat::Vmdk,
        _ => DiskFormat::Vdi,
    };
    file::with(content, |path| {
        if let Ok(size) = hostile::vet(path, format) {
            assert!((1..=MAX_DISK).contains(&size));
        }
    });
}
