//! Making an image of a file, whatever it is: the file says.
//!
//! ```text
//!   recognise ─┬─ disk, OVA, Vagrant box ─► begin ─► fill ─► (qemu-img, confined) ─► publish
//!              ├─ zip ─► all of its layers, or none
//!              ├─ tar of a root file system ─► as an upload of it: see `import.rs`
//!              └─ docker archive, OCI layout ─► see `load.rs`
//! ```
//!
//! The file is on this machine and is only read.

use crate::blocking::{blocking, to_its_end};
use crate::convert::convert;
use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use crate::import::ImportOptions;
use crate::load::LoadStep;
use crate::progress::Watcher;
use crate::store::{ImageInfo, Name};
use ireko_images::{Filled, GivenFormat, Recognised, Watch};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

/// How soon a load stops that nobody wants any more.
const CANCELLED_AFTER: Duration = Duration::from_millis(200);

/// Which file is to become an image, and what is said about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportFile {
    /// An absolute path.
    pub path: PathBuf,
    /// The image's name; a disk is called after its file without one.
    pub name: Option<String>,
    /// What the file is, where it cannot tell itself: one of [`ireko_images::FORMATS`].
    pub format: Option<String>,
    /// What is said about the image.
    pub comment: String,
    /// Lines of a Dockerfile; for archives of a root file system only.
    pub changes: Vec<String>,
}

/// What the import of a file did.
#[derive(Clone, Debug)]
pub struct FileImported {
    /// The images it holds, each after the one it stands on; those of a zip that were here already too.
    pub images: Vec<ImageInfo>,
    /// Files of a zip that were here already, the same byte for byte.
    pub already_here: Vec<String>,
    /// Names that a zip gives to images, and others have here.
    pub names_taken: Vec<String>,
    /// Entries of a zip that are neither layers nor about them.
    pub passed_over: Vec<String>,
}

impl FileImported {
    fn one(image: ImageInfo) -> FileImported {
        let (already_here, names_taken, passed_over) = (Vec::new(), Vec::new(), Vec::new());
        FileImported { images: vec![image], already_here, names_taken, passed_over }
    }
}

impl Engine {
    /// Imports a file as a new image, under a name that no image has; of a zip, all images.
    ///
    /// Errors where the file is nothing that is known or is damaged, where its name or its key is in
    /// use, or where its parent is not here; then nothing is left of it. Likewise when the watcher's
    /// other end is dropped.
    pub async fn import_file(&self, file: ImportFile, watcher: Watcher) -> Result<FileImported> {
        if !file.path.is_absolute() {
            return Err(Error::bad_parameter(format!(
                "{} is not an absolute path",
                file.path.display()
            )));
        }
        let engine = self.clone();
        to_its_end(async move {
            let (path, given) = (file.path.clone(), file.format.clone());
            let what = blocking(move || {
                let given = given.map(|format| format.parse::<GivenFormat>()).transpose()?;
                Ok(ireko_images::recognise(&path, given)?)
            })
            .await?;
            match what {
                Recognised::Disk(_) | Recognised::Packed(..) => {
                    engine.import_disk(file, what, watcher).await.map(FileImported::one)
                }
                Recognised::Zip => engine.import_zip(file, watcher).await,
                Recognised::RootFs => {
                    engine.import_root_fs(file, watcher).await.map(FileImported::one)
                }
                Recognised::DockerArchive | Recognised::OciLayout => {
                    engine.import_saved_file(file, watcher).await.map(FileImported::one)
                }
                _ => Err(Error::unsupported(format!(
                    "{} is a {what}, which Ireko does not import yet",
                    file.path.display()
                ))),
            }
        })
        .await
    }

    async fn import_disk(
        &self,
        file: ImportFile,
        what: Recognised,
        watcher: Watcher,
    ) -> Result<ImageInfo> {
        if !file.changes.is_empty() {
            return Err(Error::bad_parameter(format!(
                "`change` is for archives of a root file system, and this is a {what}: what runs on \
                 it is its own affair"
            )));
        }
        let comment = comment(&file);
        let (store, watcher) = (Arc::clone(&self.store), Arc::new(watcher));
        let mut pending =
            blocking(move || Ok(store.begin_disk(&file.path, what, file.name.as_deref())?)).await?;
        loop {
            let (store, filling) = (Arc::clone(&self.store), Arc::clone(&watcher));
            let (begun, filled) = blocking(move || {
                let filled = store.fill_disk(&mut pending, &*filling)?;
                Ok((pending, filled))
            })
            .await?;
            pending = begun;
            let Filled::ToConvert(conversion) = filled else { break };
            let converted = convert(&self.settings.executable, &conversion, &watcher).await;
            if let Err(error) = converted {
                // What was written may be much to remove.
                blocking(move || {
                    drop(pending);
                    Ok(())
                })
                .await?;
                return Err(error);
            }
        }
        let store = Arc::clone(&self.store);
        let image = blocking(move || {
            if watcher.cancelled() {
                return Err(Error::conflict("the import was cancelled"));
            }
            Ok(store.publish_disk(pending, &comment)?)
        })
        .await?;
        self.emit_image(&image.id.to_string(), "import", &image.id.to_string());
        Ok(image)
    }

