//! Runs a program that sees the files it was given and nothing else: `ireko confine`.
//!
//! Other programs know formats that Ireko does not, and read files that may be hostile. They run as
//! a process that has put the walls around itself before it became them:
//!
//! ```text
//!   engine ─► ireko confine '{"program":…}' ─► limits ─► Landlock ─► exec: the program
//! ```
//!
//! That costs a program start, needs no privilege and no `unsafe`, and cannot be forgotten on the
//! way: what could not be set up ends the process. Only a kernel without Landlock is let pass, with
//! a line on standard error, since the limits and the engine's own look at the file remain.
#![forbid(unsafe_code)]

mod walls;

use ireko_protocol::confine::Confinement;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// What keeps the program from being started.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the confinement cannot be read")]
    Plan(#[source] serde_json::Error),
    #[error("{0} cannot be limited")]
    Limit(&'static str, #[source] rustix::io::Errno),
    #[error("the file system cannot be closed off")]
    Walls(#[source] landlock::RulesetError),
    #[error("{0} cannot be started")]
    Start(String, #[source] std::io::Error),
}

/// Becomes the program that `plan`, a [`Confinement`] as JSON, tells. Returns only where that fails.
pub fn main(plan: &str) -> ExitCode {
    let Err(failure) = run(plan);
    let cause = std::error::Error::source(&failure).map(ToString::to_string).unwrap_or_default();
    eprintln!("ireko confine: {failure}: {cause}");
    ExitCode::FAILURE
}

fn run(plan: &str) -> Result<std::convert::Infallible, Failure> {
    let plan: Confinement = serde_json::from_str(plan).map_err(Failure::Plan)?;
    for (what, resource, limit) in [
        ("memory", Resource::As, plan.memory),
        ("processor time", Resource::Cpu, plan.cpu_seconds),
        ("the size of files", Resource::Fsize, plan.file_size),
        ("core dumps", Resource::Core, 0),
    ] {
        let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
        setrlimit(resource, limit).map_err(|error| Failure::Limit(what, error))?;
    }
    if !walls::put_up(&plan).map_err(Failure::Walls)? {
        eprintln!("ireko confine: this kernel has no Landlock, or not all of it: only limits hold");
    }
    let error = Command::new(&plan.program).args(&plan.arguments).exec();
    Err(Failure::Start(plan.program.display().to_string(), error))
}

#[cfg(test)]
mod tests;
