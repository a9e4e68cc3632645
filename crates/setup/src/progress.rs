//! What set-up tells while it works.

use std::fmt;
use std::time::Duration;

/// One of the things the cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The guest kernel and its modules.
    Kernel,
    /// The file tree of the base image and the empty disk that app images start from.
    Base,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "guest kernel",
            Self::Base => "base image",
        })
    }
}

/// What set-up does right now; `Display` gives a line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Another set-up of the same cache is at work; this one goes on when that ends.
    Waiting,
    /// The part was whole already.
    Present {
        /// Which part.
        part: Part,
    },
    /// Work on the part begins.
    Making {
        /// Which part.
        part: Part,
    },
    /// The machine's package lists lack something: a private copy is being read.
    ReadingPackageLists,
    /// A package is on its way.
    Downloading {
        /// Its name.
        package: String,
        /// Its size.
        bytes: u64,
    },
    /// A package's files are being unpacked.
    Unpacking {
        /// Its name.
        package: String,
    },
    /// The part is whole and durable.
    Made {
        /// Which part.
        part: Part,
        /// How long it took.
        took: Duration,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => write!(f, "waiting for another set-up of this cache"),
            Self::Present { part } => write!(f, "{part}: already there"),
            Self::Making { part } => write!(f, "{part}: making it"),
            Self::ReadingPackageLists => write!(f, "reading the package lists"),
            Self::Downloading { package, bytes } => {
                write!(f, "downloading {package} ({:.1} MB)", *bytes as f64 / 1e6)
            }
            Self::Unpacking { package } => write!(f, "unpacking {package}"),
            Self::Made { part, took } => write!(f, "{part}: made in {:.1} s", took.as_secs_f64()),
        }
    }
}
