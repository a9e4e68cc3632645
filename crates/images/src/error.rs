//! What can go wrong with the store: one error, a small kind to act on.

use std::fmt::Display;
use std::io;

/// The result of a verb on the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A verb on the store that failed; match on [`Error::kind`], print the chain, then the hint.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Cause>,
}

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such image, layer or disk.
    NotFound,
    /// The tree's present state forbids it; the message names what stands in the way.
    Conflict,
    /// Another process holds the disk.
    InUse,
    /// The caller's words make no sense here.
    BadInput,
    /// A file of the store contradicts its format or its parent.
    Corrupt,
    /// The file system is full; the store is as it was.
    NoSpace,
    /// Whoever watched the verb stopped it; the store is as it was.
    Cancelled,
    /// The operating system failed a read, a write or a sync.
    Io,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), hint: None, source: None }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotFound, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Conflict, message)
    }

    pub(crate) fn bad_input(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::BadInput, message)
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corrupt, message)
    }

    /// Says which file it is about.
    #[must_use]
    pub(crate) fn about(mut self, file: &std::path::Path) -> Error {
        self.message = format!("{}: {}", file.display(), self.message);
        self
    }

    /// Adds the remedy.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Names the larger operation that it is part of.
    #[must_use]
    pub(crate) fn within(mut self, operation: String) -> Error {
        let (kind, hint) = (self.kind, self.hint.take());
        Error { kind, message: operation, hint, source: Some(Box::new(self)) }
    }

    /// Returns what a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the remedy, where one is known; shown to people on a line of its own.
    pub fn remedy(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// Names the operation that a failure belongs to; the kind follows from the failure.
pub(crate) trait During<T> {
    fn during(self, operation: impl FnOnce() -> String) -> Result<T>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, operation: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
                _ => ErrorKind::Io,
            };
            wrap(kind, operation(), error)
        })
    }
}

impl<T> During<T> for ireko_disk::Result<T> {
    fn during(self, operation: impl FnOnce() -> String) -> Result<T> {
        use ireko_disk::ErrorKind as Disk;
        self.map_err(|error| {
            let kind = match error.kind() {
                Disk::NotFound => ErrorKind::NotFound,
                Disk::NoSpace => ErrorKind::NoSpace,
                Disk::InUse => ErrorKind::InUse,
                Disk::Cancelled => ErrorKind::Cancelled,
                Disk::Corrupt | Disk::Unsupported | Disk::ParentMismatch => ErrorKind::Corrupt,
                _ => ErrorKind::Io,
            };
            wrap(kind, operation(), error)
        })
    }
}

impl<T> During<T> for ireko_oci::Result<T> {
    fn during(self, operation: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| wrap(ErrorKind::Corrupt, operation(), error))
    }
}

fn wrap(
    kind: ErrorKind,
    message: String,
    source: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    let hint = (kind == ErrorKind::NoSpace)
        .then(|| "free some space on the store's file system; nothing was changed".to_owned());
    Error { kind, message, hint, source: Some(Box::new(source)) }
}

/// Writes an error and its causes on one line, for logs and for reasons that are kept.
pub(crate) fn chain(error: &dyn std::error::Error) -> impl Display {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
