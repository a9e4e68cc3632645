//! What the shim and the guest agent say to each other over one virtio-serial port.
//!
//! Messages travel as JSON in [`crate::frame`]s on stream 0; a process's stdio travels as `Data`
//! frames on the streams that [`stream_of`] names. Every request but the streams has exactly one
//! [`GuestMessage::Reply`]. The guest is untrusted: the shim bounds and checks all it says.
//!
//! ```text
//!   shim                                   agent (PID 1)
//!    │ ◄───────────── Hello{version} ────────┤  after modules are loaded
//!    ├─ Configure{seed,time,root,files} ───► │  mounts the root disk
//!    │ ◄──────────── Reply(Done) ────────────┤
//!    ├─ Spawn{process 1, …} ───────────────► │
//!    │ ◄──────────── Reply(Spawned{pid}) ────┤
//!    │ ◄═══ Data / Eof / Credit ═══════════► │
//!    │ ◄──────────── Exited{process 1} ──────┤  after the last byte of its output
//!    ├─ PowerOff ──────────────────────────► │  sync, unmount, power off
//! ```
//!
//! The same agent is a *service* of the operating system in a machine that was prepared for it. Then it
//! is asked with [`RequestBody::Hail`] first, there is no `Configure` and no process 1, and programs run
//! in that system as it is. Which requests it takes is said with each.

use crate::bounds::{Bounds, Shares};
use crate::files::{FileAnswer, FileJob};
use crate::network::MacAddress;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// The version of these messages; both ends refuse another.
pub const VERSION: u32 = 1;
/// The virtio-serial port both ends meet on.
pub const PORT_NAME: &str = "dev.ireko.agent";
/// After this long without a `Thaw` the agent thaws a frozen file system by itself.
pub const FREEZE_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// How many network devices, and how many addresses of one, an agent tells of.
pub const MOST_INTERFACES: usize = 64;

/// Names one process of the guest; chosen by the shim. 1 is the container's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId(pub u32);

impl ProcessId {
    /// The largest there is: a stream's number holds a process's.
    pub const MAX: Self = Self(u32::MAX >> 2);
    /// The container's own process: its exit is the container's exit.
    pub const INIT: Self = Self(1);
}

/// One of a process's three standard streams. With a TTY only `Stdin` and `Stdout` are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stdio {
    /// Host to guest.
    Stdin,
    /// Guest to host; the terminal's output where there is a TTY.
    Stdout,
    /// Guest to host.
    Stderr,
}

/// The frame stream that carries one standard stream of a process.
pub fn stream_of(process: ProcessId, stdio: Stdio) -> u32 {
    process.0.wrapping_mul(4).wrapping_add(match stdio {
        Stdio::Stdin => 0,
        Stdio::Stdout => 1,
        Stdio::Stderr => 2,
    })
}

/// The inverse of [`stream_of`]; `None` where no such stream can be.
pub fn owner_of(stream: u32) -> Option<(ProcessId, Stdio)> {
    let stdio = match stream % 4 {
        0 => Stdio::Stdin,
        1 => Stdio::Stdout,
        2 => Stdio::Stderr,
        _ => return None,
    };
    (stream >= 4).then_some((ProcessId(stream / 4), stdio))
}

/// A request from the shim; `id` comes back in the reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the shim, unique among those not yet answered.
    pub id: u64,
    /// What is asked.
    pub body: RequestBody,
}

/// What there is of every request, also of one that its reader does not know.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Numbered {
    /// The request's.
    pub id: u64,
}

