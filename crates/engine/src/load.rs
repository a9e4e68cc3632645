//! Images as other programs save them: docker's archives and OCI layouts.
//!
//! ```text
//!   archive ─► spool ─► images ─► each layer that is not here: VM: ApplyTar over the one below ─► publish
//!                                 all layers are here: configuration and names ─► an image
//! ```
//! What a layer holds only its guest looks at; the host compares digests.

use crate::blocking::{blocking, to_its_end};
use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use crate::progress::Done;
use crate::save::{skeleton_of, skeletons};
use crate::spool::{Spool, receive};
use crate::store::oci::Digest;
use crate::store::{ImageInfo, Name};
use ireko_images::{Ground, SavedImage, SavedImages, Watch, write_skeleton};
use ireko_protocol::plan::Work;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

/// So many bytes are done before it is told again.
const STEP: u64 = 4 << 20;

/// How far a load is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadStep {
    /// Bytes of the archive taken so far, as they came.
    Received(u64),
    /// A layer is looked through; its id is the digest of its tar.
    Layer {
        /// 12 digits of it.
        id: String,
        /// Bytes of the layer as it lies in the archive.
        done: Done,
    },
    /// A VM unpacks the layer.
    Unpacking {
        /// As above.
        id: String,
    },
    /// The layer is here already.
    Known {
        /// As above.
        id: String,
    },
}

/// One image that was loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The image.
    pub image: ImageInfo,
    /// The names that it got now.
    pub names: Vec<Name>,
}

/// Where saved images come from, and who hears of the work.
struct Source {
    saved: Arc<SavedImages>,
    spool: Arc<Spool>,
    told: mpsc::UnboundedSender<LoadStep>,
}

impl Engine {
    /// Loads the images of an archive, plain or compressed with gzip, xz or zstd. They get the names that they have in
    /// it; other images lose these.
    ///
    /// `told` hears how far it is; dropping its other end stops the load. Errors where the archive is malformed, damaged
    /// or for another platform; images before the one that failed stay, as docker's do.
    pub async fn load(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        told: mpsc::UnboundedSender<LoadStep>,
    ) -> Result<Vec<Loaded>> {
        let received = told.clone();
        let spool = receive(self.places().root.clone(), archive, move |bytes| {
            // Nobody has to listen.
            let _ = received.send(LoadStep::Received(bytes));
        })
        .await?;
        let engine = self.clone();
        to_its_end(async move {
            let spool = Arc::new(spool);
            let archive = spool.archive();
            let saved = blocking(move || Ok(Arc::new(SavedImages::open(&archive)?))).await?;
            let source = Source { saved, spool, told };
            let mut loaded = Vec::new();
            for image in source.saved.images() {
                loaded.push(engine.load_image(&source, image, &image.names).await?);
            }
            Ok(loaded)
        })
        .await
    }

    /// Makes an image of the only one in an archive or a folder on this machine, under names that no image has.
    ///
    /// `name` replaces the names that it has there.
    pub(crate) async fn import_saved(
        &self,
        path: PathBuf,
        name: Option<Name>,
        told: mpsc::UnboundedSender<LoadStep>,
    ) -> Result<ImageInfo> {
        let root = self.places().root.clone();
        let (saved, spool) = blocking(move || {
            let spool = Spool::new(&root)?;
            let opening = || format!("open {}", path.display());
            let saved = match path.is_dir() || is_plain(&path).attempt(opening)? {
                true => SavedImages::open(&path)?,
                false => {
                    spool.fill(File::open(&path).attempt(opening)?, |_| {})?;
                    SavedImages::open(&spool.archive())?
                }
            };
            Ok((Arc::new(saved), Arc::new(spool)))
        })
        .await?;
        let source = Source { saved, spool, told };
        let image = match source.saved.images() {
            [image] => image,
            several => {
                let labels: Vec<_> = several.iter().map(SavedImage::label).collect();
                return Err(Error::bad_parameter(format!(
                    "there are {} images in it: {}",
                    several.len(),
                    labels.join(", ")
                ))
                .hint("`ireko load -i FILE` takes all of them, under their own names"));
            }
        };
        let names = name.map_or_else(|| image.names.clone(), |name| vec![name]);
        for name in &names {
            if self.image(&name.familiar()).await.is_ok() {
                return Err(Error::conflict(format!(
                    "the name {} is in use; an import never takes an image's name away",
                    name.familiar()
                ))
                .hint("choose another: ireko image import FILE NAME"));
            }
        }
        Ok(self.load_image(&source, image, &names).await?.image)
    }

    async fn load_image(
        &self,
        source: &Source,
        image: &SavedImage,
        names: &[Name],
    ) -> Result<Loaded> {
        let loaded = self.load_layers(source, image, names).await;
        let store = Arc::clone(&self.store);
        if loaded.is_err() {
            // Layers that were finished are of no use to anybody.
            blocking(move || Ok(store.collect())).await?;
        }
        let image = loaded?;
        let id = image.id.to_string();
        self.emit_image(&id, "load", &id);
        Ok(Loaded { image, names: names.to_vec() })
    }

