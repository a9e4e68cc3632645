//! QEMU as a child process: born on this thread, dead with it, its complaints kept.

#![allow(unsafe_code)]

use super::arguments::arguments;
use super::control::Control;
use crate::driver::{ExitCause, RunningVm, VmExit};
use crate::error::{Error, Result};
use crate::spec::VmSpec;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::CapabilitiesSecureBits;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How much of QEMU's standard error is kept, counted from its end.
const KEPT_COMPLAINTS: usize = 16 << 10;

/// How much of it is passed on to our own log: a guest may find a way to have QEMU complain without end.
const LOGGED_COMPLAINTS: usize = 64 << 10;

/// After the control line broke, QEMU's own exit follows within this.
const LAST_WORDS_DEADLINE: Duration = Duration::from_secs(5);

/// QEMU's process. Dropping it kills and reaps.
pub struct Process {
    child: Child,
    complaints: Option<JoinHandle<Vec<u8>>>,
}

impl Process {
    /// Forks QEMU on the calling thread; it inherits `control` and is killed when that thread ends.
    pub fn spawn(program: &Path, spec: &VmSpec, control: &UnixListener) -> Result<Self> {
        let control = control.as_raw_fd();
        let parent = rustix::process::getpid();
        let group = spec.group.as_deref().map(door).transpose()?;
        let mut command = Command::new(program);
        command.args(arguments(spec, control));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // SAFETY: between fork and exec the closure makes some plain system calls and touches no
        // memory but its captured numbers; `control` is open in the parent until spawn returns, the
        // group's file as long as the closure is there.
        unsafe {
            command.pre_exec(move || {
                die_with(parent)?;
                enter(group.as_ref())?;
                leave_privileges()?;
                keep_over_exec(control)
            })
        };
        let mut child = command
            .spawn()
            .map_err(|error| Error::io(format!("run {}", program.display()), error))?;
        let stderr = child.stderr.take().expect("stderr was asked to be a pipe");
        let complaints = thread::Builder::new().name("qemu-stderr".into());
        match complaints.spawn(move || last_bytes(stderr)) {
            Ok(complaints) => Ok(Self { child, complaints: Some(complaints) }),
            Err(error) => {
                drop(Self { child, complaints: None });
                Err(Error::io("start the thread that reads QEMU's complaints", error))
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns a handle that means this process even after its number was given to another.
    pub fn pidfd(&self) -> Result<OwnedFd> {
        let pid = Pid::from_child(&self.child);
        rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| Error::io("open a handle of QEMU's process", error))
    }

    /// Waits for the last words of a QEMU whose start failed, kills it where none come.
    pub fn end_failed_start(mut self) -> (ExitStatus, String) {
        let ended = self.pidfd().is_ok_and(|pidfd| ends_within(&pidfd, LAST_WORDS_DEADLINE));
        if !ended {
            let _ = self.child.kill();
        }
        let status = self.child.wait().unwrap_or_default();
        (status, self.take_complaints())
    }

    /// Blocks until the process's standard error is closed, which is when it has ended: the sandbox
    /// lets it start no program that could keep it open.
    fn take_complaints(&mut self) -> String {
        let bytes = self.complaints.take().and_then(|reader| reader.join().ok());
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both do nothing to a child that was already waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A launched QEMU.
pub struct QemuVm {
    process: Process,
    control: Control,
    exit: Option<VmExit>,
}

impl QemuVm {
    pub fn new(process: Process, control: Control) -> Self {
        Self { process, control, exit: None }
    }

    fn ended(&mut self, status: ExitStatus) -> VmExit {
        let cause = match (status.code(), status.signal()) {
            (Some(0), _) => self.control.wait_end(),
            (Some(code), _) => ExitCause::Failed(code),
            (None, signal) => ExitCause::Killed(signal.unwrap_or_default()),
        };
        let exit = VmExit { cause, complaints: self.process.take_complaints() };
        self.exit.insert(exit).clone()
    }
}

impl RunningVm for QemuVm {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn wait(&mut self) -> Result<VmExit> {
        if let Some(exit) = &self.exit {
            return Ok(exit.clone());
        }
        let status = self.process.child.wait().map_err(cannot_wait)?;
        Ok(self.ended(status))
    }

    fn try_wait(&mut self) -> Result<Option<VmExit>> {
        if let Some(exit) = &self.exit {
            return Ok(Some(exit.clone()));
        }
        let status = self.process.child.try_wait().map_err(cannot_wait)?;
        Ok(status.map(|status| self.ended(status)))
    }

    fn control(&self) -> Control {
        self.control.clone()
    }
}

fn cannot_wait(error: io::Error) -> Error {
    Error::io("wait for QEMU's end", error)
}

/// Asks the kernel to kill this process with the thread that forked it. The second step closes the
/// gap in which that thread ended before the first.
fn die_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() == Some(parent) {
        Ok(())
    } else {
        Err(rustix::io::Errno::SRCH.into())
    }
}

/// The file by which a process enters a control group.
fn door(group: &Path) -> Result<File> {
    let path = group.join("cgroup.procs");
    let opened = File::options().write(true).open(&path);
    opened.map_err(|error| Error::io(format!("open {}", path.display()), error))
}

/// Puts the calling process into the group, all of its memory to come included.
fn enter(mut group: Option<&File>) -> io::Result<()> {
    match &mut group {
        Some(door) => door.write(b"0").map(drop),
        None => Ok(()),
    }
}

/// Has the program to come run with its user's rights alone, also where that is root.
fn leave_privileges() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    // These take a privilege themselves, or are unknown to an old kernel: who has none has none to lose.
    let plain = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
    let _ = rustix::thread::set_capabilities_secure_bits(plain);
    let _ = rustix::thread::clear_ambient_capability_set();
    Ok(())
}

fn keep_over_exec(descriptor: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open and stays so; F_SETFD takes no pointer.
    match unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Reads to the end, keeping the last [`KEPT_COMPLAINTS`] bytes.
fn last_bytes(mut stderr: ChildStderr) -> Vec<u8> {
    let mut kept = VecDeque::new();
    let mut buffer = [0; 4096];
    let mut logged = 0;
    loop {
        match stderr.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if logged < LOGGED_COMPLAINTS {
                    logged += count;
                    tracing::warn!(text = %String::from_utf8_lossy(&buffer[..count]).trim(), "QEMU says");
                }
                kept.extend(&buffer[..count]);
                kept.drain(..kept.len().saturating_sub(KEPT_COMPLAINTS));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    kept.into()
}

fn ends_within(pidfd: &OwnedFd, deadline: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut watched = [PollFd::new(pidfd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: deadline.as_secs() as i64, tv_nsec: 0 };
    matches!(poll(&mut watched, Some(&timeout)), Ok(1))
}
