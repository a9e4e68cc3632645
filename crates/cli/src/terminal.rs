//! The terminal this command runs in.

use crate::error::{Error, Result};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// A size in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}

/// Whether standard input is a terminal.
pub fn stdin_is_terminal() -> bool {
    isatty(stdin())
}

/// Whether standard output is a terminal.
pub fn stdout_is_terminal() -> bool {
    isatty(stdout())
}

/// Whether colour may be used on standard output: a terminal, and `NO_COLOR` is not set.
pub fn stdout_has_colour() -> bool {
    isatty(stdout()) && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The size of the first of our streams that is a terminal with a size.
pub fn size() -> Option<Size> {
    [stdout(), stdin(), stderr()]
        .into_iter()
        .filter_map(|stream| tcgetwinsize(stream).ok())
        .map(|size| Size { rows: size.ws_row, columns: size.ws_col })
        .find(|size| size.rows > 0 && size.columns > 0)
}

/// Refuses standard input that is not a terminal where a container's terminal is fed from it.
pub fn require(tty: bool, interactive: bool) -> Result<()> {
    if tty && interactive && !stdin_is_terminal() {
        return Err(Error::local("the input device is not a TTY")
            .hint("leave out -t where standard input is a pipe or a file"));
    }
    Ok(())
}

/// Standard input without echo, line editing and signal keys; restored when dropped, also by a
/// panic. Signals that would end the process are turned into a return by `session.rs`.
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Switches standard input to raw mode.
    pub fn enter() -> Result<Self> {
        let failed = |error| Error::local("set the terminal to raw mode").because(error);
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that has gone away.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}