/// What the shim asks of the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum RequestBody {
    /// First of all, once: who this guest is, and its root disk. Reply: `Done`.
    Configure(Box<Configure>),
    /// Does once with another disk, for nobody, what a container's start does, and undoes it: what it
    /// leaves is code that an emulated machine has translated. Asked before [`RequestBody::Configure`].
    /// Reply: `Done`.
    Rehearse(Box<Configure>),
    /// Starts a process. Reply: `Spawned`, or `Failed` with `NotFound`/`NotExecutable`.
    Spawn(Box<Spawn>),
    /// Sends a signal to a process (the whole process group where it has a TTY). Reply: `Done`.
    Signal {
        /// Which process.
        process: ProcessId,
        /// Linux signal number, 1 to 64.
        signal: i32,
    },
    /// Sets the size of a process's terminal. Reply: `Done`.
    Resize {
        /// Which process.
        process: ProcessId,
        /// Height in character cells.
        rows: u16,
        /// Width in character cells.
        columns: u16,
    },
    /// Lists the container's processes. Reply: `Processes`.
    ListProcesses,
    /// Tells what the container's processes use. Reply: `Usage`.
    Usage,
    /// Tells what the guest's clock shows. Reply: `Clock`.
    ReadClock,
    /// Moves the guest's clock, a small step without a jump. Reply: `Done`.
    MoveClock {
        /// How far, forward where positive.
        nanos: i64,
    },
    /// `sync`, then FIFREEZE of the root disk and of every other disk's file system that the container,
    /// or the service's system, has mounted. The agent thaws after [`FREEZE_LIMIT`]. Reply: `Done`.
    Freeze,
    /// FITHAW; `Done` also where nothing was frozen (the limit had passed): `was_frozen` tells. Reply: `Thawed`.
    Thaw,
    /// Stops every process of the container at once (cgroup freezer). Reply: `Done`.
    Pause,
    /// Lets them run again. Reply: `Done`.
    Unpause,
    /// Changes the limits of the workload's cgroup. Reply: `Done`.
    Limit(Shares),
    /// Brings network devices up as [`Configure::interfaces`] does, those that are up already anew, and
    /// replaces the content of files that [`Configure::files`] gave. Reply: `Done`.
    Rewire {
        /// The devices; others are left alone, and have no part in the routes any more.
        interfaces: Vec<Interface>,
        /// The files.
        files: Vec<GuestFile>,
    },
    /// Unpacks a tar archive, read from the whole block device, into the root disk's top folder.
    /// The archive is untrusted: no entry leaves the root. Reply: `Applied`.
    ApplyTar {
        /// The serial of the virtio disk that holds the archive, see [`DiskSerial`].
        disk: DiskSerial,
    },
    /// Takes out of the Linux on a disk what tells it from its copies, durably. Asked in place of
    /// [`RequestBody::Configure`]. Reply: `Generalized`.
    Generalize {
        /// The serial of the virtio disk.
        disk: DiskSerial,
    },
    /// Puts a small static executable, the agent itself, and a unit that starts it into the Linux on a
    /// disk, durably. Asked in place of [`RequestBody::Configure`]. Reply: `Prepared`.
    Prepare {
        /// The serial of the virtio disk.
        disk: DiskSerial,
    },
    /// Works with files: a container's, or of a service those of its system. The job's bytes travel on the streams of `process`, which has no other use; a
    /// `Signal` to it, whichever, makes the job fail. Reply, after the last byte: `Files`.
    Files {
        /// Chosen as for `Spawn`.
        process: ProcessId,
        /// What is done.
        job: FileJob,
    },
    /// `sync`, unmounts, powers the machine off. Reply: none, the machine ends.
    PowerOff,
    /// Nothing but a sign of life. Reply: `Done`; an older agent fails it, which is one too.
    Ping,
    /// Of a service: a new host is there. What an earlier one started runs on, and nobody hears of it
    /// any more. The agent says `Hello`. Reply: none.
    Hail,
    /// Of a service: sets the system's clock. Reply: `Done`.
    SetClock {
        /// Nanoseconds since 1970-01-01T00:00:00Z.
        unix_nanos: u64,
    },
    /// Of a service: which network devices the system has, and their addresses. Reply: `Addresses`.
    Addresses,
    /// Of a service: begins to shut the system down. Reply: `Done`, where there is time for one.
    ShutDown,
}

/// How a disk of the VM is told from the others: virtio-blk's serial, at most 20 ASCII bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSerial(pub String);

impl DiskSerial {
    /// The serial of the container's root disk.
    pub fn root() -> Self {
        Self("root".into())
    }
    /// The serial of the disk that tells a machine's first boot who it is.
    pub fn seed() -> Self {
        Self("cidata".into())
    }
    /// The serial of the archive in an import.
    pub fn archive() -> Self {
        Self("archive".into())
    }
}

