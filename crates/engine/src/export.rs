//! Writing an image to a file, or as a zip to whoever reads.

use crate::blocking::{blocking, to_its_end};
use crate::commit::CommitOptions;
use crate::container::Container;
use crate::convert::convert;
use crate::definition::{self, Machine};
use crate::durable;
use crate::engine::Engine;
use crate::error::{Attempt, Error, ErrorKind, Result};
use crate::progress::Watcher;
use crate::spec::ContainerSpec;
use crate::store::Kind;
use bytes::Bytes;
use ireko_images::{ExportTo, Exported, Filled, Layers};
use ireko_protocol::export::{Definition, ExportFormat as Format};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Bytes that are handed on at once, and how many such pieces wait for a slow reader.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

/// What is written beside a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct With {
    /// For whom.
    pub definitions: Vec<Definition>,
    /// What the disk is written as.
    pub format: Format,
}

/// A zip on its way: its bytes, or an error where it breaks off.
pub type ZipPieces = mpsc::Receiver<io::Result<Bytes>>;

impl Engine {
    /// Writes an image, or what a container's disk is now, to a file of this machine, and what
    /// `with` asks for beside it; durable on return.
    ///
    /// A name that both have is the image's. Ends, and leaves nothing, when the watcher's other end
    /// is dropped.
    pub async fn export_image(
        &self,
        reference: &str,
        to: ExportTo,
        with: With,
        watcher: Watcher,
    ) -> Result<(Exported, Vec<PathBuf>)> {
        let (engine, reference) = (self.clone(), reference.to_owned());
        to_its_end(async move {
            let image = match engine.image(&reference).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let Ok(container) = engine.find(&reference) else { return Err(error) };
                    return engine.export_container(&container, to, with, watcher).await;
                }
                found => found?,
            };
            let machine = match image.kind {
                Kind::App => None,
                Kind::Machine => {
                    let config = engine.machine_for(&ContainerSpec::default(), &image).await?;
                    Some(Machine::of_image(config))
                }
            };
            engine.export_with(image.id.to_string(), machine, to, with, watcher).await
        })
        .await
    }

    /// By way of an image that is gone afterwards.
    async fn export_container(
        &self,
        container: &Container,
        to: ExportTo,
        with: With,
        watcher: Watcher,
    ) -> Result<(Exported, Vec<PathBuf>)> {
        let record = container.record();
        let options = CommitOptions { freeze_guest: true, ..CommitOptions::default() };
        let image = self.commit(&record.id, options).await?.image;
        let machine = match record.process.is_machine() {
            false => None,
            true => {
                let config = self.machine_for(&record.spec, &image).await?;
                Some(Machine::of_container(&record, config))
            }
        };
        let id = image.id.to_string();
        let exported = self.export_with(id.clone(), machine, to, with, watcher).await;
        if let Err(error) = self.remove_image(&id, false).await {
            tracing::warn!(error = error.chain(), id, "an image is left over");
        }
        exported
    }

    async fn export_with(
        &self,
        image: String,
        machine: Option<Machine>,
        to: ExportTo,
        with: With,
        watcher: Watcher,
    ) -> Result<(Exported, Vec<PathBuf>)> {
        let definitions = define(machine.as_ref(), &to, &with)?;
        let exported = self.export(image, to, watcher).await?;
        let files = blocking(move || {
            for (file, text) in &definitions {
                durable::write(file, text.as_bytes())
                    .attempt(|| format!("write {}", file.display()))?;
            }
            Ok(definitions.into_iter().map(|(file, _)| file).collect())
        })
        .await?;
        Ok((exported, files))
    }

    async fn export(&self, image: String, to: ExportTo, watcher: Watcher) -> Result<Exported> {
        let (store, watcher) = (Arc::clone(&self.store), Arc::new(watcher));
        let (name, filling) = (image.clone(), Arc::clone(&watcher));
        let (pending, filled) = blocking(move || {
            let pending = store.begin_export(&store.find(&name)?.id, &to)?;
            let filled = store.fill_export(&pending, &*filling)?;
            Ok((pending, filled))
        })
        .await?;
        let converted = match filled {
            Filled::ToConvert(conversion) => {
                convert(&self.settings.executable, &conversion, &watcher).await
            }
            Filled::Whole => Ok(()),
        };
        let store = Arc::clone(&self.store);
        // On a thread whatever happens: there may be much to remove.
        let exported = blocking(move || {
            let pending = converted.map(|()| pending)?;
            Ok(store.publish_export(pending, &*watcher)?)
        })
        .await?;
        self.emit_image(&exported.image.to_string(), "save", &image);
        Ok(exported)
    }

    /// Begins to zip an image; what is not read holds it up, and a reader that goes away ends it.
    ///
    /// Errors where there is no such image. What fails later breaks the zip off.
    pub async fn stream_zip(&self, image: &str, layers: Layers) -> Result<ZipPieces> {
        let (store, name) = (Arc::clone(&self.store), image.to_owned());
        let found = blocking(move || Ok(store.find(&name)?)).await?;
        let (sender, pieces) = mpsc::channel(PIECES);
        let (engine, image) = (self.clone(), image.to_owned());
        tokio::task::spawn_blocking(move || {
            let mut out = BufWriter::with_capacity(PIECE, Sink(sender.clone()));
            match engine.store.export_zip(&found.id, layers, &mut out, &()) {
                Ok(_) => engine.emit_image(&found.id.to_string(), "save", &image),
                Err(error) => {
                    let error = Error::from(error).chain();
                    tracing::warn!(error, image, "an export broke off");
                    // Whoever reads may be gone, which is why it broke off.
                    let _ = sender.blocking_send(Err(io::Error::other(error)));
                }
            }
        });
        Ok(pieces)
    }
}

/// The files that start the machine elsewhere, none of which is there.
fn define(machine: Option<&Machine>, to: &ExportTo, with: &With) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for definition in &with.definitions {
        let machine = machine.ok_or_else(|| {
            Error::bad_parameter(
                "this is no whole operating system: no other program could start its disk",
            )
        })?;
        let file = definition::place(&to.file, *definition);
        if file == to.file || (file.exists() && !to.replace) {
            return Err(Error::conflict(format!("{} is there already", file.display()))
                .hint("--force replaces it"));
        }
        files.push((file, definition::write(*definition, machine, &to.file, with.format)?));
    }
    Ok(files)
}

/// Hands bytes on; fails once nobody reads them.
struct Sink(mpsc::Sender<io::Result<Bytes>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
