//! Where archives lie while images are made of them.

use crate::blocking::blocking;
use crate::decompress;
use crate::error::{Attempt, Result};
use crate::names::random_hex;
use std::fs::{self, DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

/// A folder that is removed with all that is in it when the work ends, however it does.
#[derive(Debug)]
pub(crate) struct Spool(PathBuf);

impl Spool {
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let path = spool_folder(root).join(random_hex(12));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .attempt(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Itself.
    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// The archive, uncompressed.
    pub(crate) fn archive(&self) -> PathBuf {
        self.0.join("archive.tar")
    }

    /// What that layer's tar can be made of again.
    pub(crate) fn skeleton(&self) -> PathBuf {
        self.0.join("layer.skeleton")
    }

    /// A list of files.
    pub(crate) fn listing(&self) -> PathBuf {
        self.0.join("files")
    }

    /// One layer out of it, uncompressed.
    pub(crate) fn layer(&self) -> PathBuf {
        self.0.join("layer.tar")
    }

    /// Puts an archive in, uncompressed; `received` is told how many bytes came in so far.
    pub(crate) fn fill(&self, archive: impl Read, received: impl FnMut(u64)) -> Result<()> {
        let mut file = File::create(self.archive()).attempt(|| "receive the archive".to_owned())?;
        decompress::copy(archive, &mut file, received)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a folder is left over");
        }
    }
}

/// Puts an archive that somebody sends into a spool of its own.
pub(crate) async fn receive(
    root: PathBuf,
    archive: impl AsyncRead + Send + Unpin + 'static,
    received: impl FnMut(u64) + Send + 'static,
) -> Result<Spool> {
    let body = SyncIoBridge::new(archive);
    blocking(move || {
        let spool = Spool::new(&root)?;
        spool.fill(body, received)?;
        Ok(spool)
    })
    .await
}

/// The folder of all spools; cleared when an engine opens.
pub(crate) fn spool_folder(root: &Path) -> PathBuf {
    root.join("spool")
}
