//! Storage in a file, locked against other processes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};

use super::Storage;
use crate::error::{During, Error, ErrorKind, Result};

/// A file on a file system that knows sparse files.
///
/// The lock belongs to the open file (`flock`), not to the process: two opens in one process exclude each other
/// as two processes would, and the lock ends when the last descriptor closes, also after a crash.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    path: PathBuf,
    /// What the last search for data found: some file systems look at every page of it each time.
    data: Mutex<Range<u64>>,
}

/// How a file is held against other users of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Others may read, nobody may write.
    Read,
    /// Nobody else may read or write.
    Write,
    /// Not held: whoever writes goes on doing so. For a look at the metadata only.
    None,
}

impl Drop for FileStorage {
    /// Lets go of the lock at once: a process that is being forked by another thread holds a copy of every
    /// descriptor until it executes its program, and would hold the lock with it.
    fn drop(&mut self) {
        // Closing unlocks as well, only later.
        let _ = self.file.unlock();
    }
}

impl FileStorage {
    /// Opens an existing file; for writing when `lock` is [`Lock::Write`].
    ///
    /// Fails with [`ErrorKind::InUse`] when another open file holds a conflicting lock.
    pub fn open(path: &Path, lock: Lock) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(lock == Lock::Write)
            // Opening a pipe must not wait for its other end.
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(path)
            .during(format_args!("open {}", path.display()))?;
        let kind = file.metadata().during(format_args!("look at {}", path.display()))?;
        if !kind.is_file() {
            let message = format!("{} is not a regular file", path.display());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let storage = Self { file, path: path.to_owned(), data: Mutex::default() };
        storage.lock(lock)?;
        Ok(storage)
    }

    /// Makes a new empty file and holds it for writing; refuses a path that exists.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .during(format_args!("create {}", path.display()))?;
        let storage = Self { file, path: path.to_owned(), data: Mutex::default() };
        storage.lock(Lock::Write)?;
        Ok(storage)
    }

    /// Changes how the file is held. Going from one lock to the other is not atomic: another process may win it.
    pub(crate) fn lock(&self, lock: Lock) -> Result<()> {
        let outcome = match lock {
            Lock::Read => self.file.try_lock_shared(),
            Lock::Write => self.file.try_lock(),
            Lock::None => self.file.unlock().map_err(TryLockError::Error),
        };
        let path = self.path.display();
        match outcome {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(ErrorKind::InUse, format!("{path} is in use by another process")))
            }
            Err(TryLockError::Error(error)) => Err(Error::io(format!("lock {path}"), error)),
        }
    }

    /// Returns device and inode: equal for two paths to one file.
    pub(crate) fn identity(&self) -> Result<(u64, u64)> {
        let metadata =
            self.file.metadata().during(format_args!("look at {}", self.path.display()))?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Returns the length in bytes; as [`Storage::len`], with the path in errors.
    pub(crate) fn length(&self) -> Result<u64> {
        self.len().during(format_args!("look at {}", self.path.display()))
    }

    /// Returns when the file was last written to.
    pub(crate) fn modified(&self) -> Result<SystemTime> {
        let modified = self.file.metadata().and_then(|metadata| metadata.modified());
        modified.during(format_args!("look at {}", self.path.display()))
    }

    /// Returns the bytes the file takes on its file system.
    pub(crate) fn allocated(&self) -> Result<u64> {
        let metadata =
            self.file.metadata().during(format_args!("look at {}", self.path.display()))?;
        Ok(metadata.blocks() * 512)
    }
}

/// Makes a file and fills it; leaves nothing when that fails. Refuses a path that exists.
pub(crate) fn in_new_file(
    path: &Path,
    fill: impl FnOnce(&FileStorage) -> Result<()>,
) -> Result<()> {
    let file = FileStorage::create(path)?;
    fill(&file).map_err(|error| {
        // The file is ours and of no use.
        let _ = std::fs::remove_file(path);
        error.context(format!("create {}", path.display()))
    })
}

impl Storage for FileStorage {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn reserve(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        Ok(rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, length)?)
    }

    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let mut known = self.data.lock();
        if known.start < offset.saturating_add(length) && offset < known.end {
            *known = 0..0;
        }
        drop(known);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, length) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                self.write_zeros(offset, length)
            }
            outcome => Ok(outcome?),
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let length = self.len()?;
        if offset >= length {
            return Ok(None);
        }
        let mut known = self.data.lock();
        if known.contains(&offset) {
            return Ok(Some(offset..known.end.min(length)));
        }
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            // A file system that does not know holes.
            Err(rustix::io::Errno::INVAL) => return Ok(Some(offset..length)),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&self.file, SeekFrom::Hole(start))?;
        *known = start..end.max(start + 1);
        Ok(Some(known.clone()))
    }
}

impl FileStorage {
    /// For file systems that cannot punch holes.
    fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let end = offset.saturating_add(length).min(self.len()?);
        let mut at = offset;
        while at < end {
            let step = (end - at).min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..step as usize], at)?;
            at += step;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_or_many_readers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let writer = FileStorage::create(&path).unwrap();
        let refused = FileStorage::open(&path, Lock::Read).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InUse);
        FileStorage::open(&path, Lock::None).unwrap();
        drop(writer);

        let _one = FileStorage::open(&path, Lock::Read).unwrap();
        let _two = FileStorage::open(&path, Lock::Read).unwrap();
        let refused = FileStorage::open(&path, Lock::Write).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InUse);
    }

    #[test]
    fn a_hole_reads_zeros_and_keeps_the_length() {
        let folder = tempfile::tempdir().unwrap();
        let storage = FileStorage::create(&folder.path().join("disk")).unwrap();
        for fill in [FileStorage::punch_hole, FileStorage::write_zeros] {
            storage.write_at(0, &[7; 200_000]).unwrap();
            fill(&storage, 1000, 190_000).unwrap();
            let mut bytes = vec![0; 200_000];
            storage.read_at(0, &mut bytes).unwrap();
            assert!(bytes[1000..191_000].iter().all(|&b| b == 0));
            assert!(bytes[..1000].iter().chain(&bytes[191_000..]).all(|&b| b == 7));
        }
    }

    #[test]
    fn data_is_found_as_it_was_and_holes_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let storage = FileStorage::create(&folder.path().join("disk")).unwrap();
        storage.set_len(1 << 20).unwrap();
        let next = |at| storage.next_data(at).unwrap();
        assert_eq!(next(0), None);
        storage.write_at(0, &[7; 200_000]).unwrap();
        let end = next(0).unwrap().end;
        assert!((200_000..1 << 20).contains(&end), "{end}");
        assert_eq!((next(100_000), next(end)), (Some(100_000..end), None));
        storage.punch_hole(0, 131_072).unwrap();
        assert_eq!(next(0), Some(131_072..end));
        storage.set_len(150_000).unwrap();
        assert_eq!((next(140_000), next(150_000)), (Some(140_000..150_000), None));
    }

    #[test]
    fn a_missing_file_and_a_folder_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let missing = FileStorage::open(&folder.path().join("no"), Lock::Read).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        let not_file = FileStorage::open(folder.path(), Lock::Read).unwrap_err();
        assert_eq!(not_file.kind(), ErrorKind::Unsupported);
    }
}
