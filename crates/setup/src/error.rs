//! What can go wrong while the cache is filled.

use std::error::Error as StdError;
use std::io;

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A set-up step that failed; match on [`Error::kind`], print the chain, then [`Error::hint`].
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct Error {
    kind: ErrorKind,
    doing: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Why a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file of the cache could not be read or written.
    Io,
    /// The cache's file system has too little space.
    NoSpace,
    /// A program of the host is not installed.
    ToolMissing,
    /// A program of the host ran and failed, or did not end in time.
    ToolFailed,
    /// The package manager does not know, or cannot download, a package.
    PackageUnavailable,
    /// A package holds something else than what was looked for.
    Malformed,
    /// Another set-up has been at work for too long.
    Busy,
    /// No guest kernel can be had for this kind of host.
    Unsupported,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, doing: impl Into<String>) -> Self {
        Self { kind, doing: doing.into(), hint: None, source: None }
    }

    /// For `map_err`: an operation on a file or folder of the cache.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::new(ErrorKind::Io, doing).because(source)
    }

    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Malformed, what)
    }

    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What to act on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The command or change that cures it, where one is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}