    async fn import_zip(&self, file: ImportFile, watcher: Watcher) -> Result<FileImported> {
        for (option, is_given) in
            [("change", !file.changes.is_empty()), ("message", !file.comment.is_empty())]
        {
            if is_given {
                return Err(Error::bad_parameter(format!(
                    "`{option}` is not for zips: their images are taken as they are"
                )));
            }
        }
        let store = Arc::clone(&self.store);
        let imported = blocking(move || {
            let name = file.name.as_deref().map(Name::parse).transpose()?;
            Ok(store.import_zip(&file.path, name.as_ref(), &watcher)?)
        })
        .await?;
        let is_new = |image: &&ImageInfo| {
            let file = image.file.file_name().and_then(|file| file.to_str());
            file.is_some_and(|file| imported.added.iter().any(|added| added == file))
        };
        for image in imported.images.iter().filter(is_new) {
            self.emit_image(&image.id.to_string(), "import", &image.id.to_string());
        }
        Ok(FileImported {
            images: imported.images,
            already_here: imported.already_here,
            names_taken: imported.names_taken,
            passed_over: imported.passed_over,
        })
    }

    async fn import_saved_file(&self, file: ImportFile, watcher: Watcher) -> Result<ImageInfo> {
        if !file.changes.is_empty() || !file.comment.is_empty() {
            return Err(Error::bad_parameter(
                "`change` and `message` are for archives of a root file system: this is an image \
                 with a configuration of its own",
            ));
        }
        let name = file.name.as_deref().map(Name::parse).transpose()?;
        let (told, steps) = mpsc::unbounded_channel();
        // Ends, and with it the load, when nobody watches any more.
        let following = tokio::spawn(follow(steps, watcher));
        let image = self.import_saved(file.path, name, told).await;
        following.abort();
        image
    }

    async fn import_root_fs(&self, file: ImportFile, watcher: Watcher) -> Result<ImageInfo> {
        if let Some(name) = &file.name {
            let name = Name::parse(name)?;
            if self.image(&name.familiar()).await.is_ok() {
                return Err(Error::conflict(format!(
                    "the name {} is in use; an import never takes an image's name away",
                    name.familiar()
                ))
                .hint("choose another: ireko image import FILE NAME"));
            }
        }
        let opening = || format!("open {}", file.path.display());
        let archive = tokio::fs::File::open(&file.path).await.attempt(opening)?;
        let total = archive.metadata().await.attempt(opening)?.len();
        let options =
            ImportOptions { comment: comment(&file), name: file.name, changes: file.changes };
        // How much was received, the watcher is told by the reader.
        let (unheard, _) = tokio::sync::mpsc::unbounded_channel();
        let archive = Watched { inner: archive, done: 0, total, watcher };
        self.import(archive, options, unheard).await
    }
}

/// Tells a watcher how far a load is.
async fn follow(mut steps: mpsc::UnboundedReceiver<LoadStep>, watcher: Watcher) {
    let mut patience = tokio::time::interval(CANCELLED_AFTER);
    while !watcher.cancelled() {
        tokio::select! {
            step = steps.recv() => match step {
                Some(LoadStep::Layer { done, .. }) => watcher.advanced(done.current, done.total),
                Some(_) => {}
                None => return,
            },
            _ = patience.tick() => {}
        }
    }
}

fn comment(file: &ImportFile) -> String {
    let name = file.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    match file.comment.as_str() {
        "" => format!("Imported from {name}"),
        given => given.to_owned(),
    }
}

/// A file that tells how far it was read, and ends with an error when nobody wants it any more.
struct Watched {
    inner: tokio::fs::File,
    done: u64,
    total: u64,
    watcher: Watcher,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.watcher.cancelled() {
            return Poll::Ready(Err(io::Error::other("the import was cancelled")));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.done += buffer.filled().len().saturating_sub(before) as u64;
        self.watcher.advanced(self.done, self.total);
        polled
    }
}
