//! What the engine asks of a shim, one unix-socket connection for each request.
//!
//! Everything is a [`crate::frame::Frame`]. The engine sends one [`Envelope`]; the shim answers
//! with one [`Answer`]. After `Attached` or `ExecStarted` the same connection carries the standard
//! streams (stream numbers below, `Data`, `Eof`, `Credit` with [`crate::frame::WINDOW`]), and an
//! exec ends with a last message [`Answer::Exited`]; then the shim closes it. `Begun` is the same for
//! work with files.

use crate::agent::{
    DiskSerial, ExitStatus, FailureKind, GuestFile, GuestInterface, Interface, ProcessId,
    ProcessInfo, Spawn, Usage,
};
use crate::bounds::Shares;
use crate::files::{FileAnswer, FileJob};
use crate::plan::{ExitRecord, Nic};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The version of these messages.
///
/// A shim outlives the daemon that started it, and a daemon starts the shims of whatever release lies on
/// the disk by then: each has to understand the other. So messages are only added to, and the number stays.
/// Fields that a reader does not know are passed over, those that are missing have defaults; a shim that
/// does not know a request says so. The number changes where an old message could not mean any more what it
/// meant; then the other side is refused, and its container has to be restarted.
pub const VERSION: u32 = 1;

/// Stream number of standard input on a shim connection (engine to shim).
pub const STDIN: u32 = 1;
/// Stream number of standard output, and of a terminal's output.
pub const STDOUT: u32 = 2;
/// Stream number of standard error.
pub const STDERR: u32 = 3;

/// The socket in a VM's runtime folder on which a whole operating system's screen is served by VNC.
pub const SCREEN_SOCKET: &str = "vnc.sock";

/// A request and the version it is written in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The request.
    pub request: Request,
}

/// What there is of every [`Envelope`], also of one whose request its reader does not know.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Versioned {
    /// [`VERSION`] of the writer.
    pub version: u32,
}

/// What the engine asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// Which state the VM is in. Answer: `Status`.
    Status,
    /// Makes a VM that stands by that of a container. Such a shim knows this request and `PowerOff`
    /// only. Answer: `Done`; from then on it is the plan's shim.
    Claim {
        /// The container's plan. Its runtime folder is the one that the VM has already.
        plan: PathBuf,
        /// Where what the shim has to say goes from then on.
        log: PathBuf,
    },
    /// Starts the container's process as soon as the guest is ready. Answered when it runs:
    /// `Started`, or `Failed`. Attach first what must not miss a byte.
    Start,
    /// Joins the container's standard streams. Answer: `Attached`, then streams. May come before
    /// `Start`. Output from before the attach is not repeated (it is in the log).
    Attach {
        /// Send this connection's stream [`STDIN`] to the process.
        stdin: bool,
        /// Close the process's stdin when this connection's stdin ends (docker's `StdinOnce`).
        stdin_once: bool,
        /// Send stdout here.
        stdout: bool,
        /// Send stderr here.
        stderr: bool,
    },
    /// Runs one more process in the container. Answer: `ExecStarted` or `Failed`; then streams,
    /// then `Exited`. `process.process` is ignored: the shim chooses.
    Exec {
        /// The process.
        process: Box<Spawn>,
    },
    /// Sets a terminal's size. Answer: `Done`.
    Resize {
        /// Which process: [`ProcessId::INIT`] or what `ExecStarted` gave.
        process: ProcessId,
        /// Height in character cells.
        rows: u16,
        /// Width in character cells.
        columns: u16,
    },
    /// Sends a signal to the container's process. Answer: `Done`.
    Signal {
        /// Linux signal number, 1 to 64.
        signal: i32,
    },
    /// Kills a process that `Exec` started. Answer: `Done`.
    Kill {
        /// What `ExecStarted` gave.
        process: ProcessId,
    },
    /// Ends the VM at once, without the guest's help. Answer: `Done`.
    PowerOff,
    /// Stops the container's processes. Answer: `Done`.
    Pause,
    /// Lets them run again. Answer: `Done`.
    Unpause,
    /// Changes how much the container's processes may use together. Answer: `Done`.
    Limit(Shares),
    /// Lists the container's processes. Answer: `Processes`.
    ListProcesses,
    /// Tells what the container's processes use. Answer: `Usage`.
    Usage,
    /// Answers `Done` when the agent in a whole operating system can be asked. Answer: `Done`, or
    /// `Failed` when it was not there for so long.
    AwaitAgent {
        /// The time it has to come up.
        seconds: u64,
    },
    /// Asks the agent in a whole operating system which addresses it has. Answer: `Addresses`, or
    /// `Failed` where it does not say so in time.
    Addresses {
        /// The time it has for an answer.
        millis: u64,
        /// What it said a moment ago will do.
        #[serde(default)]
        recent: bool,
    },
    /// Asks the agent in a whole operating system what that calls itself. Answer: `System`.
    System,
    /// Has a Windows generalize itself and waits until it has powered itself off. Answer: `Done`, or
    /// `Failed` where it does not.
    Sysprep {
        /// The answer file's text; without one, Windows asks at its next start.
        answer_file: Option<String>,
        /// The time it has.
        seconds: u64,
    },
    /// Saves a whole operating system's VM beside its disk and ends it, so that a plan which says so can
    /// go on from there. Answer: `Done` when that is durable, or `Failed`; then it runs on.
    Suspend,
    /// Makes the VM's network devices those named here: others are taken away, new ones added, and
    /// the guest is told, by its agent or by a link that goes down and up. Answer: `Done`.
    Rewire(Box<Wiring>),
    /// Writes what a whole operating system shows on its screen into a file, as PNG. Answer: `Done`.
    Screenshot {
        /// The file; replaced where it is there.
        file: PathBuf,
    },
    /// Presses keys of a whole operating system's keyboard. Answer: `Done`, which may come before
    /// the last is released.
    SendKeys {
        /// What is typed, in this order.
        keys: Keys,
    },
    /// Sets what viewers of a whole operating system's screen have to say from now on; those that
    /// are connected stay. Answer: `Done`.
    SetScreenPassword {
        /// 1 to 8 ASCII characters.
        password: String,
    },
    /// Freezes the scratch disk into a layer and goes on with a new child. Answer: `Committed`.
    Commit(CommitRequest),
    /// Works with the container's files. Answer: `Begun`; then the job's bytes on [`STDIN`] and [`STDOUT`],
    /// then `Files` or `Failed`. A connection that is closed before that ends the job.
    Files {
        /// What is done.
        job: FileJob,
    },
    /// Keeps a VM of [`crate::plan::Work::Files`] at work until this connection is closed. Answer: `Done`
    /// when it can be asked for `Files`.
    Hold,
    /// Answers `Ended` when the work has ended and `exit.json` is written.
    Wait,
}

