//! Copying a disk file, without what is not there: holes stay holes.

use crate::error::{During, Result};
use crate::step;
use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BUFFER: usize = 1 << 20;

/// Copies a file to a path where nothing is, and syncs it.
///
/// Shares the blocks where the file system can; else copies the data between the holes.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    copy_file(from, to).during(|| format!("copy {} to {}", from.display(), to.display()))
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    step::allocating()?;
    let source = File::open(from)?;
    let target = OpenOptions::new().write(true).create_new(true).open(to)?;
    if ioctl_ficlone(&target, &source).is_err() {
        copy_data(&source, &target)?;
    }
    target.sync_all()
}

fn copy_data(source: &File, target: &File) -> io::Result<()> {
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut buffer = vec![0; BUFFER];
    let mut position = 0;
    while let Some((start, end)) = next_data(source, position, length)? {
        position = start;
        while position < end {
            let want = usize::try_from(end - position).unwrap_or(BUFFER).min(BUFFER);
            let got = source.read_at(&mut buffer[..want], position)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            target.write_all_at(&buffer[..got], position)?;
            position += got as u64;
        }
    }
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
    use std::os::unix::fs::MetadataExt;

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
