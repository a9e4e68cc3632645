//! The two names that never change: an image's id, and a layer file's GUID.

use crate::error::{Error, Result};
use ireko_disk::Guid;
use ireko_oci::Digest;
use std::fmt;
use std::str::FromStr;

/// An image's id as docker clients see it: the sha256 of its configuration's bytes.
///
/// Displays as `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(Digest);

impl ImageId {
    /// Returns the 64 hex digits.
    pub fn hex(&self) -> String {
        self.0.hex()
    }

    /// Returns the first 12 hex digits, as listings show it.
    pub fn short(&self) -> String {
        self.0.hex()[..12].to_owned()
    }
}

impl From<Digest> for ImageId {
    fn from(digest: Digest) -> ImageId {
        ImageId(digest)
    }
}

impl FromStr for ImageId {
    type Err = Error;

    /// Reads 64 hex digits, with or without `sha256:`.
    fn from_str(text: &str) -> Result<ImageId> {
        Digest::from_hex(text.strip_prefix("sha256:").unwrap_or(text))
            .map(ImageId)
            .map_err(|_| Error::bad_input(format!("{text:?} is not an image id")))
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The tree's key: the GUID in a layer file's name, fixed at the file's birth.
///
/// It is none of the GUIDs *inside* the file: copies of a file share those.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerGuid(Guid);

impl LayerGuid {
    pub(crate) fn random() -> LayerGuid {
        LayerGuid(Guid::random())
    }
}

impl From<Guid> for LayerGuid {
    fn from(guid: Guid) -> LayerGuid {
        LayerGuid(guid)
    }
}

impl FromStr for LayerGuid {
    type Err = Error;

    fn from_str(text: &str) -> Result<LayerGuid> {
        text.parse()
            .map(LayerGuid)
            .map_err(|_| Error::bad_input(format!("{text:?} is not a layer's GUID")))
    }
}

impl fmt::Display for LayerGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for LayerGuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
