//! What the verbs on images are asked and answer: `/ireko/images/…`.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which file is to become an image: the body of `POST /ireko/images/import`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Import {
    /// An absolute path on the daemon's machine.
    pub path: PathBuf,
    /// The image's name; a disk is called after its file without one. Of a zip's images it is the
    /// topmost one's, in place of those in the zip.
    pub name: Option<String>,
    /// What the file is, where its content leaves a choice.
    pub format: Option<String>,
    /// What is said about the image; not for zips.
    pub message: String,
    /// Lines of a Dockerfile; for archives of a root file system only.
    pub changes: Vec<String>,
}

/// What an import made, its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The images, each after the one it stands on; those of a zip that were here already too.
    pub images: Vec<ImportedImage>,
    /// Files of a zip that were here already, the same byte for byte.
    pub already_here: Vec<String>,
    /// Names that a zip gives to images, and others have here: they stay theirs.
    pub names_taken: Vec<String>,
    /// Entries of a zip that are neither layers nor about them.
    pub passed_over: Vec<String>,
}

/// An image that an import brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedImage {
    /// Its id with `sha256:`.
    pub id: String,
    /// Its names.
    pub names: Vec<String>,
    /// The key of its file.
    pub guid: String,
    /// The id of the image that it stands on.
    pub parent: Option<String>,
    /// Bytes that its file takes.
    pub own_bytes: u64,
    /// Bytes a guest sees.
    pub virtual_size: u64,
    /// What its data disks are called, in order.
    #[serde(default)]
    pub disks: Vec<String>,
}

/// What a merge made, the result of `POST /ireko/images/{name}/merge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merged {
    /// The new image's id with `sha256:`.
    pub id: String,
    /// Its names.
    pub names: Vec<String>,
    /// How many files it is made of.
    pub files: usize,
    /// Bytes that its file takes.
    pub own_bytes: u64,
    /// What went: names, and ids of images with `sha256:`.
    pub removed: Vec<Removed>,
    /// Images that were to go and stayed, each with the reason, for people.
    pub kept: Vec<String>,
}

/// One thing that went, in docker's form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Removed {
    /// A name.
    Untagged(String),
    /// An image, by its id with `sha256:`.
    Deleted(String),
}

/// What a removal does or would do, the answer of `DELETE /ireko/images/{name}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// It was done, not only shown.
    pub done: bool,
    /// Names and images, in the order in which they go.
    pub removed: Vec<Removed>,
    /// The images that go with their tree, each after all that stand on it.
    pub images: Vec<RemovedImage>,
    /// The containers that keep the tree from going.
    pub containers: Vec<Blocker>,
}

/// An image that goes with its tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedImage {
    /// Its id with `sha256:`.
    pub id: String,
    /// Its names; may be none.
    pub names: Vec<String>,
    /// How many of the images that go it stands on.
    pub level: usize,
    /// Bytes that its own file takes.
    pub own_bytes: u64,
}

/// A container that was made from an image that is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image's id with `sha256:`.
    pub image: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_read_as_scripts_expect_them() {
        let removal = Removal {
            removed: vec![
                Removed::Untagged("a:latest".into()),
                Removed::Deleted("sha256:ab".into()),
            ],
            ..Removal::default()
        };
        let json = serde_json::to_value(&removal).unwrap();
        assert_eq!(json["removed"][0]["Untagged"], "a:latest");
        assert_eq!(json["done"], false);
        assert_eq!(serde_json::from_value::<Removal>(json).unwrap(), removal);
    }
}
