//! Running programs with input, a deadline, and all they said kept.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// No single command of a test takes longer, even in software emulation on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(600);

/// What a program did.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The command line, for messages.
    pub command: String,
    /// Its exit code; 128 + signal where it was killed.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ran {
    /// Checks that it succeeded; its standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:#?}");
        self.stdout
    }

    /// Checks that it failed with this code and said this on standard error.
    #[track_caller]
    pub fn fails_with(self, code: i32, said: &str) {
        assert_eq!(self.code, code, "{self:#?}");
        assert!(self.stderr.contains(said), "{said:?} is missing in {self:#?}");
    }
}

/// Runs a program to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    run_with_input(command, b"")
}

/// Runs a program to its end, giving it this on standard input.
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Ran {
    let line = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
    let mut stdin = child.stdin.take().expect("a piped stdin");
    let input = input.to_vec();
    // A program may end without reading its input.
    thread::spawn(move || stdin.write_all(&input));
    let pid = child.id();
    let (tell, ended) = mpsc::channel();
    thread::spawn(move || tell.send(child.wait_with_output()));
    let Output { status, stdout, stderr } = match ended.recv_timeout(DEADLINE) {
        Ok(output) => output.expect("wait for a program"),
        Err(_) => {
            kill(pid);
            panic!("{line} did not end within {} s", DEADLINE.as_secs());
        }
    };
    use std::os::unix::process::ExitStatusExt;
    Ran {
        command: line,
        code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// `kill -9` of one process.
#[track_caller]
pub fn kill(pid: u32) {
    assert!(kill_if_there(pid), "no process {pid} to kill");
}

/// `kill -9` of one process that may end by itself; returns whether it was there.
pub fn kill_if_there(pid: u32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()
}

/// Waits until a process is gone, by its pidfd.
pub fn await_death(pid: u32) {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let Some(pid) = Pid::from_raw(pid as i32) else { return };
    if let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) {
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        let limit = rustix::time::Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(poll(&mut fds, Some(&limit)), Ok(1), "process {pid:?} does not end");
    }
}

/// The repository's top folder.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// The `ireko` under test: `IREKO_BIN`, or built now.
pub fn ireko() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("IREKO_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "-p", "ireko", "--message-format=json"])
        .current_dir(repository())
        .stderr(Stdio::inherit())
        .output()
        .expect("run cargo");
    assert!(built.status.success(), "ireko does not build");
    let messages = String::from_utf8_lossy(&built.stdout);
    let executable = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let ours = message["target"]["name"] == "ireko";
        message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
    });
    executable.expect("cargo names the executable")
}

/// All that a reader gives, as a string.
pub fn read_all(mut from: impl Read) -> String {
    let mut text = Vec::new();
    from.read_to_end(&mut text).expect("read");
    String::from_utf8_lossy(&text).into_owned()
}
