//! Standard output: what the user asked for and nothing else.

use crate::error::{Error, Result};
use std::fmt::Display;
use std::io::Write;

/// Writes `text` as it is.
pub fn print(text: impl Display) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(Error::output)
}

/// Writes `text` as a line.
pub fn line(text: impl Display) -> Result<()> {
    print(format_args!("{text}\n"))
}

/// Writes `value` as indented JSON.
pub fn json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::local("write JSON").because(error))?;
    line(text)
}

/// Tells the user something on standard error; the command goes on.
pub fn note(text: impl Display) {
    // Nobody is left to be told that nobody listens.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
