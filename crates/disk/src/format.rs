//! Which format a file has.

use std::fmt;
use std::path::Path;

use crate::error::{During, Error, ErrorKind, Result};
use crate::storage::{FileStorage, Lock, Storage};
use crate::vhd;

/// A format of disk files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// VHDX version 1: fixed, dynamic or differencing.
    Vhdx,
    /// VHD version 1.0: fixed, dynamic or differencing.
    Vhd,
    /// The bytes of the disk and nothing else.
    Raw,
}

impl Format {
    /// Recognises a file by its content; `None` when it has no signature that is known here.
    ///
    /// Never answers [`Format::Raw`]: a raw disk's bytes are its guest's, who could write any signature into them.
    /// The first bytes of a fixed VHD are its guest's too, and so may be the last of a VHDX file. Fails with
    /// [`ErrorKind::Corrupt`] when a file is both by its signatures and its length does not tell who wrote which.
    pub fn of(storage: &dyn Storage) -> Result<Option<Self>> {
        let length = storage.len().during("read the file's length")?;
        let mut signature = [0; 8];
        if length >= 8 {
            storage.read_at(0, &mut signature).during("read the file's signature")?;
        }
        if &signature != b"vhdxfile" {
            return Ok(vhd::has_signature(storage)?.then_some(Self::Vhd));
        }
        match vhd::is_whole_fixed(storage) {
            false => Ok(Some(Self::Vhdx)),
            // VHDX files are of whole MiB, footers of 512 bytes.
            true if length % (1 << 20) == 512 => Ok(Some(Self::Vhd)),
            true => Err(Error::corrupt(
                "the file is a VHDX by its beginning and a fixed VHD by its end; name its format to open it",
            )),
        }
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
            Self::Vhd => "VHD",
            Self::Raw => "raw",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn files_are_recognised_by_their_content() {
        let of = |bytes: &[u8]| Format::of(&MemoryStorage::new(bytes.to_vec())).unwrap();
        assert_eq!(of(b"vhdxfile and more"), Some(Format::Vhdx));
        assert_eq!(of(b"vhdxfil"), None);
        assert_eq!(of(&[0; 4096]), None);
        assert_eq!(of(&[b"conectix".as_slice(), &[0; 4000]].concat()), Some(Format::Vhd));
        let fixed = MemoryStorage::default();
        vhd::format(&fixed, &vhd::CreateOptions::for_azure(1)).unwrap();
        assert_eq!(of(&fixed.snapshot()), Some(Format::Vhd));
    }

    #[test]
    fn a_guest_cannot_make_another_format_of_its_disk() {
        let fixed = |size| {
            let disk = MemoryStorage::default();
            let provision = vhd::Provision::Fixed { preallocate: false };
            let options = vhd::CreateOptions { provision, ..vhd::CreateOptions::new(size) };
            vhd::format(&disk, &options).unwrap();
            disk.write_at(0, b"vhdxfile").unwrap();
            disk
        };
        assert_eq!(Format::of(&fixed(3 << 20)).unwrap(), Some(Format::Vhd));
        // As long as a VHDX file may be: nobody can tell.
        let refused = Format::of(&fixed((3 << 20) - 512)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);

        // A VHDX file whose last sector the guest made a footer, of whatever kind of VHD.
        for (size, child) in [(2 << 20, false), (2 << 20, true)] {
            let vhd = MemoryStorage::default();
            vhd::format(&vhd, &vhd::CreateOptions::new(size)).unwrap();
            let vhd = match child {
                false => vhd,
                true => {
                    let identity =
                        vhd::ParentIdentity::of(Arc::new(vhd), SystemTime::now()).unwrap();
                    let child = MemoryStorage::default();
                    let options = vhd::ChildOptions::default();
                    vhd::format_child(&child, &identity, r".\x.vhd", &options).unwrap();
                    child
                }
            };
            let bytes = vhd.snapshot();
            let vhdx = MemoryStorage::new(vec![0; 4 << 20]);
            vhdx.write_at(0, b"vhdxfile").unwrap();
            vhdx.write_at((4 << 20) - 512, &bytes[bytes.len() - 512..]).unwrap();
            assert_eq!(Format::of(&vhdx).unwrap(), Some(Format::Vhdx));
        }
    }
}
