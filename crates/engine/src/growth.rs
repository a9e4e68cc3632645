//! Telling readers of logs that these have grown.
//!
//! ```text
//!   containers' folders ─► one inotify descriptor ─► one task ─► everybody who watches that folder
//! ```
//!
//! A user may have few such descriptors, 128 as a rule, and any number of readers.

use crate::blocking::lock;
use crate::error::{Attempt, Result};
use crate::ready::readable;
use rustix::fs::inotify;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// All that is watched; the descriptor is made when it is needed first.
#[derive(Debug, Default)]
pub(crate) struct Growths(Mutex<Option<Arc<Watcher>>>);

#[derive(Debug)]
struct Watcher {
    notes: AsyncFd<OwnedFd>,
    folders: Mutex<HashMap<i32, Folder>>,
}

#[derive(Debug)]
struct Folder {
    grown: watch::Sender<()>,
    watchers: usize,
}

/// Tells when something in a folder was written.
#[derive(Debug)]
pub(crate) struct Growth {
    watcher: Arc<Watcher>,
    folder: i32,
    grown: watch::Receiver<()>,
}

impl Growths {
    /// Watches a folder; from here on no growth is missed.
    pub(crate) fn watch(&self, folder: &Path) -> Result<Growth> {
        let what = || format!("watch {}", folder.display());
        let watcher = self.watcher().attempt(what)?;
        let mut folders = lock(&watcher.folders);
        let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
        // Of a folder that is watched already the number is the same.
        let number = inotify::add_watch(watcher.notes.get_ref(), folder, events).attempt(what)?;
        let watched = folders
            .entry(number)
            .or_insert_with(|| Folder { grown: watch::Sender::new(()), watchers: 0 });
        watched.watchers += 1;
        let grown = watched.grown.subscribe();
        drop(folders);
        Ok(Growth { watcher, folder: number, grown })
    }

    fn watcher(&self) -> std::io::Result<Arc<Watcher>> {
        let mut made = lock(&self.0);
        if let Some(watcher) = &*made {
            return Ok(Arc::clone(watcher));
        }
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let notes = readable(inotify::init(flags)?)?;
        let watcher = Arc::new(Watcher { notes, folders: Mutex::default() });
        tokio::spawn(Arc::clone(&watcher).run());
        *made = Some(Arc::clone(&watcher));
        Ok(watcher)
    }
}

impl Watcher {
    /// Never ends: there is one for an engine's life.
    async fn run(self: Arc<Self>) {
        loop {
            match self.notes.readable().await {
                Ok(mut ready) => {
                    self.pass_on();
                    ready.clear_ready();
                }
                Err(error) => {
                    tracing::error!(%error, "logs are not watched any more");
                    return;
                }
            }
        }
    }

    /// Reads all notes that there are.
    fn pass_on(&self) {
        let mut buffer = [const { MaybeUninit::uninit() }; 4096];
        let mut notes = inotify::Reader::new(self.notes.get_ref(), &mut buffer);
        loop {
            match notes.next() {
                Ok(note) if note.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) => {
                    lock(&self.folders).values().for_each(|folder| folder.grown.send_replace(()));
                }
                Ok(note) => {
                    if let Some(folder) = lock(&self.folders).get(&note.wd()) {
                        folder.grown.send_replace(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

impl Growth {
    /// Returns at the next write, or at once after one that was not looked at.
    pub(crate) async fn next(&mut self) {
        if self.grown.changed().await.is_err() {
            // Not while this is counted; nothing grows without its folder.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        let mut folders = lock(&self.watcher.folders);
        let Some(folder) = folders.get_mut(&self.folder) else { return };
        folder.watchers -= 1;
        if folder.watchers == 0 {
            folders.remove(&self.folder);
            // The kernel forgets a folder that is gone by itself.
            let _ = inotify::remove_watch(self.watcher.notes.get_ref(), self.folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_who_watches_is_told_and_one_descriptor_does_for_all() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let growths = Growths::default();
        let mut first: Vec<_> = (0..300).map(|_| growths.watch(one.path()).unwrap()).collect();
        let mut second = growths.watch(other.path()).unwrap();
        std::fs::write(one.path().join("log"), b"x").unwrap();
        for growth in &mut first {
            growth.next().await;
        }
        assert!(!second.grown.has_changed().unwrap());
        first.truncate(1);
        std::fs::write(other.path().join("log"), b"x").unwrap();
        second.next().await;
        std::fs::write(one.path().join("log"), b"y").unwrap();
        first[0].next().await;
        let watcher = growths.watcher().unwrap();
        drop((first, second));
        assert!(lock(&watcher.folders).is_empty());
    }
}
