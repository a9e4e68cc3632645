//! What verifying and repairing images found: `POST /ireko/images/verify`, `/repair`.

use serde::{Deserialize, Serialize};

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// How many images.
    pub images: usize,
    /// How many files they are made of; each is looked at once.
    pub files: usize,
    /// Bytes of data that were read.
    pub read_bytes: u64,
    /// What is wrong; none where all is well.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, or not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// A file in the folder of images, or an image's name.
    pub object: String,
    /// What it is and what follows, for people.
    pub message: String,
    /// How much it matters.
    pub severity: Severity,
}

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Every byte can be read all the same.
    Warning,
    /// A disk, or a part of it, cannot be read or trusted.
    Error,
}

impl Verified {
    /// Whether every image can be read whole.
    pub fn is_sound(&self) -> bool {
        self.problems.iter().all(|problem| problem.severity == Severity::Warning)
    }
}

/// The result of a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// The disks that were linked anew.
    pub linked: Vec<Link>,
    /// The disks whose link is broken still.
    pub broken: Vec<Broken>,
}

/// A disk that was linked anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its path, relative to the root.
    pub disk: String,
    /// Its parent's base name in the folder of images.
    pub parent: String,
}

/// A disk whose link could not be repaired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// Its path, relative to the root.
    pub disk: String,
    /// Why, and what can be done.
    pub reason: String,
}
