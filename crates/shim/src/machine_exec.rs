//! A program run in a machine by the agent that its operating system has.
//!
//! That agent keeps a program's output until its end, and knows no terminal and no input that
//! comes later: what needs those is refused.

use crate::control::{Shared, failed};
use crate::link::Link;
use crate::machine::Machine;
use crate::qemu_ga::{AgentError, Exited};
use ireko_protocol::agent::{ExitStatus, FailureKind, ProcessId, Spawn};
use ireko_protocol::shim::{Answer, STDERR, STDOUT};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How often the agent is asked for a program's end: at first, and when that took long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// So often in a row it may fail to answer.
const PATIENCE: usize = 3;

/// Starts the program and answers; its output and its end follow.
pub fn exec(
    shared: &Arc<Shared>,
    machine: &Arc<Machine>,
    link: &Arc<Link>,
    spawn: &Spawn,
) -> io::Result<()> {
    let pid = match start(machine, spawn) {
        Ok(pid) => pid,
        Err(answer) => return link.send_message(&answer),
    };
    let shown = u32::try_from(pid).unwrap_or_default();
    link.send_message(&Answer::ExecStarted { process: ProcessId(shown), pid: shown })?;
    let (shared, machine, link) = (Arc::clone(shared), Arc::clone(machine), Arc::clone(link));
    thread::Builder::new().name("exec".into()).spawn(move || {
        let _open = shared.progress.open_request();
        let exited = await_outcome(&machine, pid);
        let status = match (exited.signal, exited.code) {
            (Some(signal), _) => ExitStatus::Signal(signal),
            (None, code) => ExitStatus::Code(code.unwrap_or_default() & 0xff),
        };
        // The client may be gone; nobody else wants this.
        let _ = link
            .send(STDOUT, &exited.stdout)
            .and_then(|()| link.send(STDERR, &exited.stderr))
            .and_then(|()| link.send_eof(STDOUT))
            .and_then(|()| link.send_eof(STDERR))
            .and_then(|()| link.send_message(&Answer::Exited { status }));
        link.close();
    })?;
    Ok(())
}

fn start(machine: &Machine, spawn: &Spawn) -> Result<u64, Answer> {
    let wishes = [
        (spawn.tty.is_some(), "gives it no terminal (-t)"),
        (spawn.stdin, "gives it no standard input (-i)"),
        (!spawn.user.is_empty(), "runs it as itself, not as another user (-u)"),
        (spawn.cwd != "/", "chooses its working directory (-w)"),
    ];
    if let Some((_, why)) = wishes.iter().find(|(is_wished, _)| *is_wished) {
        let message = format!(
            "a program in this operating system is run by its qemu-guest-agent, which {why}: Ireko's own \
             agent does, `ireko image prepare` puts it into an image; or use the console, \
             `ireko console NAME`"
        );
        return Err(failed(FailureKind::BadInput, message));
    }
    machine.agents.qemu_ga.start(&spawn.argv, &spawn.env).map_err(|error| {
        let message = error.to_string();
        let kind = match &error {
            AgentError::Refused(why) if why.contains("No such file") => FailureKind::NotFound,
            AgentError::Refused(why) if why.contains("ermission denied") => {
                FailureKind::NotExecutable
            }
            _ => FailureKind::Other,
        };
        failed(kind, message)
    })
}

fn await_outcome(machine: &Machine, pid: u64) -> Exited {
    let (mut pause, mut failures) = (FIRST_PAUSE, 0);
    loop {
        match machine.agents.qemu_ga.outcome(pid) {
            Ok(Some(mut exited)) => {
                if exited.is_truncated {
                    exited.stderr.extend_from_slice(b"\nsome of the output was dropped\n");
                }
                return exited;
            }
            Ok(None) => failures = 0,
            Err(error) => {
                failures += 1;
                if failures == PATIENCE || !machine.is_on() {
                    let stderr = format!("its end is not known: {error}\n").into_bytes();
                    return Exited { signal: Some(9), stderr, ..Exited::default() };
                }
            }
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
