//! What can go wrong with a disk: one error type, a small kind to act on.

use std::fmt;
use std::io;

/// The result of a disk operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A disk operation that failed; match on [`Error::kind`], print the chain of sources.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<Cause>,
}

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system failed a read, write or sync.
    Io,
    /// The host's file system is full; nothing was lost, the operation can be tried again.
    NoSpace,
    /// The file contradicts its format: damaged, truncated or hostile.
    Corrupt,
    /// The file is valid but needs something this crate does not do.
    Unsupported,
    /// The request reaches past the end of the disk, or a parameter is outside its limits.
    OutOfRange,
    /// A write to a disk that was opened for reading.
    ReadOnly,
    /// A parent is not the file its child was made from.
    ParentMismatch,
    /// Another process holds a conflicting lock on the file.
    InUse,
    /// The file does not exist.
    NotFound,
    /// The operation would destroy bytes of the disk; it does so only when told to.
    DataLoss,
    /// Whoever watched the operation stopped it; what it had begun is undone.
    Cancelled,
}

impl Error {
    /// Makes an error without a cause. Other implementors of [`crate::Disk`] use this too.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Returns what a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Puts the operation and the object it failed on in front; the kind stays.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        Self { kind: self.kind, message: message.into(), source: Some(Box::new(self)) }
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// Wraps an operating system error; the kind follows from it.
    pub(crate) fn io(message: impl Into<String>, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            // A file that ends before what its own tables say it holds.
            io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
            _ => ErrorKind::Io,
        };
        let source: Box<dyn std::error::Error + Send + Sync> = match kind {
            // The system's own words speak of buffers.
            ErrorKind::Corrupt => "the file is truncated".into(),
            _ => Box::new(error),
        };
        Self { kind, message: message.into(), source: Some(source) }
    }
}

/// Names the operation that an [`io::Result`] belongs to.
pub(crate) trait During<T> {
    fn during(self, operation: impl fmt::Display) -> Result<T>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, operation: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::io(operation.to_string(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_system_is_told_apart_from_a_failing_one() {
        let full = Error::io("write", io::Error::from(io::ErrorKind::StorageFull));
        let failing = Error::io("write", io::Error::from(io::ErrorKind::TimedOut));
        assert_eq!((full.kind(), failing.kind()), (ErrorKind::NoSpace, ErrorKind::Io));
    }

    #[test]
    fn a_file_that_ends_too_early_is_called_truncated() {
        let error = Error::io("read the header", io::Error::from(io::ErrorKind::UnexpectedEof));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let cause = std::error::Error::source(&error).unwrap();
        assert_eq!(cause.to_string(), "the file is truncated");
    }

    #[test]
    fn context_keeps_the_kind_and_the_cause() {
        let error = Error::corrupt("bad checksum").context("open base.vhdx");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(error.to_string(), "open base.vhdx");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "bad checksum");
    }
}