/// Who this guest is. Applied before any process of the user runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Configure {
    /// Must be [`VERSION`].
    pub version: u32,
    /// 32 or more bytes of host randomness: credited to the kernel's pool, which is then reseeded.
    pub seed: Vec<u8>,
    /// The wall clock: nanoseconds since 1970-01-01T00:00:00Z.
    pub unix_nanos: u64,
    /// The container's host name, 1 to 64 bytes.
    pub hostname: String,
    /// The disk mounted as the container's root (ext4, `noinit_itable,discard`).
    pub root: DiskSerial,
    /// It is a whole operating system's: the root file system is in one of its partitions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
    /// Its size in bytes: until it has that, another disk's place is not it yet. `None` is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_bytes: Option<u64>,
    /// Further disks, which the container finds in /dev.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSerial>,
    /// The root is mounted read-only.
    pub read_only: bool,
    /// Files shown to the container without being on its disk (bind mounts from a tmpfs), such as
    /// /etc/hostname, /etc/hosts and /etc/resolv.conf.
    pub files: Vec<GuestFile>,
    /// tmpfs mounts inside the container: absolute path and mount options (`size=64m,mode=1777`).
    pub tmpfs: Vec<(String, String)>,
    /// Network devices that are brought up with an address; others are left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// The limits of the workload's cgroup.
    pub shares: Shares,
    /// What its processes may do.
    pub bounds: Bounds,
}

/// A network device and the address it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The address it has, or gets.
    pub mac: MacAddress,
    /// Which device, where it does not have its own address yet; it gets it before all else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<MacAddress>,
    /// Its address.
    pub address: Ipv4Addr,
    /// How many leading bits all addresses of its network share.
    pub prefix: u8,
    /// Where everything is sent that no network of the machine's is for.
    pub default_route: Option<Ipv4Addr>,
    /// The longest IP packet.
    pub mtu: u16,
}

/// A network device as a guest's system tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestInterface {
    /// `eth0`.
    pub name: String,
    /// Its hardware address, where it has one.
    pub mac: Option<MacAddress>,
    /// Its addresses.
    pub addresses: Vec<GuestAddress>,
}

/// An address and how many leading bits it shares with its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestAddress {
    /// The address.
    pub address: IpAddr,
    /// At most 32, or 128.
    pub prefix: u8,
}

impl GuestAddress {
    /// Whether others can reach it: no loopback or link-local address.
    pub fn leads_out(&self) -> bool {
        match self.address {
            IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
            IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
        }
    }
}

/// A small file given to the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestFile {
    /// Absolute path inside the container.
    pub path: String,
    /// Its content.
    pub content: String,
}

/// A process to start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spawn {
    /// Its id; [`ProcessId::INIT`] gets a new PID and mount namespace, others join that.
    pub process: ProcessId,
    /// Program and arguments; the program is looked up in the environment's PATH where it has no
    /// slash. At least one.
    pub argv: Vec<String>,
    /// `KEY=value`, the whole environment.
    pub env: Vec<String>,
    /// Working directory inside the container, absolute; made where it is missing.
    pub cwd: String,
    /// `user`, `user:group`, `uid`, `uid:gid`; empty is root. Names are looked up in the container's
    /// /etc/passwd and /etc/group.
    pub user: String,
    /// Gives it a terminal of this size (rows, columns).
    pub tty: Option<(u16, u16)>,
    /// Its stdin is a stream; otherwise /dev/null.
    pub stdin: bool,
    /// Runs under a minimal init that reaps orphans and forwards signals (docker's `--init`).
    pub init: bool,
    /// [`Bounds::without`] and [`Bounds::no_new_privileges`] are not for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
}

/// What the guest says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum GuestMessage {
    /// The agent is up.
    Hello {
        /// Its [`VERSION`].
        version: u32,
        /// `uname -r` of the guest.
        kernel: String,
    },
    /// The answer to the request of this id.
    Reply {
        /// The request's id.
        id: u64,
        /// The answer.
        result: Reply,
    },
    /// A process ended. Sent after the last byte and the Eof of its output streams.
    Exited {
        /// Which process.
        process: ProcessId,
        /// How it ended.
        status: ExitStatus,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// It was done.
    Done,
    /// The process runs.
    Spawned {
        /// Its PID as the container sees it.
        pid: u32,
    },
    /// The processes of the container.
    Processes {
        /// One each.
        processes: Vec<ProcessInfo>,
    },
    /// See [`RequestBody::Usage`].
    Usage(Usage),
    /// See [`RequestBody::ReadClock`].
    Clock {
        /// Nanoseconds since 1970 UTC.
        unix_nanos: u64,
    },
    /// The file system takes writes again.
    Thawed {
        /// It was frozen without a break until now: what was read meanwhile is consistent.
        was_frozen: bool,
    },
    /// An archive was unpacked.
    Applied {
        /// How many entries it had.
        entries: u64,
        /// Bytes of regular files written.
        bytes: u64,
    },
    /// A system has no identity of its own any more.
    Generalized {
        /// What it calls itself; empty where it does not say.
        system: String,
        /// How many files and folders were removed or emptied.
        changed: u64,
    },
    /// A system has the agent.
    Prepared {
        /// What it calls itself; empty where it does not say.
        system: String,
    },
    /// See [`RequestBody::Addresses`].
    Addresses {
        /// One each; at most [`MOST_INTERFACES`].
        interfaces: Vec<GuestInterface>,
    },
    /// See [`RequestBody::Files`].
    Files(FileAnswer),
    /// It was not done.
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// One sentence for people: what was attempted, and why it failed.
        message: String,
    },
}

