//! The cache folder while it is being filled: who may fill it, and where work is done.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::{Error, ErrorKind, Result};
use crate::progress::Step;

const WORK_PREFIX: &str = ".work-";
/// A set-up takes seconds; one that has been at work this long is stuck on its network.
const PATIENCE: Duration = Duration::from_secs(1800);
const POLL: Duration = Duration::from_millis(100);

/// The cache held for filling; released on drop, or by the kernel when the process dies.
pub(crate) struct FilledCache {
    root: PathBuf,
    _lock: File,
}

impl FilledCache {
    /// Makes the folder, waits until no other set-up is at work in it, and removes what an
    /// interrupted one left.
    pub fn lock(root: &Path, progress: &mut dyn FnMut(Step)) -> Result<Self> {
        let doing = || Error::io(format!("make the cache folder {}", root.display()));
        fs::create_dir_all(root).map_err(doing())?;
        let lock = File::create(root.join("setup.lock")).map_err(doing())?;
        let deadline = Instant::now() + PATIENCE;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(doing()(error)),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(Error::new(
                        ErrorKind::Busy,
                        format!("another set-up of {} does not end", root.display()),
                    )
                    .with_hint("end that process, then run it again"));
                }
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut told, true) {
                        progress(Step::Waiting);
                    }
                    thread::sleep(POLL);
                }
            }
        }
        let cache = Self { root: root.to_owned(), _lock: lock };
        cache.remove_leftovers()?;
        Ok(cache)
    }

    /// The cache folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder to work in, on the same file system; gone on drop.
    ///
    /// # Errors
    /// `NoSpace` where less than `bytes` are free: the host's programs run into a full disk with
    /// messages that tell little.
    pub fn work_folder(&self, bytes: u64) -> Result<TempDir> {
        let space = rustix::fs::statvfs(&self.root)
            .map_err(|e| Error::io("look at the cache's free space")(e.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < bytes {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "{} has {} MB free, {} MB are needed while the cache is filled",
                    self.root.display(),
                    free / 1_000_000,
                    bytes / 1_000_000
                ),
            )
            .with_hint("free some, or choose another cache folder with --cache"));
        }
        tempfile::Builder::new()
            .prefix(WORK_PREFIX)
            .tempdir_in(&self.root)
            .map_err(Error::io("make a folder to work in"))
    }

    fn remove_leftovers(&self) -> Result<()> {
        let doing = || Error::io("remove what an interrupted set-up left");
        for entry in fs::read_dir(&self.root).map_err(doing())? {
            let entry = entry.map_err(doing())?;
            if entry.file_name().to_string_lossy().starts_with(WORK_PREFIX) {
                fs::remove_dir_all(entry.path()).map_err(doing())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_second_set_up_waits_for_the_first() {
        let place = tempfile::tempdir().unwrap();
        let first = FilledCache::lock(place.path(), &mut |_| {}).unwrap();
        let (waiting, told) = mpsc::channel();
        let root = place.path().to_owned();
        let second = thread::spawn(move || {
            FilledCache::lock(&root, &mut |step| waiting.send(step).unwrap()).map(drop)
        });
        assert_eq!(told.recv(), Ok(Step::Waiting));
        drop(first);
        second.join().unwrap().unwrap();
    }

    #[test]
    fn what_an_interrupted_set_up_left_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let left = place.path().join(".work-1234");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("half"), "").unwrap();
        let cache = FilledCache::lock(place.path(), &mut |_| {}).unwrap();
        assert!(!left.exists());
        let work = cache.work_folder(1).unwrap().path().to_owned();
        assert!(!work.exists(), "gone on drop");
    }

    #[test]
    fn too_little_space_is_told_before_work_begins() {
        let place = tempfile::tempdir().unwrap();
        let cache = FilledCache::lock(place.path(), &mut |_| {}).unwrap();
        let error = cache.work_folder(u64::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.hint().is_some_and(|hint| hint.contains("--cache")), "{error}");
    }
}
