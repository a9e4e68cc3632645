//! Which format a file has.

use std::fmt;
use std::path::Path;

use crate::error::{During, Error, ErrorKind, Result};
use crate::storage::{FileStorage, Lock, Storage};

/// A format of disk files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// VHDX version 1: fixed, dynamic or differencing.
    Vhdx,
    /// The bytes of the disk and nothing else.
    Raw,
}

impl Format {
    /// Recognises a file by its content; `None` when it has no signature that is known here.
    ///
    /// Never answers [`Format::Raw`]: a raw disk's bytes are its guest's, who could write any signature into them.
    pub fn of(storage: &dyn Storage) -> Result<Option<Self>> {
        let length = storage.len().during("read the file's length")?;
        let mut signature = [0; 8];
        if length >= 8 {
            storage.read_at(0, &mut signature).during("read the file's signature")?;
        }
        Ok((&signature == b"vhdxfile").then_some(Self::Vhdx))
    }

    /// Recognises the file at `path`, without locking it.
    ///
    /// Fails with [`ErrorKind::Corrupt`] when its content has no known signature.
    pub fn of_file(path: &Path) -> Result<Self> {
        Self::required(&FileStorage::open(path, Lock::None)?)
            .map_err(|error| error.context(format!("open {}", path.display())))
    }

    /// As [`Format::of`], where only a disk file will do.
    pub(crate) fn required(storage: &dyn Storage) -> Result<Self> {
        let unknown = || Error::new(ErrorKind::Corrupt, "not a VHDX or VHD file");
        Self::of(storage)?.ok_or_else(unknown)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vhdx => "VHDX",
            Self::Raw => "raw",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn files_are_recognised_by_their_content() {
        let of = |bytes: &[u8]| Format::of(&MemoryStorage::new(bytes.to_vec())).unwrap();
        assert_eq!(of(b"vhdxfile and more"), Some(Format::Vhdx));
        assert_eq!(of(b"vhdxfil"), None);
        assert_eq!(of(&[0; 4096]), None);
    }
}
