//! Folding layers that are nobody's: on request, and by itself.
//!
//! ```text
//!   an image or a container goes, a run ends ─► due ─► a thread of the lowest priority: fold what is
//!                                                      worth it, one row after the other
//! ```
//! What by itself is not worth it, or is in use, waits for the next occasion.

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::progress::Watcher;
use crate::store::Store;
use ireko_images::{ErrorKind, Fold, FoldExtent, Folded, Watch};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;

/// What a thread's priority is lowered by: to the lowest. The disk's scheduler goes by it too.
const NICE: i32 = 19;

/// Tells the thread that folds that there may be something to fold.
#[derive(Clone)]
pub(crate) struct Folder(SyncSender<()>);

impl Folder {
    /// Starts the thread; it ends with the store.
    pub(crate) fn start(store: &Arc<Store>) -> Folder {
        // One word is enough, however much becomes due meanwhile.
        let (told, due) = sync_channel(1);
        let store = Arc::downgrade(store);
        let started =
            thread::Builder::new().name("fold".into()).spawn(move || fold_when_due(&store, &due));
        if let Err(error) = started {
            tracing::error!(%error, "no thread to fold layers: chains are folded on request only");
        }
        Folder(told)
    }
}

impl Engine {
    /// What [`Engine::fold`] would do now.
    pub async fn foldable(&self) -> Result<Vec<Fold>> {
        let store = Arc::clone(&self.store);
        blocking(move || Ok(store.foldable(FoldExtent::Whole)?)).await
    }

    /// Folds all layers that are nobody's. What is being done is undone, and what was done stays, when
    /// the watcher's other end is dropped.
    pub async fn fold(&self, watcher: Watcher) -> Result<Folded> {
        let store = Arc::clone(&self.store);
        blocking(move || Ok(store.fold(FoldExtent::Whole, &watcher)?)).await
    }

    /// Says that layers may have become nobody's.
    pub(crate) fn fold_soon(&self) {
        // Full: it has been said already. Without a thread: that was logged.
        let _ = self.folder.0.try_send(());
    }
}

fn fold_when_due(store: &Weak<Store>, due: &Receiver<()>) {
    // Of this thread alone, on Linux.
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!(%error, "layers are folded at an ordinary priority");
    }
    while due.recv().is_ok() {
        let Some(store) = store.upgrade() else { return };
        match store.fold(FoldExtent::Worthwhile, &WhileWanted(Arc::downgrade(&store))) {
            Ok(Folded { folds, kept, freed }) if !folds.is_empty() || !kept.is_empty() => {
                tracing::info!(
                    folds = folds.len(),
                    freed,
                    ?kept,
                    "folded layers that are nobody's"
                );
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Cancelled => {}
            Err(error) => {
                tracing::warn!(error = Error::from(error).chain(), "layers were not folded");
            }
        }
    }
}

/// Stops when nobody has the store but the one who folds.
struct WhileWanted(Weak<Store>);

impl Watch for WhileWanted {
    fn advanced(&self, _: u64, _: u64) {}

    fn cancelled(&self) -> bool {
        self.0.strong_count() <= 1
    }
}
