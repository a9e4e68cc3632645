//! What a container changed of its image: two lists of files, gone through side by side.
//!
//! ```text
//!   image     ─► VM: List ─► file ─┐
//!                                  ├─► the same path in both? ─► A, C, D
//!   container ─► its guest: List ──┘
//! ```
//! A container's disk began as the image's, block for block: a file that nobody touched is the same inode with
//! the same ctime, and whatever is done to a file changes that. No content is read.

use crate::blocking::{blocking, to_its_end};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::guest_work::GuestDisk;
use crate::listing::Listing;
use crate::spool::Spool;
use ireko_protocol::listing::{Listed, compare};
use std::cmp::Ordering;
use std::sync::Arc;

/// Bytes of paths that are told of at most.
const MOST: usize = 256 << 20;

/// What every start puts on a container's disk, to mount something there.
pub(crate) const OWN: [&[u8]; 6] =
    [b"dev", b"etc/hostname", b"etc/hosts", b"etc/resolv.conf", b"proc", b"sys"];

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is another, or something in it is.
    Changed,
    /// It is new.
    Added,
    /// It is gone.
    Removed,
}

/// A path that is not as in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// From the root, without a slash in front.
    pub path: Vec<u8>,
    /// What happened to it.
    pub kind: ChangeKind,
}

impl Engine {
    /// Compares a container's disk with its image, in the order of the paths' bytes.
    ///
    /// Errors: `Conflict` where its image is gone.
    pub async fn diff(&self, reference: &str) -> Result<Vec<Change>> {
        let container = self.find(reference)?;
        let engine = self.clone();
        to_its_end(async move {
            let record = container.record();
            let (store, image) = (Arc::clone(&engine.store), record.image_id.clone());
            let ground = blocking(move || {
                let found = store.find(&image).map_err(|error| {
                    Error::conflict(format!("the container's image is gone: {error}"))
                })?;
                Ok(store.image_ground(&found.id)?)
            });
            let spool = Spool::new(&engine.places().root)?;
            let (disk, own): (_, &[&[u8]]) = match record.process.is_machine() {
                true => (GuestDisk::System, &[]),
                false => (GuestDisk::FileSystem, &OWN),
            };
            if record.process.is_machine() && record.is_running() {
                // Found out before its image is listed, which takes a while.
                engine.stat_path(&record.id, "/").await?;
            }
            let image = engine.list_layer(ground.await?, disk, &spool).await?;
            let access = engine.reach_files(&container).await?;
            let compared = async {
                let mut old = Listing::of_file(&image).await?;
                let mut new = Listing::of_guest(&access.shim).await?;
                differences(&mut old, &mut new, own).await
            };
            let compared = compared.await;
            access.end(compared).await
        })
        .await
    }
}

/// What is not the same in both, sorted; `own` are paths that may be new without being told.
pub(crate) async fn differences(
    old: &mut Listing,
    new: &mut Listing,
    own: &[&[u8]],
) -> Result<Vec<Change>> {
    let mut report = Report::new(own);
    let (mut left, mut right) = (old.next().await?, new.next().await?);
    loop {
        let order = match (&left, &right) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => compare(&one.path, &other.path),
        };
        report.step(order, left.as_ref(), right.as_ref())?;
        if order != Ordering::Greater {
            left = old.next().await?;
        }
        if order != Ordering::Less {
            right = new.next().await?;
        }
    }
    Ok(report.finish())
}

struct Report<'a> {
    own: &'a [&'a [u8]],
    changes: Vec<Change>,
    bytes: usize,
    /// A path that is gone with all that was in it.
    gone: Option<Vec<u8>>,
    /// Folders that are in both, down to the one at hand.
    open: Vec<Folder>,
}

struct Folder {
    path: Vec<u8>,
    /// Something of it or in it changed.
    is_touched: bool,
    /// That may be because of what is put there at every start.
    is_excused: bool,
    is_told: bool,
}

