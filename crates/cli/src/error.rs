//! Why a command did not do what was asked.

use std::fmt;

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A command that failed: what to tell the user, and what may help.
///
/// The exit status follows from [`Error::kind`], in `exit.rs`.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Source>,
}

/// Whose failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An option's value cannot be understood.
    Usage,
    /// The daemon refused; its HTTP status.
    Refused(u16),
    /// No daemon answers, or it stopped answering.
    Unreachable,
    /// Something on this side failed: a file, the terminal.
    Local,
    /// Whoever read our standard output has gone; nobody is there to be told.
    OutputClosed,
    /// Several objects were asked for; what failed was told as it happened.
    AlreadyTold,
}

impl Error {
    /// A failure with its message; the message begins in lower case and names the object.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// An option's value that cannot be understood.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// A failure on this side.
    pub fn local(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Local, message)
    }

    /// Writing to our own standard output failed.
    pub fn output(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::new(ErrorKind::OutputClosed, "output closed"),
            _ => Self::local("write to standard output").because(error),
        }
    }

    /// Adds the line that says what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause underneath.
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whose failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self.kind {
            ErrorKind::Refused(status) => Some(status),
            _ => None,
        }
    }

    /// What is printed on standard error: the message, its causes, the hint.
    pub fn report(&self) -> impl fmt::Display + '_ {
        Report(self)
    }
}

struct Report<'a>(&'a Error);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ireko: {}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        let mut said = self.0.to_string();
        while let Some(error) = cause {
            let text = error.to_string();
            // "cannot open x", because of "open x": once is enough.
            if !said.ends_with(&text) {
                write!(f, "\n  caused by: {text}")?;
            }
            said = text;
            cause = error.source();
        }
        match &self.0.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_repeats_what_was_said_is_left_out() {
        let cause = Error::local("open a.vhdx").because(std::io::Error::other("it is gone"));
        let error = Error::local("cannot open a.vhdx").because(cause);
        let report = error.report().to_string();
        assert_eq!(report, "ireko: cannot open a.vhdx\n  caused by: it is gone");
    }

    #[test]
    fn a_report_names_the_failure_its_causes_and_the_cure() {
        let error = Error::local("read a.tar")
            .because(std::io::Error::other("it is gone"))
            .hint("look for it");
        assert_eq!(
            error.report().to_string(),
            "ireko: read a.tar\n  caused by: it is gone\nhint: look for it"
        );
    }
}
