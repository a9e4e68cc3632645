//! Making an image of a root file system's tar archive.
//!
//! ```text
//!   body ─► decompress ─► spool file ─► VM: ApplyTar onto a new disk ─► publish ─► image
//! ```
//!
//! The host does not look into the archive: the guest unpacks it.

use crate::blocking::{blocking, to_its_end};
use crate::changes::apply_changes;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::spool::receive;
use crate::store::oci::RunConfig;
use crate::store::{ImageInfo, Name, NewImage};
use ireko_protocol::plan::Work;
use jiff::Timestamp;
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

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
        let spool = receive(root, archive, move |received| {
            // Nobody has to listen.
            let _ = told.send(ImportProgress::Received(received));
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
        let work = Work::ApplyTar { archive: archive.to_owned() };
        let applied = self.work_in_guest(&pending.leaf, &pending.work_dir, work).await;
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
        machine: None,
        generalized: false,
        container: None,
        name: options.name.as_deref().map(Name::parse).transpose()?,
        comment: comment.to_owned(),
        author: String::new(),
        created_by: String::new(),
        created: Timestamp::now(),
    })
}
