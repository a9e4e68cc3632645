//! What the cache holds: what `ireko doctor` tells of it.

use std::fmt;
use std::path::Path;

use crate::base;
use crate::kernel;
use crate::manifest::NotWhole;

/// State of each part of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The guest kernel; its version is the kernel's.
    pub kernel: PartStatus,
    /// The base image; its version is busybox's.
    pub base: PartStatus,
}

/// State of one part; `Display` gives a few words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartStatus {
    /// Whole, of this version.
    Present {
        /// Version of what it is made from.
        version: String,
    },
    /// Not there.
    Missing,
    /// Made by another version of Ireko, in a way this one does not use.
    Outdated,
    /// There but not usable.
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
}

/// Looks at the cache; changes nothing and reads no file whole. Every state but
/// [`PartStatus::Present`] is cured by [`setup`](crate::setup()).
pub fn status(cache: &Path) -> Status {
    Status { kernel: kernel::find(cache).into(), base: base::find(cache).into() }
}

impl From<Result<String, NotWhole>> for PartStatus {
    fn from(found: Result<String, NotWhole>) -> Self {
        match found {
            Ok(version) => Self::Present { version },
            Err(NotWhole::Absent) => Self::Missing,
            Err(NotWhole::Outdated) => Self::Outdated,
            Err(NotWhole::Damaged(reason)) => Self::Damaged { reason },
        }
    }
}

impl fmt::Display for PartStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present { version } => f.write_str(version),
            Self::Missing => f.write_str("missing"),
            Self::Outdated => f.write_str("made by another version of Ireko"),
            Self::Damaged { reason } => write!(f, "damaged: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_cache_has_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let status = status(cache.path());
        assert_eq!(status, Status { kernel: PartStatus::Missing, base: PartStatus::Missing });
        assert_eq!(status.kernel.to_string(), "missing");
    }
}
