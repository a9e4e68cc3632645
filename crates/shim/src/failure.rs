//! Why a VM's work failed: for `exit.json` and for whoever waits for the start.

use crate::guest::GuestError;
use ireko_protocol::agent::FailureKind;

/// Exit code of a VM that went without its process's own.
pub const LOST: i32 = 255;
/// Docker's exit code of a container that could not be started for another reason than its command.
pub const NOT_STARTED: i32 = 128;

/// Work that failed.
pub struct Failure {
    /// The container's exit code.
    pub exit_code: i32,
    /// What the engine acts on.
    pub kind: FailureKind,
    /// For people.
    pub message: String,
}

impl Failure {
    /// Of a VM that is gone and left no exit code.
    pub fn lost(message: impl Into<String>) -> Self {
        Self { exit_code: LOST, kind: FailureKind::Other, message: message.into() }
    }

    /// Of a start; `what` was attempted.
    pub fn before_start(what: &str, error: &dyn std::error::Error) -> Self {
        let message = format!("{what}: {}", chain_of(error));
        Self { exit_code: NOT_STARTED, kind: FailureKind::Other, message }
    }

    /// Of a start that nobody asked for any more.
    pub fn never_started() -> Self {
        Self {
            exit_code: NOT_STARTED,
            kind: FailureKind::Other,
            message: "the daemon made this VM but never started it".to_owned(),
        }
    }

    /// Of a plan that cannot be carried out.
    pub fn impossible(message: String) -> Self {
        Self { exit_code: NOT_STARTED, kind: FailureKind::Other, message }
    }

    /// The same with the remedy, where the VM's driver knows one, on a line of its own.
    pub fn of_vm(what: &str, error: &ireko_vm::Error) -> Self {
        let mut failure = Self::before_start(what, error);
        if let Some(hint) = error.hint() {
            failure.message += &format!("\nhint: {hint}");
        }
        failure
    }

    /// Of a request to the agent.
    pub fn of_guest(what: &str, error: GuestError) -> Self {
        match error {
            // The agent's sentence is docker's own; nothing is put in front of it.
            GuestError::Failed { kind, message } => {
                let exit_code = match kind {
                    FailureKind::NotFound => 127,
                    FailureKind::NotExecutable => 126,
                    _ => NOT_STARTED,
                };
                Self { exit_code, kind, message }
            }
            other => Self::before_start(what, &other),
        }
    }
}

/// An error and its causes in one line, as it crosses to the engine.
pub fn chain_of(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
