//! Writing an image to a file, or as a zip to whoever reads.

use crate::blocking::{blocking, to_its_end};
use crate::convert::convert;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::progress::Watcher;
use bytes::Bytes;
use ireko_images::{ExportTo, Exported, Filled, Layers};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Bytes that are handed on at once, and how many such pieces wait for a slow reader.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

/// A zip on its way: its bytes, or an error where it breaks off.
pub type ZipPieces = mpsc::Receiver<io::Result<Bytes>>;

impl Engine {
    /// Writes an image to a file of this machine; durable on return.
    ///
    /// Ends, and leaves nothing, when the watcher's other end is dropped.
    pub async fn export_image(
        &self,
        image: &str,
        to: ExportTo,
        watcher: Watcher,
    ) -> Result<Exported> {
        let (engine, image) = (self.clone(), image.to_owned());
        to_its_end(async move { engine.export(image, to, watcher).await }).await
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
