//! Saving a VM, and going on from what was saved.
//!
//! ```text
//!   save:  stop ─► migrate unix:… ──────────► state file        RAM stays in the file that it is
//!   load:  migrate-incoming unix:… ◄───────── state file        RAM is mapped from that file, privately
//! ```
//! It is QEMU's migration with the RAM left out (`x-ignore-shared`), or, of one VM that is to go on itself,
//! with it. The state goes through a socket of
//! ours, since QEMU may neither start a program nor open files of its own choice.

use super::control::{ANSWER_DEADLINE, Control};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::SavedVm;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The most that a VM's state may be; half a megabyte is usual.
const MAX_STATE: u64 = 256 << 20;
/// How long a state may take to be written or read. A tenth of a second is usual.
const LIMIT: Duration = Duration::from_secs(60);
/// How often QEMU is asked whether it is done: it tells nobody who does not ask.
const ASK_AGAIN: Duration = Duration::from_millis(2);

impl Control {
    /// Stops the VM's CPUs and writes to `state` all that the VM is but its RAM, which its
    /// [`KernelBoot::ram`](crate::KernelBoot::ram) is. Then the VM is of no use but to be ended.
    ///
    /// `folder` takes a socket for as long. Nothing is synced.
    ///
    /// # Errors
    /// `Timeout`, `Io`, or `Control` with QEMU's reason.
    pub fn save(&self, state: &mut File, folder: &Path) -> Result<()> {
        self.pause()?;
        self.leave_out_ram()?;
        self.write_state(state, MAX_STATE, folder)
    }

    /// Stops the VM's CPUs and writes to `state` all that the VM is, its RAM as well; at most so many
    /// bytes. Then it can be ended, or resumed. `folder` takes a socket for as long. Nothing is synced.
    ///
    /// # Errors
    /// `Timeout`, `Io`, or `Control` with QEMU's reason.
    pub(crate) fn save_whole(&self, state: &mut File, most: u64, folder: &Path) -> Result<()> {
        self.pause()?;
        // Its own limit is meant for networks.
        let unlimited = json!({ "max-bandwidth": 1_u64 << 40 });
        self.execute_with("migrate-set-parameters", &unlimited, ANSWER_DEADLINE)?;
        self.write_state(state, most, folder)
    }

    fn write_state(&self, state: &mut File, most: u64, folder: &Path) -> Result<()> {
        let socket = Socket::in_folder(folder)?;
        let listener = UnixListener::bind(&socket.0)
            .map_err(|error| Error::io("listen for the VM's state", error))?;
        self.execute_with("migrate", &json!({ "uri": socket.uri() }), ANSWER_DEADLINE)?;
        let copied = accept(&listener)
            .and_then(|stream| {
                stream.set_read_timeout(Some(LIMIT))?;
                io::copy(&mut stream.take(most), state)
            })
            .map_err(|error| Error::io("write the VM's state", error))?;
        if copied == most {
            let what = format!("the VM's state has more than {} MiB", most >> 20);
            return Err(Error::new(ErrorKind::Control, what));
        }
        self.ask_until("query-migrate", |answer| match answer["status"].as_str() {
            Some("completed") => Some(Ok(())),
            Some("failed" | "cancelled") => {
                let reason = answer["error-desc"].as_str().unwrap_or("it gives no reason");
                let error = Error::new(ErrorKind::Control, "save the VM").because(reason);
                Some(Err(error))
            }
            _ => None,
        })
    }

    /// Takes a VM that waits for a state to where another was saved.
    pub(super) fn load(&self, saved: &SavedVm, control: &Path) -> Result<()> {
        self.leave_out_ram()?;
        self.load_whole(&saved.state, control)
    }

    /// Takes a VM that waits for a state to where one was saved with its RAM, or, where that is mapped
    /// already, without.
    pub(super) fn load_whole(&self, state: &Path, control: &Path) -> Result<()> {
        let cannot_read = |error| Error::io(format!("read {}", state.display()), error);
        let mut state = File::open(state).map_err(cannot_read)?;
        let folder = control.parent().unwrap_or(Path::new("."));
        let socket = Socket::in_folder(folder)?;
        let from = json!({ "uri": socket.uri() });
        self.execute_with("migrate-incoming", &from, ANSWER_DEADLINE)?;
        UnixStream::connect(&socket.0)
            .and_then(|mut stream| {
                stream.set_write_timeout(Some(LIMIT))?;
                io::copy(&mut state, &mut stream)?;
                stream.flush()
            })
            .map_err(|error| Error::io("give the VM its state", error))?;
        self.ask_until("query-status", |answer| (answer["status"] != "inmigrate").then_some(Ok(())))
    }

    fn leave_out_ram(&self) -> Result<()> {
        let wanted = json!({
            "capabilities": [{ "capability": "x-ignore-shared", "state": true }]
        });
        self.execute_with("migrate-set-capabilities", &wanted, ANSWER_DEADLINE).map(drop)
    }

    fn ask_until(
        &self,
        question: &str,
        mut decide: impl FnMut(&Value) -> Option<Result<()>>,
    ) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let answer = self.execute_with(question, &json!({}), ANSWER_DEADLINE)?;
            if let Some(decided) = decide(&answer) {
                return decided;
            }
            if Instant::now() > deadline {
                let late = format!("it is not done within {} s", LIMIT.as_secs());
                let what = format!("ask the VM for {question:?}");
                return Err(Error::new(ErrorKind::Timeout, what).because(late));
            }
            thread::sleep(ASK_AGAIN);
        }
    }
}

/// The socket that a state goes through; it goes with this value.
struct Socket(PathBuf);

impl Socket {
    fn in_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("state.sock");
        match path.to_str() {
            Some(_) => super::remove_stale(&path)
                .map(|()| Self(path))
                .map_err(|error| Error::io("remove an old socket", error)),
            None => {
                let what = format!("folder {} has a name that is no text", folder.display());
                Err(Error::new(ErrorKind::InvalidSpec, what))
            }
        }
    }

    fn uri(&self) -> String {
        format!("unix:{}", self.0.display())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Accepts one connection, within [`LIMIT`].
fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&limit))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => listener.accept().map(|(stream, _)| stream),
    }
}
