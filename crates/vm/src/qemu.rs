//! The QEMU driver.
//!
//! ```text
//!   VmSpec ─ arguments ─► fork on this thread ─► QEMU ── stderr ─► complaints
//!                             │ inherits the listening control socket
//!      Control ◄─ QMP greeting┘   (connected before the fork: if QEMU dies, the line breaks at once)
//! ```

mod arguments;
mod control;
mod disks;
mod machine;
mod nics;
mod process;
mod saved;

pub use arguments::{MACHINE, arguments};
pub use control::{Control, Status};
pub use nics::NicKind;

use crate::driver::{RunningVm, VmDriver};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::{Boot, Console, MachineBoot, VmSpec};
use control::Connection;
use process::{Process, QemuVm};
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PROGRAM: &str = "qemu-system-x86_64";
const INSTALL: &str = "install it: apt-get install qemu-system-x86";

/// The oldest QEMU that has [`MACHINE`] and the options used here.
pub const OLDEST: Version = Version { major: 7, minor: 2 };

/// QEMU forks, loads the kernel and opens its disks within this; a loaded host takes a second.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// A QEMU program on this host.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
}

/// A QEMU release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 7 of 7.2.22.
    pub major: u32,
    /// 2 of 7.2.22.
    pub minor: u32,
}

impl Qemu {
    /// Finds `qemu-system-x86_64` on the process's PATH.
    ///
    /// The program is not run: a launch that fails asks for its [`Qemu::version`], so that a start
    /// that succeeds does not pay for the question.
    ///
    /// # Errors
    /// `Missing`, with the command that installs it.
    pub fn find() -> Result<Self> {
        Self::find_in(&std::env::var_os("PATH").unwrap_or_default())
    }

    fn find_in(path: &std::ffi::OsStr) -> Result<Self> {
        let missing = || {
            Error::new(ErrorKind::Missing, format!("{PROGRAM} is not installed")).with_hint(INSTALL)
        };
        let mut candidates = std::env::split_paths(path).map(|folder| folder.join(PROGRAM));
        candidates
            .find(|file| is_executable(file))
            .map(|program| Self { program })
            .ok_or_else(missing)
    }

    /// Where the program lies.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Asks the program for its release.
    ///
    /// # Errors
    /// `Missing` where it is older than [`OLDEST`] or does not answer like a QEMU; `Io` where it
    /// cannot be run.
    pub fn version(&self) -> Result<Version> {
        let asked = format!("ask {} for its version", self.program.display());
        let output = Command::new(&self.program)
            .arg("--version")
            .output()
            .map_err(|error| Error::io(&asked, error))?;
        let answer = String::from_utf8_lossy(&output.stdout);
        let version = Version::parse(&answer).ok_or_else(|| {
            let first = answer.lines().next().unwrap_or_default();
            Error::new(ErrorKind::Missing, format!("{asked}: it says {first:?}")).with_hint(INSTALL)
        })?;
        if version < OLDEST {
            let what = format!(
                "{} is QEMU {version}; Ireko needs {OLDEST} or newer",
                self.program.display()
            );
            return Err(Error::new(ErrorKind::Missing, what).with_hint(INSTALL));
        }
        Ok(version)
    }
}

impl Version {
    /// Reads the first line of `--version`: `QEMU emulator version 7.2.22 (Debian …)`.
    fn parse(answer: &str) -> Option<Self> {
        let (_, rest) = answer.lines().next()?.split_once(" version ")?;
        let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl VmDriver for Qemu {
    fn launch(&self, spec: &VmSpec) -> Result<Box<dyn RunningVm>> {
        spec.check()?;
        let (listener, line) = listen(&spec.control).map_err(|error| {
            Error::io(format!("listen on control socket {}", spec.control.display()), error)
        })?;
        for port in &spec.ports {
            remove_stale(&port.socket).map_err(|error| {
                Error::io(format!("remove the old socket {}", port.socket.display()), error)
            })?;
        }
        if let Console::Socket(socket) = &spec.console {
            remove_stale(socket).map_err(|error| {
                Error::io(format!("remove the old socket {}", socket.display()), error)
            })?;
        }
        let process = Process::spawn(&self.program, spec, &listener)?;
        drop(listener);
        let connected = Connection::open(line)
            .and_then(|connection| Control::greet(connection, process.pidfd()?, START_DEADLINE));
        let connected = connected.and_then(|control| match &spec.boot {
            Boot::Saved(saved) => control.load(saved, &spec.control).map(|()| control),
            Boot::Firmware(MachineBoot { resume: Some(state), .. }) => {
                control.load_whole(state, &spec.control).map(|()| control)
            }
            Boot::Kernel(_) | Boot::Firmware(_) => Ok(control),
        });
        match connected {
            Ok(control) => {
                tracing::debug!(vm = spec.name, pid = process.pid(), "QEMU answers");
                Ok(Box::new(QemuVm::new(process, control)))
            }
            Err(error) => Err(self.explain(process, error)),
        }
    }
}

impl Qemu {
    /// Turns a broken control line into what went wrong with QEMU itself. Leaves no process.
    fn explain(&self, process: Process, error: Error) -> Error {
        let (status, complaints) = process.end_failed_start();
        if let Err(too_old) = self.version() {
            return too_old;
        }
        let complaints = complaints.trim();
        let what = match (error.kind(), complaints.is_empty()) {
            (ErrorKind::Timeout, true) => "QEMU started but did not answer".to_string(),
            (_, true) => format!("QEMU ended before the guest ran ({status})"),
            (_, false) => format!("QEMU did not start the VM: {complaints}"),
        };
        Error::new(ErrorKind::Start, what).because(error)
    }
}

/// Returns a listening socket at `path` and a connection to it that waits to be accepted.
fn listen(path: &Path) -> io::Result<(UnixListener, UnixStream)> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    let line = UnixStream::connect(path)?;
    Ok((listener, line))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debian_version_line_is_understood() {
        let line = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(Version::parse(line), Some(OLDEST));
        assert_eq!(
            Version::parse("QEMU emulator version 10.0"),
            Some(Version { major: 10, minor: 0 })
        );
        assert_eq!(Version::parse("bash: qemu"), None);
    }

    #[test]
    fn a_missing_qemu_is_told_with_its_cure() {
        let error = Qemu::find_in("/nowhere".as_ref()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing);
        assert!(error.hint().unwrap().contains("apt-get install"));
    }
}
