//! The one error of this crate.

/// Text or bytes that are not what they should be; match on [`Error::kind`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// What could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Not an image reference.
    Reference,
    /// Not a sha256 digest.
    Digest,
    /// Not an image configuration.
    Config,
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    /// What could not be read.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
