//! How a layer's archive says that something below it is gone.
//!
//! ```text
//!   etc/.wh.motd           etc/motd of the layers below is gone
//!   etc/.wh..wh..opq       so is all that they have in etc
//! ```
//! What the archive itself holds stays, wherever in it the whiteout stands.
//!
//! Source: OCI image spec, "Image Layer Filesystem Changeset", section "Whiteouts".

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;

use rustix::io::{Errno, Result};

use crate::removal::{names_in, remove_unless};

const PREFIX: &[u8] = b".wh.";
/// What AUFS kept beside the files; no layer's content.
const METADATA: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteout<'a> {
    /// One name in the folder.
    Name(&'a [u8]),
    /// All names in it.
    All,
}

impl<'a> Whiteout<'a> {
    /// Reads the last part of an entry's path; `None` for a file's name. Errors with what is wrong.
    pub fn of(name: &'a [u8]) -> std::result::Result<Option<Self>, &'static str> {
        match name.strip_prefix(PREFIX) {
            None => Ok(None),
            Some(_) if name == OPAQUE => Ok(Some(Self::All)),
            Some(b"" | b"." | b"..") => Err("hides no name"),
            Some(hidden) => Ok(Some(Self::Name(hidden))),
        }
    }

    /// Removes it from `folder`, whose path is `path` with a slash at its end, or empty.
    pub fn apply(self, folder: &OwnedFd, path: &[u8], placed: &Paths) -> Result<()> {
        let names = match self {
            Self::Name(name) => vec![name.to_vec()],
            Self::All => names_in(folder)?,
        };
        for name in names {
            match remove_unless(folder, &name, &[path, &*name].concat(), |path| placed.holds(path))
            {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Tells whether an entry is AUFS's own and no layer's content; `path` is clean.
pub fn is_metadata(path: &[u8]) -> bool {
    path.starts_with(METADATA) && path != OPAQUE
}

/// A set of paths, as hashes of a key that an archive cannot know, because it may name millions.
#[derive(Debug, Default)]
pub struct Paths {
    hashes: HashSet<u64>,
    key: RandomState,
}

impl Paths {
    /// Puts a path in; returns whether it is new.
    pub fn note(&mut self, path: &[u8]) -> bool {
        self.hashes.insert(self.key.hash_one(path))
    }

    /// Tells whether a path is in it.
    pub fn holds(&self, path: &[u8]) -> bool {
        self.hashes.contains(&self.key.hash_one(path))
    }
}
