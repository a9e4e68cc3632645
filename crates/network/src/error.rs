//! The switch's one error type.

use std::error::Error as StdError;

/// What fallible functions of the process return.
pub type Result<T> = std::result::Result<T, Error>;

/// Something that ends the switch.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct Error {
    what: String,
    source: Box<dyn StdError + Send + Sync>,
}

impl Error {
    /// What was attempted, and why it failed.
    pub(crate) fn new(
        what: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { what: what.into(), source: source.into() }
    }

    /// The message and its causes on one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    }
}
