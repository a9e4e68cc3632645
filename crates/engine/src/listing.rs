//! A disk's entries, as its guest lists them or as they were kept in a file.

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{Attempt, Error, Result};
use crate::files::{Job, plain};
use crate::guest_work::{FileVm, GuestDisk};
use crate::shim_client::ShimSocket;
use crate::spool::Spool;
use ireko_images::{Ground, PendingLayer};
use ireko_protocol::files::FileJob;
use ireko_protocol::listing::Listed;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The most bytes of a listing: some ten million files.
const MOST: u64 = 1 << 30;
const PIECE: usize = 64 << 10;

/// Entries, in the order of [`ireko_protocol::listing`].
pub(crate) struct Listing {
    source: Source,
    ahead: Vec<u8>,
    used: usize,
    taken: u64,
}

enum Source {
    Guest(Option<Job>),
    File(File),
}

impl Listing {
    /// Has a guest list its disk.
    pub(crate) async fn of_guest(shim: &ShimSocket) -> Result<Self> {
        let job = Job::begin(shim, FileJob::List).await.map_err(plain)?;
        Ok(Self::new(Source::Guest(Some(job))))
    }

    /// Reads one that [`Listing::keep`] wrote.
    pub(crate) async fn of_file(file: &PathBuf) -> Result<Self> {
        Ok(Self::new(Source::File(File::open(file).await.attempt(keeping)?)))
    }

    fn new(source: Source) -> Self {
        Self { source, ahead: Vec::new(), used: 0, taken: 0 }
    }

    /// The next entry; `None` at the end.
    ///
    /// Errors where the guest says something that is no listing.
    pub(crate) async fn next(&mut self) -> Result<Option<Listed>> {
        loop {
            let wrong = |_| Error::internal("the guest's list of its files cannot be understood");
            if let Some((entry, length)) =
                Listed::decode(&self.ahead[self.used..]).map_err(wrong)?
            {
                self.used += length;
                return Ok(Some(entry));
            }
            self.ahead.drain(..self.used);
            self.used = 0;
            if !self.read().await? {
                return match self.ahead.is_empty() {
                    true => Ok(None),
                    false => Err(Error::internal("the guest's list of its files is cut off")),
                };
            }
        }
    }

    /// Writes the whole listing to a file.
    pub(crate) async fn keep(mut self, file: &PathBuf) -> Result<()> {
        let mut to = File::create(file).await.attempt(keeping)?;
        while self.read().await? {
            to.write_all(&self.ahead).await.attempt(keeping)?;
            self.ahead.clear();
        }
        to.flush().await.attempt(keeping)
    }

    /// Reads more; `false` at the end.
    async fn read(&mut self) -> Result<bool> {
        let count = match &mut self.source {
            Source::File(file) => {
                let before = self.ahead.len();
                self.ahead.resize(before + PIECE, 0);
                let count = file.read(&mut self.ahead[before..]).await.attempt(keeping)?;
                self.ahead.truncate(before + count);
                count
            }
            Source::Guest(job) => {
                let Some(running) = job else { return Ok(false) };
                match running.output.next().await {
                    Some(piece) => {
                        self.ahead.extend_from_slice(&piece.bytes);
                        piece.bytes.len()
                    }
                    None => {
                        if let Some(ended) = job.take() {
                            ended.end().await.map_err(plain)?;
                        }
                        0
                    }
                }
            }
        };
        self.taken += count as u64;
        match self.taken > MOST {
            true => Err(Error::internal("there are more files than can be compared")),
            false => Ok(count > 0),
        }
    }
}

fn keeping() -> String {
    "keep a list of files".into()
}

/// A VM with a child of a layer, which is thrown away afterwards: the layer stays as it is.
pub(crate) struct LayerVm {
    pub(crate) vm: FileVm,
    pending: PendingLayer,
}

impl Engine {
    /// Starts a VM that can be asked about a layer's files.
    pub(crate) async fn layer_vm(&self, layer: Ground, disk: GuestDisk) -> Result<LayerVm> {
        let store = Arc::clone(&self.store);
        let pending = blocking(move || Ok(store.begin_layer(&layer, "looked-at")?)).await?;
        let vm = self.file_vm(&pending.leaf, &pending.work_dir, disk).await?;
        Ok(LayerVm { vm, pending })
    }

    /// Ends it; an error of the work goes before one of that.
    pub(crate) async fn end_layer_vm<T>(&self, layer: LayerVm, done: Result<T>) -> Result<T> {
        let LayerVm { vm, pending } = layer;
        let ended = vm.end().await;
        let store = Arc::clone(&self.store);
        blocking(move || Ok(store.abort_app_layer(pending)?)).await?;
        let done = done?;
        ended.map(|()| done)
    }

    /// Lists a layer's files into a file.
    pub(crate) async fn list_layer(
        &self,
        layer: Ground,
        disk: GuestDisk,
        spool: &Spool,
    ) -> Result<PathBuf> {
        let file = spool.listing();
        let vm = self.layer_vm(layer, disk).await?;
        let listed = async { Listing::of_guest(vm.vm.socket()).await?.keep(&file).await }.await;
        self.end_layer_vm(vm, listed).await?;
        Ok(file)
    }
}
