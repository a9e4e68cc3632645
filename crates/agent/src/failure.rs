//! What a request that was not done answers.

use std::fmt;
use std::io;

use ireko_protocol::agent::{FailureKind, Reply};

/// A request that failed: a kind for the host to act on, and one sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// What was attempted, and why it failed.
    pub message: String,
}

/// The result of anything a request asks for.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The failure of a system call; a full disk gets its own kind.
    pub fn of(what: impl fmt::Display, cause: impl Into<io::Error>) -> Self {
        let cause = cause.into();
        let kind = match cause.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => FailureKind::DiskFull,
            _ => FailureKind::Other,
        };
        Self { kind, message: format!("{what}: {}", reason(&cause)) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        Self::Failed { kind: failure.kind, message: failure.message }
    }
}

impl From<ireko_tar::Error> for Failure {
    fn from(error: ireko_tar::Error) -> Self {
        match error {
            ireko_tar::Error::Malformed(message) => Self::new(FailureKind::BadInput, message),
            ireko_tar::Error::Read(cause) => Self::of("read the archive", cause),
        }
    }
}

/// Names what was attempted when a system call failed.
pub trait During<T> {
    /// Turns the error into a [`Failure`] that says `what` was attempted.
    fn during<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<io::Error>> During<T> for std::result::Result<T, E> {
    fn during<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|cause| Failure::of(what(), cause))
    }
}

/// The cause in the C library's words, in lower case and without Rust's "(os error N)".
fn reason(cause: &io::Error) -> String {
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        // An acronym such as "RPC failed" keeps its capitals.
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_and_the_reason_reads_as_one_sentence() {
        let failure = Failure::of("write \"etc/passwd\"", rustix::io::Errno::NOSPC);
        assert_eq!(failure.kind, FailureKind::DiskFull);
        assert_eq!(failure.message, "write \"etc/passwd\": no space left on device");
    }
}