    async fn load_layers(
        &self,
        source: &Source,
        image: &SavedImage,
        names: &[Name],
    ) -> Result<ImageInfo> {
        let slug = names.first().map_or_else(|| "loaded".to_owned(), slug);
        let (store, common_root) = (Arc::clone(&self.store), self.common_root()?);
        let mut ground = blocking(move || Ok(store.app_ground(&common_root)?)).await?;
        for layer in 0..image.config.document().rootfs.diff_ids.len() {
            if source.told.is_closed() {
                return Err(Error::conflict("the load was cancelled"));
            }
            ground = self.load_layer(source, image, layer, ground, &slug).await?;
        }
        let (store, config, names) =
            (Arc::clone(&self.store), image.config.clone(), names.to_vec());
        blocking(move || Ok(store.publish_loaded(&ground, &config, &slug, &names)?)).await
    }

    async fn load_layer(
        &self,
        source: &Source,
        image: &SavedImage,
        layer: usize,
        below: Ground,
        slug: &str,
    ) -> Result<Ground> {
        let diff_id = image.config.document().rootfs.diff_ids[layer];
        let id = diff_id.hex()[..12].to_owned();
        if let Some(known) = self.store.layer_over(&below, diff_id) {
            let _ = source.told.send(LoadStep::Known { id });
            return Ok(known);
        }
        let (saved, spool, image) =
            (Arc::clone(&source.saved), Arc::clone(&source.spool), image.clone());
        let teller = Teller { id: id.clone(), told: source.told.clone(), last: AtomicU64::new(0) };
        let (store, name) = (Arc::clone(&self.store), slug.to_owned());
        let (pending, below) = blocking(move || {
            let mut file = File::create(spool.layer()).attempt(|| "unpack a layer".to_owned())?;
            saved.unpack_layer(&image, layer, &mut file, &teller)?;
            if let Err(error) = write_skeleton(&spool.layer(), &spool.skeleton()) {
                tracing::warn!(%error, "a layer's tar will not be saved as it came");
            }
            Ok((store.begin_layer(&below, &name)?, below))
        })
        .await?;
        let _ = source.told.send(LoadStep::Unpacking { id: id.clone() });
        let archive = source.spool.layer();
        let unpacked = {
            let work = Work::ApplyTar { archive };
            self.work_in_guest(&pending.leaf, &pending.work_dir, work).await
        };
        let store = Arc::clone(&self.store);
        let (spool, root) = (Arc::clone(&source.spool), self.places().root.clone());
        blocking(move || match unpacked {
            Ok(()) => {
                let layer = store.publish_layer(pending, &below, diff_id)?;
                if let Some(chain) = layer.chain() {
                    keep_skeleton(&root, &spool, chain);
                }
                Ok(layer)
            }
            Err(error) => {
                if let Err(abort) = store.abort_app_layer(pending) {
                    let abort = Error::from(abort).chain();
                    tracing::error!(error = abort, "a layer that failed was not thrown away");
                }
                Err(error)
            }
        })
        .await
    }
}

/// Keeps what a layer's tar can be made of again; without it one is made anew.
fn keep_skeleton(root: &Path, spool: &Spool, chain: Digest) {
    let made = spool.skeleton();
    if !made.is_file() {
        return;
    }
    let kept = std::fs::create_dir_all(skeletons(root))
        .and_then(|()| std::fs::rename(&made, skeleton_of(root, chain)));
    if let Err(error) = kept {
        tracing::warn!(%error, "a layer's tar will not be saved as it came");
    }
}

/// What a layer's file is called after: the last part of the image's name.
fn slug(name: &Name) -> String {
    name.repository().rsplit('/').next().unwrap_or_default().to_owned()
}

/// Tells whether a file's first bytes are of no compression.
fn is_plain(path: &Path) -> std::io::Result<bool> {
    use std::io::Read;
    let mut head = Vec::new();
    File::open(path)?.take(16).read_to_end(&mut head)?;
    Ok(ireko_images::Compression::of(&head) == Ok(ireko_images::Compression::None))
}

/// Tells how far one layer is.
struct Teller {
    id: String,
    told: mpsc::UnboundedSender<LoadStep>,
    last: AtomicU64,
}

impl Watch for Teller {
    fn advanced(&self, current: u64, total: u64) {
        let last = self.last.load(Ordering::Relaxed);
        if current >= last.saturating_add(STEP) || (current == total && current != last) {
            self.last.store(current, Ordering::Relaxed);
            let done = Done { current, total };
            let _ = self.told.send(LoadStep::Layer { id: self.id.clone(), done });
        }
    }

    fn cancelled(&self) -> bool {
        self.told.is_closed()
    }
}
