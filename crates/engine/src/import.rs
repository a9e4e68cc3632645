//! Making an image of a root file system's tar archive.
//!
//! ```text
//!   body ─► decompress ─► spool file ─► VM: ApplyTar onto a new disk ─► publish ─► image
//! ```
//!
//! The host does not look into the archive: the guest unpacks it.

use crate::blocking::{blocking, to_its_end};
use crate::changes::apply_changes;
use crate::decompress;
use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use crate::names::random_hex;
use crate::store::oci::RunConfig;
use crate::store::{ImageInfo, Name, NewImage};
use jiff::Timestamp;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;

/// What an imported image is called, and what is said about it.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Its name, `repository[:tag]`; `None` leaves it without one.
    pub name: Option<String>,
    /// What is said about it.
    pub comment: String,
    /// Lines of a Dockerfile that make up its configuration.
    pub changes: Vec<String>,
}

impl ImportOptions {
    /// Errors where the name or a change is malformed.
    pub fn check(&self) -> Result<()> {
        new_image(self).map(drop)
    }
}

/// How far an import is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportProgress {
    /// Bytes of the archive taken so far, as they came.
    Received(u64),
    /// The archive is whole; a VM unpacks it.
    Unpacking,
}

/// A folder that is removed with all that is in it when the import ends, however it does.
struct Spool(PathBuf);

impl Spool {
    fn new(root: &Path) -> Result<Self> {
        let path = spool_folder(root).join(random_hex(12));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .attempt(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }

    fn archive(&self) -> PathBuf {
        self.0.join("archive.tar")
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a folder is left over");
        }
    }
}

/// Where archives lie while they are imported; cleared when an engine opens.
pub(crate) fn spool_folder(root: &Path) -> PathBuf {
    root.join("spool")
}

impl Engine {
    /// Imports a tar archive, plain or compressed with gzip, xz or zstd, as a new app image.
    ///
    /// `progress` is told how far it is; it may lag or be closed. Errors where the archive is
    /// malformed or cut off, compressed in another way, or does not fit; then nothing is left of
    /// it. Where the caller goes away before the archive was whole, likewise.
    pub async fn import(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        options: ImportOptions,
        progress: mpsc::UnboundedSender<ImportProgress>,
    ) -> Result<ImageInfo> {
        let new = new_image(&options)?;
        let root = self.places().root.clone();
        let told = progress.clone();
        let body = SyncIoBridge::new(archive);
        let spool = blocking(move || {
            let spool = Spool::new(&root)?;
            let what = || "receive the archive".to_owned();
            let mut file = File::create(spool.archive()).attempt(what)?;
            decompress::copy(body, &mut file, |received| {
                // Nobody has to listen.
                let _ = told.send(ImportProgress::Received(received));
            })?;
            Ok(spool)
        })
        .await?;
        let _ = progress.send(ImportProgress::Unpacking);
        let engine = self.clone();
        to_its_end(async move {
            let name = file_name(&new);
            let image = engine.apply_archive(&spool.archive(), &name, new).await?;
            engine.emit_image(&image.id.to_string(), "import", &image.id.to_string());
            Ok(image)
        })
        .await
    }

    /// Unpacks an uncompressed archive into a new layer, in a VM, and publishes it.
    ///
    /// `name` is what its file is called after.
    pub(crate) async fn apply_archive(
        &self,
        archive: &Path,
        name: &str,
        new: NewImage,
    ) -> Result<ImageInfo> {
        let store = Arc::clone(&self.store);
        let (common_root, name) = (self.common_root()?, name.to_owned());
        let pending = blocking(move || Ok(store.begin_app_layer(&common_root, &name)?)).await?;
        let applied = self.unpack_in_guest(&pending.leaf, &pending.work_dir, archive).await;
        let store = Arc::clone(&self.store);
        blocking(move || match applied {
            Ok(()) => Ok(store.publish_app_layer(pending, new)?),
            Err(error) => {
                if let Err(abort) = store.abort_app_layer(pending) {
                    let abort = Error::from(abort).chain();
                    tracing::error!(error = abort, "a failed import was not undone");
                }
                Err(error)
            }
        })
        .await
    }
}

/// What the file of a new image is called after: the last part of its name.
fn file_name(new: &NewImage) -> String {
    match &new.name {
        Some(name) => name.repository().rsplit('/').next().unwrap_or_default().to_owned(),
        None => "imported".to_owned(),
    }
}

fn new_image(options: &ImportOptions) -> Result<NewImage> {
    let mut config = RunConfig::default();
    apply_changes(&mut config, &options.changes)?;
    let comment = match options.comment.as_str() {
        "" => "Imported from -",
        given => given,
    };
    Ok(NewImage {
        config,
        name: options.name.as_deref().map(Name::parse).transpose()?,
        comment: comment.to_owned(),
        author: String::new(),
        created_by: String::new(),
        created: Timestamp::now(),
    })
}
