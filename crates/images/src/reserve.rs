//! A little space kept back, so that images can be removed from a full disk.
//!
//! Removing writes a few small files before it frees anything. On a full file system the reserve
//! is given up for them and taken again afterwards.

use crate::durable;
use crate::error::{ErrorKind, Result};
use std::path::{Path, PathBuf};

const BYTES: usize = 256 << 10;

/// The file that holds the space.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Takes the space if it is not held already; without it all works but removal on a full disk.
    pub(crate) fn open(folder: &Path) -> Reserve {
        let reserve = Reserve { path: folder.join("reserve") };
        reserve.fill();
        reserve
    }

    /// Runs `work`; if the disk is full, once more with the reserve given up.
    pub(crate) fn spend<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        let full = match work() {
            Err(error) if error.kind() == ErrorKind::NoSpace => error,
            other => return other,
        };
        tracing::warn!(error = %full, "disk full: giving up the reserve");
        durable::discard(&self.path);
        let result = work();
        self.fill();
        result
    }

    fn fill(&self) {
        let held = self.path.metadata().is_ok_and(|file| file.len() == BYTES as u64);
        if !held && let Err(error) = durable::replace(&self.path, &vec![0x5a; BYTES]) {
            tracing::warn!(error = %crate::error::chain(&error), "no space can be kept back");
        }
    }
}
