//! Running the host's own programs: apt, dpkg-deb, mkfs.
//!
//! Each run has a deadline, no standard input and the C locale; what the program said on stderr
//! becomes the error's cause.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};

/// How long a child may be gone before its exit is noticed.
const POLL: Duration = Duration::from_millis(10);

/// One program of the host, not yet run.
pub(crate) struct Tool {
    name: &'static str,
    command: Command,
    limit: Duration,
}

impl Tool {
    /// Finds `name` on PATH or in the administrator's folders, which a user's PATH may lack.
    ///
    /// `package` is what installs it, for the hint.
    pub fn find(name: &'static str, package: &str) -> Result<Self> {
        let path = find_program(name).ok_or_else(|| {
            Error::new(ErrorKind::ToolMissing, format!("{name} is not installed"))
                .with_hint(format!("sudo apt-get install {package}"))
        })?;
        Ok(Self::at(name, &path))
    }

    /// A program at a known place.
    pub fn at(name: &'static str, path: &Path) -> Self {
        let mut command = Command::new(path);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        Self { name, command, limit: Duration::from_secs(120) }
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// How long it may take; two minutes if not said.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end and returns its standard output.
    ///
    /// # Errors
    /// `ToolFailed` when it cannot be started, exits other than 0, or passes its deadline (it is
    /// killed then).
    pub fn output(mut self) -> Result<Vec<u8>> {
        let name = self.name;
        let failed = |why: String| Error::new(ErrorKind::ToolFailed, why);
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed(format!("start {name}")).because(e))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed(format!("{name} has no output")));
        };
        let stdout = thread::spawn(move || read_all(stdout));
        let stderr = thread::spawn(move || read_all(stderr));
        let status = wait(&mut child, self.limit)
            .map_err(|e| failed(format!("wait for {name}")).because(e))?;
        let collect = |reader: thread::JoinHandle<io::Result<Vec<u8>>>| {
            reader
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the reading thread panicked")))
                .map_err(|e| failed(format!("read what {name} says")).because(e))
        };
        let (stdout, stderr) = (collect(stdout)?, collect(stderr)?);
        match status {
            Some(status) if status.success() => Ok(stdout),
            Some(status) => Err(failed(format!("{name} failed ({status})")).because(tail(&stderr))),
            None => Err(failed(format!("{name} did not end within {:?}", self.limit))),
        }
    }
}

/// Waits for the child's end; `None` when it had to be killed at the deadline.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn read_all(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The last few lines, which is where programs say why they gave up.
fn tail(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_what_the_program_printed() {
        let out = Tool::find("sh", "dash").unwrap().args(["-c", "echo one"]).output().unwrap();
        assert_eq!(out, b"one\n");
    }

    #[test]
    fn a_failure_carries_what_the_program_said() {
        let error = Tool::find("sh", "dash")
            .unwrap()
            .args(["-c", "echo no such thing >&2; exit 3"])
            .output()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ToolFailed);
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "no such thing");
    }

    #[test]
    fn a_program_that_never_ends_is_killed_at_its_deadline() {
        let error = Tool::find("sleep", "coreutils")
            .unwrap()
            .arg("1000")
            .limit(Duration::from_millis(30))
            .output()
            .unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_names_its_package() {
        let error = Tool::find("no-such-program", "some-package").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::ToolMissing);
        assert_eq!(error.hint(), Some("sudo apt-get install some-package"));
    }
}