/// What kind of failure, where the host acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The program to run is not there (docker's 127).
    NotFound,
    /// The program is there but cannot be run (docker's 126).
    NotExecutable,
    /// A user, a process or a disk that was named does not exist.
    NoSuch,
    /// The disk is full.
    DiskFull,
    /// What was to be written is read-only.
    ReadOnly,
    /// The input (an archive, a request) is malformed.
    BadInput,
    /// Anything else.
    Other,
}

/// One process of the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// PID as the container sees it.
    pub pid: u32,
    /// Parent's PID as the container sees it.
    pub parent: u32,
    /// User's number.
    pub uid: u32,
    /// CPU time used, in milliseconds.
    pub cpu_millis: u64,
    /// Its command line, arguments joined by spaces.
    pub command: String,
    /// What the kernel calls it: the program's name, cut.
    #[serde(default)]
    pub program: String,
    /// For how long it has been there.
    #[serde(default)]
    pub age_seconds: u64,
    /// The number of its terminal, /dev/pts/N.
    #[serde(default)]
    pub terminal: Option<u32>,
    /// The kernel's letter for what it is doing.
    #[serde(default)]
    pub state: String,
    /// Its address space.
    #[serde(default)]
    pub virtual_bytes: u64,
    /// What of that is in memory.
    #[serde(default)]
    pub resident_bytes: u64,
}

/// What the container's processes use, and have used since their start. What the kernel does not tell
/// is 0, or not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time, in nanoseconds,
    pub cpu_nanos: u64,
    /// … of it in programs,
    pub user_nanos: u64,
    /// … of it in the kernel.
    pub kernel_nanos: u64,
    /// What all the machine's CPUs could have given since it started, in nanoseconds.
    pub machine_nanos: u64,
    /// Bytes of memory,
    pub memory_bytes: u64,
    /// … of it files' pages that can be dropped.
    pub inactive_file_bytes: u64,
    /// How many processes and threads.
    pub tasks: u64,
    /// By disk.
    pub disks: Vec<DiskUsage>,
    /// By network device, by name; the loopback device is left out.
    pub interfaces: Vec<InterfaceUsage>,
}

/// What was read from a disk and written to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// Its device number.
    pub major: u32,
    /// Its device number.
    pub minor: u32,
    /// Bytes.
    pub read_bytes: u64,
    /// Bytes.
    pub written_bytes: u64,
}

/// What went through a network device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceUsage {
    /// `eth0`.
    pub name: String,
    /// What came in,
    pub received: Traffic,
    /// … and what went out.
    pub sent: Traffic,
}

/// One direction of a network device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets,
    pub packets: u64,
    /// … that were broken,
    pub errors: u64,
    /// … or had no room.
    pub dropped: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

impl ExitStatus {
    /// The code a shell and docker show: the code itself, or 128 + signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_number_leads_back_to_its_process() {
        for stdio in [Stdio::Stdin, Stdio::Stdout, Stdio::Stderr] {
            assert_eq!(owner_of(stream_of(ProcessId(7), stdio)), Some((ProcessId(7), stdio)));
        }
        assert_eq!(owner_of(0), None);
        assert_eq!(owner_of(7), None);
    }

    #[test]
    fn messages_have_the_shape_on_the_wire_that_both_versions_agree_on() {
        let request =
            Request { id: 3, body: RequestBody::Signal { process: ProcessId(1), signal: 15 } };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"id":3,"body":{"do":"signal","process":1,"signal":15}}"#
        );
        let reply = GuestMessage::Reply { id: 3, result: Reply::Thawed { was_frozen: true } };
        assert_eq!(
            serde_json::to_string(&reply).unwrap(),
            r#"{"say":"reply","id":3,"result":{"reply":"thawed","was_frozen":true}}"#
        );
    }
}
