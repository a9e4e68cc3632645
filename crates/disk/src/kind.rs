//! Fixed, dynamic, differencing: how a file gives a disk's blocks space. The same words in VHDX and VHD.

use std::fmt;

/// How a file gives its blocks space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Every block has its place in the file, and keeps it.
    Fixed,
    /// Blocks get a place when they are written.
    Dynamic,
    /// As dynamic; what the file does not hold is its parent's.
    Differencing,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        })
    }
}

/// When the blocks of a new disk get their place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provision {
    /// As they are written: a dynamic disk.
    Dynamic,
    /// All at once: a fixed disk, whose file is as long as it will ever be.
    ///
    /// The file is sparse; `preallocate` takes the host's space too, so that writing cannot run out of it. What the guest
    /// discards goes back to the host in either case.
    Fixed {
        /// Whether to take the host's space.
        preallocate: bool,
    },
}
