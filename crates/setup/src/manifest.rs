//! The record beside a part of the cache: what it was made from, and its files' sizes and digests.
//!
//! Written last, so a part with a manifest is whole. A part made by another recipe is made anew.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable;
use crate::error::{Error, Result};

pub(crate) const FILE_NAME: &str = "manifest.json";
const FORMAT: u32 = 1;
const MAX_MANIFEST: u64 = 1 << 20;

/// `manifest.json` of the kernel or of the base image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    /// Number of the way the part is made; raised when that changes.
    pub recipe: u32,
    /// Version of what the part is made from.
    pub version: String,
    /// Packages by name, with their versions.
    pub packages: BTreeMap<String, String>,
    /// Files by name, in the same folder.
    pub files: BTreeMap<String, FileRecord>,
}

/// One file of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRecord {
    /// Apparent size.
    pub bytes: u64,
    /// Lower-case hexadecimal digest of the content.
    pub sha256: String,
}

impl Manifest {
    /// Describes `names`, which lie in `folder`.
    pub fn of_files(
        folder: &Path,
        names: &[&str],
        recipe: u32,
        version: &str,
        packages: BTreeMap<String, String>,
    ) -> Result<Self> {
        let mut files = BTreeMap::new();
        for name in names {
            files.insert((*name).to_owned(), FileRecord::of(&folder.join(name))?);
        }
        Ok(Self { format: FORMAT, recipe, version: version.to_owned(), packages, files })
    }

    /// Writes `manifest.json` into `folder`, durably.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        durable::replace_file(&folder.join(FILE_NAME), &text)
    }

    /// Reads the manifest of `folder` and checks that all it names is there at its full size.
    ///
    /// Content is not digested: that would take as long as making the part.
    pub fn read_whole(folder: &Path, recipe: u32) -> std::result::Result<Self, NotWhole> {
        let path = folder.join(FILE_NAME);
        let file = fs::File::open(&path).map_err(|_| NotWhole::Absent)?;
        let mut text = Vec::new();
        file.take(MAX_MANIFEST)
            .read_to_end(&mut text)
            .map_err(|e| NotWhole::Damaged(format!("{}: {e}", path.display())))?;
        let manifest: Self = serde_json::from_slice(&text)
            .map_err(|e| NotWhole::Damaged(format!("{}: {e}", path.display())))?;
        if manifest.format != FORMAT || manifest.recipe != recipe {
            return Err(NotWhole::Outdated);
        }
        for (name, record) in &manifest.files {
            let size = fs::metadata(folder.join(name)).map(|metadata| metadata.len());
            if !size.is_ok_and(|size| size == record.bytes) {
                return Err(NotWhole::Damaged(format!("{name} is missing or cut short")));
            }
        }
        Ok(manifest)
    }
}

impl FileRecord {
    fn of(path: &Path) -> Result<Self> {
        let doing = || Error::io(format!("digest {}", path.display()));
        let mut file = fs::File::open(path).map_err(doing())?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer).map_err(doing())? {
                0 => break,
                read => {
                    hasher.update(&buffer[..read]);
                    bytes += read as u64;
                }
            }
        }
        Ok(Self { bytes, sha256: format!("{:x}", hasher.finalize()) })
    }
}

/// Why a part has to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotWhole {
    Absent,
    Outdated,
    Damaged(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = r#"{
  "format": 1,
  "recipe": 3,
  "version": "6.1.192-2",
  "packages": {
    "linux-image-6.1.0-56-amd64": "6.1.192-2"
  },
  "files": {
    "vmlinux": {
      "bytes": 3,
      "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }
  }
}
"#;

    fn folder_with_part() -> (tempfile::TempDir, Manifest) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("vmlinux"), "abc").unwrap();
        let packages =
            BTreeMap::from([("linux-image-6.1.0-56-amd64".to_owned(), "6.1.192-2".to_owned())]);
        let manifest =
            Manifest::of_files(folder.path(), &["vmlinux"], 3, "6.1.192-2", packages).unwrap();
        manifest.write(folder.path()).unwrap();
        (folder, manifest)
    }

    #[test]
    fn the_file_is_as_it_was_when_this_format_was_fixed() {
        let (folder, _) = folder_with_part();
        assert_eq!(fs::read_to_string(folder.path().join(FILE_NAME)).unwrap(), GOLDEN);
    }

    #[test]
    fn a_whole_part_is_read_back() {
        let (folder, manifest) = folder_with_part();
        assert_eq!(Manifest::read_whole(folder.path(), 3), Ok(manifest));
    }

    #[test]
    fn a_part_that_is_absent_outdated_or_cut_short_is_told_apart() {
        let (folder, _) = folder_with_part();
        assert_eq!(Manifest::read_whole(folder.path(), 4), Err(NotWhole::Outdated));
        fs::write(folder.path().join("vmlinux"), "ab").unwrap();
        assert!(matches!(Manifest::read_whole(folder.path(), 3), Err(NotWhole::Damaged(_))));
        fs::write(folder.path().join(FILE_NAME), "{").unwrap();
        assert!(matches!(Manifest::read_whole(folder.path(), 3), Err(NotWhole::Damaged(_))));
        fs::remove_file(folder.path().join(FILE_NAME)).unwrap();
        assert_eq!(Manifest::read_whole(folder.path(), 3), Err(NotWhole::Absent));
    }
}
