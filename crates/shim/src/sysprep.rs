//! A Windows that generalizes itself: sysprep, run in it by its qemu-guest-agent, with an answer file where
//! one is given. It ends by powering the machine off, which is what is waited for.

use crate::qemu_ga::{AgentError, QemuGa};
use std::thread;
use std::time::{Duration, Instant};

const PROGRAM: &str = r"C:\Windows\System32\Sysprep\sysprep.exe";
const ANSWER_FILE: &str = r"C:\Windows\System32\Sysprep\ireko-unattend.xml";
/// How often it is asked for.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Why a Windows is not generalized.
#[derive(Debug, thiserror::Error)]
pub enum SysprepError {
    /// Its agent.
    #[error("sysprep cannot be run")]
    Agent(#[from] AgentError),
    /// Sysprep.
    #[error(
        "sysprep ended with code {0}: its reasons are in \
         C:\\Windows\\System32\\Sysprep\\Panther\\setuperr.log"
    )]
    Ended(i32),
    /// Neither.
    #[error("the machine is still on {} s after sysprep was started", .0.as_secs())]
    Late(Duration),
}

/// Runs sysprep and waits, up to `limit`, until the machine is off; `is_on` tells, and is asked every
/// `pause`.
pub fn sysprep(
    agent: &QemuGa,
    answer_file: Option<&str>,
    is_on: impl Fn() -> bool,
    limit: Duration,
    pause: Duration,
) -> Result<(), SysprepError> {
    let words = [PROGRAM, "/generalize", "/oobe", "/shutdown", "/quiet", "/mode:vm"];
    let mut argv: Vec<_> = words.map(str::to_owned).to_vec();
    if let Some(text) = answer_file {
        agent.write_file(ANSWER_FILE, text.as_bytes())?;
        argv.push(format!("/unattend:{ANSWER_FILE}"));
    }
    let pid = agent.start(&argv, &[])?;
    let deadline = Instant::now() + limit;
    while is_on() {
        // An agent that does not answer is on its way out, as the system is.
        if let Ok(Some(exited)) = agent.outcome(pid)
            && let Some(code) = exited.code.filter(|code| *code != 0)
        {
            return Err(SysprepError::Ended(code));
        }
        if Instant::now() > deadline {
            return Err(SysprepError::Late(limit));
        }
        thread::sleep(pause);
    }
    Ok(())
}
