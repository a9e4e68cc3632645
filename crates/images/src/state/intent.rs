//! Verbs under way, as the journal has them.

use super::{VERSION, Versioned, WITH_DISKS, damaged, from_json, read, to_json};
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One verb under way: `journal/<guid>/entry.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub(crate) enum Intent {
    /// A layer file is on its way into `images/`.
    Arrive {
        /// Its base name there.
        file: String,
        /// The name it then gets, in full.
        reference: Option<String>,
    },
    /// A container's disk is being frozen into `images/`.
    Commit {
        /// The frozen file's base name there.
        file: String,
        /// The container's disk, relative to the root.
        leaf: String,
        /// The name it then gets, in full.
        reference: Option<String>,
        /// Its data disks, which are frozen before it. What was frozen becomes a layer in any case.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        disks: Vec<FrozenDisk>,
    },
    /// An image is becoming a mere layer.
    Remove {
        /// The image's file in `images/`.
        file: String,
        /// The names it loses, in full.
        references: Vec<String>,
    },
    /// Several images are becoming mere layers, all or none.
    RemoveAll {
        /// In the order in which they are told of.
        images: Vec<Gone>,
    },
    /// A layer file is being replaced by one with the same bytes over a lower parent, and is another
    /// image from then on.
    Replace(Replacement),
    /// A layer that is no image is being replaced by one with the same bytes over a lower parent.
    Fold {
        /// The file's base name in `images/`, and of the new one in the journal.
        file: String,
    },
    /// Disks are being told where their parents are.
    Relink {
        /// In order.
        links: Vec<Link>,
    },
    /// Several layer files are on their way into `images/`, all or none.
    ArriveAll {
        /// Base first; none as long as they are being made.
        arrivals: Vec<Arrival>,
    },
    /// An image is being written to a file outside the root.
    Export {
        /// The folder in which that is done; it goes whatever happens.
        folder: String,
    },
}

/// A data disk that is being frozen. Its sidecar lies in the journal under the name that it gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct FrozenDisk {
    /// The frozen file's base name in `images/`.
    pub file: String,
    /// The container's disk, relative to the root.
    pub leaf: String,
}

/// A disk and the file that becomes its parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// The disk, relative to the root.
    pub disk: String,
    /// The parent's base name in `images/`.
    pub parent: String,
    /// Whatever the parent's bytes are.
    pub force: bool,
}

/// See [`Intent::Replace`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Replacement {
    /// The file's base name in `images/`, and of the new one in the journal.
    pub file: String,
    /// The names that the image it was loses, in full.
    pub former: Vec<String>,
    /// The name that the image it becomes gets, in full.
    pub reference: String,
    /// Images below that become mere layers.
    pub images: Vec<Gone>,
}

/// An image that becomes a mere layer. Its sidecar as such lies in the journal under the name that it
/// gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gone {
    /// The image's file in `images/`.
    pub file: String,
    /// The names it loses, in full.
    pub references: Vec<String>,
}

/// A layer that comes with others. Its sidecar lies in the journal under the name that it gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// Its base name in `images/`.
    pub file: String,
    /// Its disk file comes too; else that is there, and becomes an image or gets names.
    pub brings_disk: bool,
    /// The names it gets, in full.
    pub names: Vec<String>,
}

impl Intent {
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let version = match self {
            Intent::Commit { disks, .. } if !disks.is_empty() => WITH_DISKS,
            _ => VERSION,
        };
        to_json(&Versioned { version, body: self.clone() })
    }

    pub(crate) fn read(path: &Path) -> Result<Intent> {
        read(path).and_then(|bytes| from_json(&bytes)).map_err(|error| damaged(path, &error))
    }
}
