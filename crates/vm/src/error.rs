//! The error of every operation in this crate.

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The result of an operation on a VM or on what it is made from.
pub type Result<T> = std::result::Result<T, Error>;

/// An operation that failed: match on [`Error::kind`], print the chain, then [`Error::hint`].
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    kind: ErrorKind,
    what: String,
    hint: Option<String>,
    source: Option<BoxError>,
}

/// What a caller may want to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Something that set-up provides is not there: QEMU, the guest kernel.
    Missing,
    /// The acceleration asked for does not work on this host.
    NoAcceleration,
    /// A [`VmSpec`](crate::VmSpec) that no VM can be made from.
    InvalidSpec,
    /// The VM did not come up.
    Start,
    /// The VM refused or could not do what its control was asked.
    Control,
    /// An answer did not come within its deadline.
    Timeout,
    /// The host's file or process calls failed.
    Io,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), hint: None, source: None }
    }

    pub(crate) fn io(what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self::new(ErrorKind::Io, what).because(source)
    }

    pub(crate) fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The known remedy, to be shown on a line of its own.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}
