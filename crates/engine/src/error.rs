//! The engine's one error type.

use std::error::Error as StdError;
use std::{fmt, io};

/// What the engine's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure, where the caller acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself is wrong.
    BadParameter,
    /// No container, image or exec of that name.
    NotFound,
    /// The object is in use or in a state that does not allow it.
    Conflict,
    /// It is there by itself, or would break what others rely on.
    Forbidden,
    /// It already is as asked; not a failure.
    NotModified,
    /// The container's process could not be started. `exit_code` is docker's: 127 where the
    /// program is not there, 126 where it cannot be run, 128 for anything else.
    StartFailed {
        /// See above.
        exit_code: i32,
    },
    /// What was waited for did not come in time.
    TimedOut,
    /// Ireko does not do this yet.
    Unsupported,
    /// Something on the host failed.
    Internal,
}

/// An operation that failed; match on [`Error::kind`], print the chain.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of this kind; `message` says what was attempted, to which object.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// A wrong request.
    pub fn bad_parameter(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::BadParameter, message)
    }

    /// Something that is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// A wrong state.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// Something Ireko does not do yet.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// A failure of the host.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// A failure of the host with what caused it.
    pub fn caused(
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            kind: ErrorKind::Internal,
            message: message.into(),
            hint: None,
            source: Some(source.into()),
        }
    }

    /// Another room's error as it is, with the remedy where one is known.
    pub(crate) fn wrapping(
        kind: ErrorKind,
        error: impl StdError + Send + Sync + 'static,
        hint: Option<String>,
    ) -> Self {
        let source = error.source().map(|cause| chain(cause).into());
        Self { kind, message: error.to_string(), hint, source }
    }

    /// Adds the remedy.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a remedy where none is known yet.
    #[must_use]
    pub(crate) fn or_hint(mut self, hint: &str) -> Self {
        self.hint.get_or_insert_with(|| hint.to_owned());
        self
    }

    /// The remedy, where one is known; shown on a line of its own.
    pub fn remedy(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// What kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// It comes of a file system, or a quota, that is full.
    pub(crate) fn is_full_disk(&self) -> bool {
        let mut cause = self.source();
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return matches!(
                    io.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                );
            }
            cause = error.source();
        }
        false
    }

    /// The message and its causes on one line, joined by colons.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Adds to an I/O error what was attempted.
pub(crate) trait Attempt<T> {
    /// Maps the error to [`ErrorKind::Internal`]; `what` is only called on failure.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::caused(what(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_known_through_every_wrapping() {
        let full = |kind: io::ErrorKind| {
            let inner: Result<()> = Err(io::Error::from(kind)).attempt(|| "write x".into());
            inner.attempt(|| "save the record".into()).unwrap_err().is_full_disk()
        };
        assert!(full(io::ErrorKind::StorageFull));
        assert!(full(io::ErrorKind::QuotaExceeded));
        assert!(!full(io::ErrorKind::PermissionDenied));
    }
}
