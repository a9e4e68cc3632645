//! A file that must stay as it is: what the file system says of it, and a hash of its bytes.

use crate::error::{Error, Result};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// One file as it was when it was sealed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    sha256: String,
}

impl Sealed {
    /// Makes a file durable and remembers it. Who may write to it from now on is its owner alone: QEMU
    /// opens memory for writing, even where it is never written to.
    pub fn seal(path: &Path) -> Result<Self> {
        let seal = || -> io::Result<Self> {
            let file = File::options().read(true).write(true).open(path)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.sync_all()?;
            let before = Self::look(&file, String::new())?;
            let sha256 = hash(&file)?;
            let after = Self::look(&file, String::new())?;
            if before != after {
                return Err(io::Error::other("it is being written to"));
            }
            Ok(Self { sha256, ..after })
        };
        seal().map_err(|error| Error::io(format!("seal {}", path.display()), error))
    }

    /// Whether the file system says that this is the file and that nobody wrote to it.
    pub fn is_still(&self, path: &Path) -> bool {
        let now = File::open(path).and_then(|file| Self::look(&file, self.sha256.clone()));
        now.is_ok_and(|now| now == *self)
    }

    /// Whether the file has the bytes it had; reads all of it.
    pub fn has_hash(&self, path: &Path) -> bool {
        let now = File::open(path).and_then(|file| {
            if file.metadata()?.len() != self.bytes {
                return Ok(false);
            }
            Ok(hash(&file)? == self.sha256)
        });
        now.unwrap_or(false)
    }

    fn look(file: &File, sha256: String) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            sha256,
        })
    }
}

/// A hash of the file's bytes and of where they are: holes, of which memory is full, are not read.
fn hash(file: &File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?;
        at = start;
        while at < end {
            let length = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            file.read_exact_at(&mut buffer[..length], at)?;
            // A page of zeroes may be a hole or not, as the file system likes.
            for (page, number) in buffer[..length].chunks(4096).zip(at / 4096..) {
                if page.iter().any(|byte| *byte != 0) {
                    hash.update(number.to_le_bytes());
                    hash.update(page);
                }
            }
            at += length as u64;
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