/// A running VM's network devices, and what its guest is to know of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wiring {
    /// The devices.
    pub nics: Vec<Nic>,
    /// Their addresses, in the same order.
    pub interfaces: Vec<Interface>,
    /// Files that say so too, of those that [`crate::agent::Configure`] gave the guest.
    pub files: Vec<GuestFile>,
}

/// What is typed on a keyboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    /// Keys, each alone or as `ctrl-alt-delete` with those that are held meanwhile.
    Named(Vec<String>),
    /// A text, as it is typed on a US keyboard.
    Text(String),
}

/// Where the frozen layer goes, and how the next scratch disk names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommitRequest {
    /// The frozen file's new path, on the same file system; must not exist.
    pub frozen: PathBuf,
    /// `relative_path` of the frozen file's own parent locator once it is there: `.\parent.vhdx`.
    pub frozen_parent: String,
    /// `relative_path` of the next scratch disk's parent locator: `..\..\images\frozen.vhdx`.
    pub next_parent: String,
    /// Freeze the guest's file systems around it, where the guest can.
    pub freeze_guest: bool,
    /// Further disks that are frozen at the same moment, in this order, before the scratch disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskCommit>,
}

/// A further disk that is frozen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskCommit {
    /// Which one.
    pub serial: DiskSerial,
    /// As in [`CommitRequest`].
    pub frozen: PathBuf,
    /// As in [`CommitRequest`]; `None` for one that has no parent.
    pub frozen_parent: Option<String>,
    /// As in [`CommitRequest`].
    pub next_parent: String,
}

/// The shim's answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// See [`Request::Status`].
    Status(Status),
    /// The container's process runs.
    Started {
        /// When: nanoseconds since 1970 UTC.
        started_at: u64,
    },
    /// Streams follow.
    Attached,
    /// Streams follow.
    ExecStarted {
        /// Its id, for `Resize`.
        process: ProcessId,
        /// Its PID as the container sees it.
        pid: u32,
    },
    /// An exec's last message.
    Exited {
        /// How it ended.
        status: ExitStatus,
    },
    /// It was done.
    Done,
    /// See [`Request::ListProcesses`].
    Processes {
        /// One each.
        processes: Vec<ProcessInfo>,
    },
    /// See [`Request::Usage`].
    Usage(Usage),
    /// See [`Request::Addresses`].
    Addresses {
        /// One each.
        interfaces: Vec<GuestInterface>,
    },
    /// See [`Request::System`].
    System {
        /// `debian`, `mswindows`; empty where it does not say.
        id: String,
    },
    /// See [`Request::Commit`].
    Committed(Committed),
    /// See [`Request::Wait`].
    Ended(ExitRecord),
    /// Streams follow.
    Begun,
    /// The last message of [`Request::Files`].
    Files(FileAnswer),
    /// It was not done.
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// For people: what was attempted and why it failed.
        message: String,
    },
}

/// Which state a VM is in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// How far it got.
    pub phase: Phase,
    /// `kvm` or `tcg`; empty until the VM runs.
    pub accel: String,
    /// What its guest began from; `None` until that is known.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// The VM's own process id; 0 until it runs.
    pub vm_pid: u32,
    /// When the container's process started, nanoseconds since 1970 UTC.
    pub started_at: Option<u64>,
}

/// What a VM's guest began from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Its kernel, or its disk's boot loader.
    Cold,
    /// A VM that was booted before and saved.
    Template,
    /// A VM that went on from a template before it was wanted.
    Pool,
    /// Where it was suspended itself.
    Suspended,
}

/// How far a VM got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// QEMU or the guest's kernel is on its way.
    Booting,
    /// The guest is configured and waits for `Start`.
    Ready,
    /// The work goes on.
    Running,
    /// Its processes are stopped by `Pause`.
    Paused,
    /// It ended; `exit.json` is there.
    Ended,
}

/// What a live commit did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Committed {
    /// The guest's file system was frozen around it; otherwise the layer is crash-consistent.
    pub file_system_consistent: bool,
    /// Microseconds the first sync took, with guest writes going on.
    pub sync_micros: u64,
    /// Microseconds during which guest writes were held back.
    pub hold_micros: u64,
}
