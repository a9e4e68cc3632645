//! A second process that lets file systems go on where the agent cannot: because it was ended, or stopped,
//! while it held them still.
//!
//! ```text
//!   agent ─ starts it ─► guard opens the file systems ─► says so ─► the agent freezes them
//!         ─ a byte ────► it has nothing to do, and ends
//!         ─ its end, or silence for longer than a freeze lasts ─► the guard thaws them
//! ```
//!
//! It is started before the freeze: nothing can be relied on to start during one.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, parent_id};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ireko_protocol::agent::{FREEZE_LIMIT, FailureKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use crate::failure::{During, Failure, Result};
use crate::freeze::thaw_all;

/// The word that makes the agent's executable a guard; the numbers of its parent's files follow.
pub const WORD: &str = "thaw-guard";
/// Another name than the agent's: who ends that by its name leaves this.
const NAME: &str = "ireko-thaw-guard";
/// The agent itself thaws before.
const PATIENCE: Duration = FREEZE_LIMIT.saturating_add(Duration::from_secs(2));
/// How long a guard may take to come up.
const START: Duration = Duration::from_secs(30);

/// A guard at its post.
#[derive(Debug)]
pub struct ThawGuard(Child);

impl ThawGuard {
    /// One over the file systems on which these files are; it is ready on return.
    pub fn over(disks: &[OwnedFd]) -> Result<Self> {
        let numbers = disks.iter().map(|disk| OsString::from(disk.as_raw_fd().to_string()));
        let child = Command::new("/proc/self/exe")
            .arg0(NAME)
            .arg(WORD)
            .args(numbers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .during(|| "start the guard of a freeze")?;
        let mut guard = Self(child);
        if guard.is_ready() {
            return Ok(guard);
        }
        // Of no use, and it has frozen nothing.
        let _ = guard.0.kill();
        let _ = guard.0.wait();
        Err(Failure::new(FailureKind::Other, "the guard of a freeze does not come up"))
    }

    fn is_ready(&mut self) -> bool {
        let Some(said) = self.0.stdout.as_mut() else { return false };
        await_input(said.as_fd(), START) && said.read(&mut [0]).is_ok_and(|count| count == 1)
    }

    /// The file systems are thawed: there is nothing left to guard.
    pub fn dismiss(mut self) {
        if let Some(mut line) = self.0.stdin.take() {
            // One that is gone needs no word.
            let _ = line.write_all(b".");
        }
        let _ = self.0.wait();
    }
}

/// Guards the file systems of the parent's files with these numbers.
pub fn main(numbers: &[String]) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let open = |number: &String| {
        let path = format!("/proc/{}/fd/{number}", parent_id());
        rustix::fs::open(&path, flags, Mode::empty()).during(|| "open what is to be guarded")
    };
    let disks = numbers.iter().map(open).collect::<Result<Vec<_>>>()?;
    let mut stdout = std::io::stdout();
    stdout.write_all(b".").and_then(|()| stdout.flush()).during(|| "say that it is ready")?;
    let mut stdin = std::io::stdin();
    let is_dismissed =
        await_input(stdin.as_fd(), PATIENCE) && stdin.read(&mut [0]).is_ok_and(|count| count == 1);
    match is_dismissed {
        true => Ok(()),
        false => thaw_all(&disks).map(drop),
    }
}

/// Waits until there is something to read, or the end of it.
fn await_input(from: impl AsFd, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).ok();
    loop {
        match poll(&mut [PollFd::new(&from, PollFlags::IN)], timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.is_ok_and(|count| count > 0),
        }
    }
}