impl<'a> Report<'a> {
    fn new(own: &'a [&'a [u8]]) -> Self {
        Self { own, changes: Vec::new(), bytes: 0, gone: None, open: Vec::new() }
    }

    fn step(&mut self, order: Ordering, old: Option<&Listed>, new: Option<&Listed>) -> Result<()> {
        match (order, old, new) {
            (Ordering::Less, Some(old), _) => {
                self.close_until(&old.path)?;
                if self.gone.as_ref().is_some_and(|gone| is_below(&old.path, gone)) {
                    return Ok(());
                }
                self.gone = Some(old.path.clone());
                self.tell(&old.path, ChangeKind::Removed)
            }
            (Ordering::Greater, _, Some(new)) => {
                self.close_until(&new.path)?;
                if self.own.contains(&new.path.as_slice()) {
                    if let Some(folder) = self.open.last_mut() {
                        folder.is_excused = true;
                    }
                    return Ok(());
                }
                self.tell(&new.path, ChangeKind::Added)
            }
            (Ordering::Equal, Some(old), Some(new)) => self.compare(old, new),
            _ => Ok(()),
        }
    }

    fn compare(&mut self, old: &Listed, new: &Listed) -> Result<()> {
        self.close_until(&new.path)?;
        let is_other = (old.mode, old.uid, old.gid, old.rdev, old.xattrs)
            != (new.mode, new.uid, new.gid, new.rdev, new.xattrs);
        let is_touched = (old.inode, old.ctime) != (new.inode, new.ctime);
        match (old.is_folder(), new.is_folder()) {
            (true, true) => {
                let path = new.path.clone();
                self.open.push(Folder { path, is_touched, is_excused: false, is_told: false });
                if is_other && !new.path.is_empty() {
                    self.tell_open(self.open.len())?;
                }
                Ok(())
            }
            (was_folder, _) => {
                if was_folder {
                    self.gone = Some(old.path.clone());
                }
                let is_same = !is_other && !is_touched && old.size == new.size;
                if is_same { Ok(()) } else { self.tell(&new.path, ChangeKind::Changed) }
            }
        }
    }

    /// Leaves the folders that `path` is not in.
    fn close_until(&mut self, path: &[u8]) -> Result<()> {
        while let Some(folder) = self.open.last() {
            if is_below(path, &folder.path) {
                break;
            }
            if folder.is_touched && !folder.is_excused {
                self.tell_open(self.open.len())?;
            }
            self.open.pop();
        }
        Ok(())
    }

    /// Tells of the innermost `count` folders on the way as changed, those that were not told of yet.
    fn tell_open(&mut self, count: usize) -> Result<()> {
        for number in 0..count {
            let folder = &mut self.open[number];
            if !folder.path.is_empty() && !std::mem::replace(&mut folder.is_told, true) {
                let path = folder.path.clone();
                self.push(path, ChangeKind::Changed)?;
            }
        }
        Ok(())
    }

    fn tell(&mut self, path: &[u8], kind: ChangeKind) -> Result<()> {
        self.tell_open(self.open.len())?;
        self.push(path.to_vec(), kind)
    }

    fn push(&mut self, path: Vec<u8>, kind: ChangeKind) -> Result<()> {
        self.bytes += path.len() + size_of::<Change>();
        if self.bytes > MOST {
            return Err(Error::internal("more files changed than can be told of"));
        }
        self.changes.push(Change { path, kind });
        Ok(())
    }

    fn finish(mut self) -> Vec<Change> {
        // Below nothing but the root is nothing.
        while let Some(folder) = self.open.pop() {
            if folder.is_touched && !folder.is_excused && !folder.is_told && !folder.path.is_empty()
            {
                self.changes.push(Change { path: folder.path, kind: ChangeKind::Changed });
            }
        }
        self.changes.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        self.changes
    }
}

/// In the folder, however deep, or itself.
fn is_below(path: &[u8], folder: &[u8]) -> bool {
    match path.strip_prefix(folder) {
        Some(rest) => folder.is_empty() || rest.is_empty() || rest.starts_with(b"/"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, mode: u32, ctime: i64) -> Listed {
        Listed { path: path.into(), mode, ctime: (ctime, 0), ..Listed::default() }
    }

    const FOLDER: u32 = 0o040_755;
    const FILE: u32 = 0o100_644;

    #[track_caller]
    fn check(old: &[Listed], new: &[Listed], expected: &[&str]) {
        let mut report = Report::new(&OWN);
        let (mut left, mut right) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(one), Some(other)) => compare(&one.path, &other.path),
            };
            report.step(order, left.peek().copied(), right.peek().copied()).unwrap();
            if order != Ordering::Greater {
                left.next();
            }
            if order != Ordering::Less {
                right.next();
            }
        }
        let shown: Vec<_> = report
            .finish()
            .iter()
            .map(|change| {
                let letter = match change.kind {
                    ChangeKind::Changed => 'C',
                    ChangeKind::Added => 'A',
                    ChangeKind::Removed => 'D',
                };
                format!("{letter} /{}", String::from_utf8_lossy(&change.path))
            })
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_new_gone_and_touched_is_told_with_the_folders_above() {
        let old = [
            entry("", FOLDER, 1),
            entry("a", FOLDER, 1),
            entry("a/b", FOLDER, 1),
            entry("a/b/c", FILE, 1),
            entry("a/b/d", FILE, 1),
            entry("gone", FOLDER, 1),
            entry("gone/x", FILE, 1),
            entry("same", FOLDER, 1),
        ];
        let new = [
            entry("", FOLDER, 2),
            entry("a", FOLDER, 1),
            entry("a/b", FOLDER, 1),
            entry("a/b/c", FILE, 2),
            entry("a/b/d", FILE, 1),
            entry("new", FOLDER, 2),
            entry("new/y", FILE, 2),
            entry("same", FOLDER, 1),
        ];
        check(&old, &new, &["C /a", "C /a/b", "C /a/b/c", "D /gone", "A /new", "A /new/y"]);
    }

    #[test]
    fn what_every_start_makes_is_not_told_nor_the_folder_it_is_in() {
        let old = [entry("", FOLDER, 1), entry("etc", FOLDER, 1), entry("tmp", FOLDER, 1)];
        let new = [
            entry("", FOLDER, 2),
            entry("dev", FOLDER, 2),
            entry("etc", FOLDER, 2),
            entry("etc/hosts", FILE, 2),
            entry("tmp", FOLDER, 2),
        ];
        check(&old, &new, &["C /tmp"]);
        let more = [&new[..4], &[entry("etc/motd", FILE, 2)], &new[4..]].concat();
        check(&old, &more, &["C /etc", "A /etc/motd", "C /tmp"]);
    }

    #[test]
    fn a_folder_that_became_a_file_and_a_new_mode_are_changes() {
        let old = [
            entry("", FOLDER, 1),
            entry("a", FOLDER, 1),
            entry("a/x", FILE, 1),
            entry("b", FOLDER, 1),
        ];
        let new = [entry("", FOLDER, 1), entry("a", FILE, 2), entry("b", 0o040_700, 2)];
        check(&old, &new, &["C /a", "C /b"]);
    }
}
