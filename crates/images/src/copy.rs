//! Copying a disk file, without what is not there: holes stay holes.

use crate::error::{During, Error, ErrorKind, Result};
use crate::step;
use ireko_disk::Watch;
use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

const BUFFER: usize = 1 << 20;

/// Copies a file to a path where nothing is, and syncs it.
///
/// Shares the blocks where the file system can; else copies the data between the holes.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    copy_file(from, to, &(), |_| Ok(()))
}

/// As [`copy`]; progress counts bytes of the file, holes too. A failure leaves a part of it.
///
/// Fails with [`ErrorKind::NoSpace`] at once where the file system has no room for it.
pub(crate) fn copy_watched(from: &Path, to: &Path, watch: &dyn Watch) -> Result<()> {
    copy_file(from, to, watch, |needed| check_room(to, needed))
}

fn copy_file(
    from: &Path,
    to: &Path,
    watch: &dyn Watch,
    admit: impl FnOnce(u64) -> Result<()>,
) -> Result<()> {
    let copying = || format!("copy {} to {}", from.display(), to.display());
    step::allocating().during(copying)?;
    let source = File::open(from).during(copying)?;
    let target = OpenOptions::new().write(true).create_new(true).open(to).during(copying)?;
    if ioctl_ficlone(&target, &source).is_err() {
        let needed = source.metadata().during(copying)?.blocks().saturating_mul(512);
        admit(needed)?;
        copy_data(&source, &target, watch).during(copying)?;
    }
    target.sync_all().during(copying)
}

/// Bytes of a file system that are left to others when something large is brought in.
const MARGIN: u64 = 64 << 20;

/// Returns how many bytes may be brought to where `path` lies.
pub(crate) fn room(path: &Path) -> Result<u64> {
    let folder = path.parent().unwrap_or(path);
    let space = rustix::fs::statvfs(folder)
        .map_err(io::Error::from)
        .during(|| format!("look for space at {}", folder.display()))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize).saturating_sub(MARGIN))
}

/// Fails with [`ErrorKind::NoSpace`] where `needed` bytes are more than there is room for.
pub(crate) fn check_room(path: &Path, needed: u64) -> Result<()> {
    let room = room(path)?;
    match needed > room {
        true => Err(Error::new(
            ErrorKind::NoSpace,
            format!("{needed} bytes are needed and {room} are free"),
        )
        .hint("free some space on the store's file system; nothing was changed")),
        false => Ok(()),
    }
}

fn copy_data(source: &File, target: &File, watch: &dyn Watch) -> io::Result<()> {
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut buffer = vec![0; BUFFER];
    let mut position = 0;
    while let Some((start, end)) = next_data(source, position, length)? {
        position = start;
        while position < end {
            watch.advanced(position, length);
            if watch.cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            let want = usize::try_from(end - position).unwrap_or(BUFFER).min(BUFFER);
            let got = source.read_at(&mut buffer[..want], position)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            target.write_all_at(&buffer[..got], position)?;
            position += got as u64;
        }
    }
    watch.advanced(length, length);
    Ok(())
}

/// Finds the next run of data at or after `position`; all is data where holes are not known.
fn next_data(file: &File, position: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if position >= length {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(position)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL) => return Ok(Some((position, length))),
        Err(error) => return Err(error.into()),
    };
    let end = seek(file, SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(length))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_same_bytes_and_keeps_its_holes() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let source = File::create(&from).unwrap();
        source.set_len(64 << 20).unwrap();
        source.write_all_at(b"begin", 0).unwrap();
        source.write_all_at(&vec![7; 3 << 20], 17 << 20).unwrap();
        source.write_all_at(b"end", (64 << 20) - 3).unwrap();
        source.sync_all().unwrap();
        copy(&from, &to).unwrap();
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        let allocated = std::fs::metadata(&to).unwrap().blocks() * 512;
        assert!(allocated < 8 << 20, "{allocated} bytes are allocated");
    }

    #[test]
    fn a_copy_never_overwrites() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::write(&from, "new").unwrap();
        std::fs::write(&to, "old").unwrap();
        assert!(copy(&from, &to).is_err());
        assert_eq!(std::fs::read(&to).unwrap(), b"old");
    }
}
