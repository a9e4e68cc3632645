//! Exit statuses, the same ones docker's command has.
//!
//! | status | means |
//! |---|---|
//! | 0 | done |
//! | 1 | not done |
//! | 125 | `run`: the container could not be made or started; any command: an unknown option |
//! | 126, 127 | `run`: its command cannot be executed, or is not there |
//! | 141 | the reader of our output went away (128 + SIGPIPE) |
//! | other | the container's or the exec's own status: its code, or 128 + signal |

use crate::error::{Error, ErrorKind};

/// The status this process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// Done.
    pub const SUCCESS: Self = Self(0);
    /// Not done, and the reason was told.
    pub const FAILURE: Self = Self(1);

    /// The status of a process that a container reported; the kernel keeps its low eight bits.
    pub fn of_process(code: i64) -> Self {
        Self((code & 0xff) as u8)
    }

    /// The status of a process that ended by `signal`.
    pub fn of_signal(signal: i32) -> Self {
        Self((128 + (signal & 0x7f)) as u8)
    }
}

/// Which column of the table applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `run`: statuses below 125 belong to the container.
    Run,
    /// All others.
    Other,
}

/// The one table from failures to statuses.
pub fn status(verb: Verb, error: &Error) -> Exit {
    Exit(match (verb, error.kind()) {
        (_, ErrorKind::Usage) => 125,
        (_, ErrorKind::OutputClosed) => 141,
        (Verb::Run, ErrorKind::Refused(_)) => refused_run(&error.to_string()),
        (Verb::Run, ErrorKind::Unreachable | ErrorKind::AlreadyTold) => 125,
        (Verb::Run, ErrorKind::Local) | (Verb::Other, _) => 1,
    })
}

/// Docker's clients read the reason out of the message; scripts rely on the result.
fn refused_run(message: &str) -> u8 {
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
    if says(&["executable file not found", "no such file or directory"]) {
        127
    } else if says(&["permission denied", "is a directory"]) {
        126
    } else {
        125
    }
}

/// What clap could not parse: docker says 125 for options, 1 for everything else.
pub fn of_grammar(error: &clap::Error) -> Exit {
    use clap::error::ErrorKind::*;
    match error.kind() {
        // Docker's command without a verb shows help, and that is all it was asked for.
        DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand => Exit::SUCCESS,
        UnknownArgument | InvalidValue | ValueValidation | NoEquals | ArgumentConflict => Exit(125),
        _ => Exit::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(verb: Verb, kind: ErrorKind, message: &str, expected: u8) {
        assert_eq!(status(verb, &Error::new(kind, message)), Exit(expected));
    }

    #[test]
    fn run_tells_its_own_failures_from_the_containers() {
        let refused = ErrorKind::Refused(400);
        check(Verb::Run, ErrorKind::Refused(404), "No such image: x:latest", 125);
        check(Verb::Run, refused, r#"exec: "zz": executable file not found in $PATH"#, 127);
        check(Verb::Run, refused, "exec /zz: no such file or directory", 127);
        check(Verb::Run, refused, "exec /etc/passwd: permission denied", 126);
        check(Verb::Run, refused, "exec /etc: is a directory", 126);
        check(Verb::Run, ErrorKind::Unreachable, "no daemon", 125);
        check(Verb::Run, ErrorKind::Usage, "bad size", 125);
        check(Verb::Run, ErrorKind::Local, "the input device is not a TTY", 1);
        check(Verb::Other, refused, "permission denied", 1);
    }

    #[test]
    fn processes_ended_by_signals_count_from_128() {
        assert_eq!(Exit::of_signal(2), Exit(130));
        assert_eq!(Exit::of_process(137), Exit(137));
        assert_eq!(Exit::of_process(-1), Exit(255));
    }
}
