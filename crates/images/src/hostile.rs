//! Readers of what strangers wrote, each by itself: for the fuzzer, which the verbs' files and journal
//! would hold up.

use crate::error::Result;
use crate::import_disk::described;
use crate::recognise::DiskFormat;
use crate::skeleton::Skeleton;
use crate::state::Exported;
use crate::zip_reader::ZipReader;
use crate::{names, vet};
use std::path::Path;

/// The files of the disks that a description of a machine speaks of; `name` is the description's own.
pub fn described(name: &str, text: &[u8]) -> Result<Vec<String>> {
    described::files(name, text)
}

/// What a sidecar in a zip says, written again.
pub fn sidecar(bytes: &[u8]) -> Result<Vec<u8>> {
    Exported::from_json(bytes).map(|sidecar| sidecar.to_json())
}

/// A skeleton's records, which are not compressed here.
pub fn skeleton(records: Vec<u8>) -> Skeleton {
    Skeleton::of(std::io::Cursor::new(records))
}

/// The size of the disk in a file that another program is to convert.
pub fn vet(path: &Path, format: DiskFormat) -> Result<u64> {
    vet::vet(path, format)
}

/// The names of the layers in a zip, with their keys.
pub fn layers_of_zip(path: &Path) -> Result<Vec<String>> {
    Ok(ZipReader::open(path)?.layers.into_iter().map(|layer| layer.file).collect())
}

/// The slug of an image's name.
pub fn slug(name: &str) -> String {
    names::slug(name)
}

/// The slug and the key in a disk file's name.
pub fn disk_file(file: &str) -> Option<(&str, String)> {
    names::parse_disk_file(file).map(|(slug, key)| (slug, key.to_string()))
}
