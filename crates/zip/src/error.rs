//! What can go wrong while an archive is read.

use std::io;

/// The result of reading an archive.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An archive that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is none, is cut off, or contradicts itself; the text is a sentence for people.
    #[error("{0}")]
    Malformed(String),
    /// Its source failed.
    #[error("read the archive")]
    Read(#[source] io::Error),
}

impl Error {
    pub(crate) fn malformed(what: impl Into<String>) -> Error {
        Error::Malformed(what.into())
    }
}
