//! What went wrong with a control group.

use std::fmt;
use std::io;

/// Something that could not be done with a control group.
#[derive(Debug)]
pub struct Error {
    what: String,
    cause: Option<io::Error>,
}

/// The result of work with control groups.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Why there is no group, in one sentence.
    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self { what: why.into(), cause: None }
    }

    /// What was attempted, and what the system said.
    pub(crate) fn io(what: impl Into<String>, cause: io::Error) -> Self {
        Self { what: what.into(), cause: Some(cause) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as _)
    }
}
