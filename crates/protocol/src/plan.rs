//! The files that engine and shim leave for each other in a container's folder.
//!
//! `plan.json` is everything a shim needs to run one VM: every name resolved, every path absolute,
//! so that the shim never looks into the store. `shim.json` says which process that became,
//! `exit.json` how it ended. Each is written aside and renamed. Only `exit.json` is synced: the others
//! are of no use after a power cut, and may then have anything in them.

use crate::agent::{Configure, DiskSerial, Spawn};
use crate::network::MacAddress;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The version of the files here; a reader refuses a newer one.
pub const VERSION: u32 = 1;

/// The folder, in a plan's `state_dir`, of a VM that was suspended.
pub const SUSPENDED: &str = "suspended";
/// The file in it that says so: a VM is suspended while it is there.
pub const SUSPENDED_RECORD: &str = "vm.json";

/// What one shim is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmPlan {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The VM's id: 12 lower-case hex digits. Names its runtime folder.
    pub vm: String,
    /// The disk chain, leaf first. The leaf is opened for writing, the others read-only.
    pub chain: Vec<PathBuf>,
    /// Further disks, in the order in which the guest finds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<PlanDisk>,
    /// Folder for this VM's sockets; made by the shim with mode 0700, removed at its end.
    pub runtime_dir: PathBuf,
    /// Where `plan.json` lies and where `shim.json`, `exit.json` and `console.log` go.
    pub state_dir: PathBuf,
    /// The machine-wide cache (kernel, acceleration verdict).
    pub cache: PathBuf,
    /// Guest RAM in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs, at least 1.
    pub vcpus: u32,
    /// Network devices, in the order of `configure.interfaces`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// The host's control group of this VM, where it has one: made by the shim, and removed at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<PathBuf>,
    /// How the guest's CPU is run.
    pub accel: AccelChoice,
    /// Whether the VM may go on from a template.
    #[serde(default)]
    pub start: StartChoice,
    /// Who the guest is, where our agent is in it. `seed` and `unix_nanos` are filled in by the shim at the last moment.
    pub configure: Configure,
    /// What is done in it.
    pub work: Work,
    /// Its disks are removed when it ends: what was written last need not be on them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disposable: bool,
    /// How much is kept of its output where that is kept; `None` is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_limit: Option<LogLimit>,
}

/// How much of a log is kept: a file that has so many bytes becomes `log.1`, that one `log.2`, and the last
/// goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimit {
    /// Bytes of one file, at least 1; the line with which they are reached is still written.
    pub bytes: u64,
    /// Files, the one that is written to included: 1 to [`MAX_LOG_FILES`].
    pub files: u32,
}

/// The most files of one log.
pub const MAX_LOG_FILES: u32 = 100;

impl LogLimit {
    /// The file that has become the `number`th of a log, counted from the one that is written to, 0.
    pub fn file(log: &Path, number: u32) -> PathBuf {
        match number {
            0 => log.to_owned(),
            number => log.with_added_extension(number.to_string()),
        }
    }
}

/// A disk beside the one that the container was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanDisk {
    /// What the guest tells it by.
    pub serial: DiskSerial,
    /// Its files, as in [`VmPlan::chain`].
    pub chain: Vec<PathBuf>,
}

/// One network device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Its address.
    pub mac: MacAddress,
    /// Where its cable leads.
    #[serde(flatten)]
    pub cable: Cable,
}

/// Where a network device's cable leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cable {
    /// To the unix socket on which the VM waits for its network's switch.
    Socket(PathBuf),
    /// To this device of the host's.
    Tap(String),
}

/// What a VM is started for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Run a container's process when [`crate::shim::Request::Start`] says so.
    Container {
        /// The process.
        process: Box<Spawn>,
        /// Where its output is kept as JSON lines; `None` keeps none (log driver `none`).
        log: Option<PathBuf>,
    },
    /// Boot the operating system on the disk when [`crate::shim::Request::Start`] says so.
    Machine {
        /// What runs first.
        firmware: Firmware,
        /// Which devices it finds.
        hardware: Hardware,
        /// Where UEFI keeps its variables; made at the first start.
        nvram: PathBuf,
        /// A disk, read-only, that tells its first boot who it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seed: Option<PathBuf>,
        /// Where its serial console is kept as JSON lines; `None` keeps none.
        log: Option<PathBuf>,
        /// Its CPUs can run virtual machines themselves.
        #[serde(default)]
        nested: bool,
        /// It goes on from where it was suspended: see [`SUSPENDED`].
        #[serde(default)]
        resume: bool,
    },
    /// Go on from a template, rehearse a start, and stand by as the VM of whoever's plan comes with
    /// [`crate::shim::Request::Claim`].
    Spare {
        /// A disk with an empty ext4 file system, which is not changed.
        empty: PathBuf,
    },
    /// Put the agent into the system on the disk, then power off. Begins by itself.
    Prepare,
    /// Do what [`crate::shim::Request::Files`] asks, as long as [`crate::shim::Request::Hold`] lasts; then
    /// power off.
    Files,
    /// Take out of the disk what tells the system on it from its copies, then power off. Begins by
    /// itself.
    Generalize,
    /// Unpack an archive into the root disk, then power off. Begins by itself.
    ApplyTar {
        /// An uncompressed tar archive, attached read-only.
        archive: PathBuf,
    },
}

/// What runs before an operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// A PC's BIOS.
    Bios,
    /// UEFI without Secure Boot.
    Uefi,
    /// UEFI with Secure Boot.
    UefiSecure,
}

/// Which devices an operating system finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hardware {
    /// Those made for virtual machines.
    Virtio,
    /// Those of a usual PC.
    Compatible,
}

/// How the guest's CPU is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccelChoice {
    /// KVM where it was proved to work, else TCG.
    #[default]
    Auto,
    /// Hardware virtualisation; an error where it does not work.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

/// Whether a VM with our agent goes on from one that was saved, or is one that stands by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartChoice {
    /// One that stands by, where there is one; else from a template, which is made where it is
    /// missing; cold where that fails.
    #[default]
    Auto,
    /// One that stands by; an error where there is none.
    Pool,
    /// From a template; an error where that fails.
    Template,
    /// Its kernel is booted.
    Cold,
}

impl StartChoice {
    /// Nothing was chosen.
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

impl std::str::FromStr for StartChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "pool" => Ok(Self::Pool),
            "template" => Ok(Self::Template),
            "cold" => Ok(Self::Cold),
            _ => Err(format!("unknown start {text:?}: use auto, pool, template or cold")),
        }
    }
}

impl std::str::FromStr for AccelChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            _ => Err(format!("unknown acceleration {text:?}: use auto, kvm or tcg")),
        }
    }
}

/// Which process owns a VM; trusted only together with the lock on the leaf disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimRecord {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The shim's process id.
    pub pid: u32,
    /// Field 22 of its /proc/PID/stat: clock ticks after boot when it started.
    pub start_time: u64,
    /// /proc/sys/kernel/random/boot_id of that boot.
    pub boot_id: String,
    /// The VM's id.
    pub vm: String,
    /// Its control socket.
    pub socket: PathBuf,
    /// The VM's own process (QEMU); 0 until it runs.
    pub vm_pid: u32,
}

/// How a VM's work ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// Docker's exit code: the process's own, 128 + signal, 126/127 where it could not be started,
    /// 255 where the VM or its shim died without one.
    pub exit_code: i32,
    /// What went wrong beside the process's own exit; shown as `State.Error`.
    pub error: Option<String>,
    /// The host's kernel killed the VM: it took more memory than the host gives it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
    /// When the process started: nanoseconds since 1970 UTC; `None` where it never did.
    pub started_at: Option<u64>,
    /// When it ended, likewise.
    pub finished_at: u64,
}

/// One line of a container's log file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The text with its line end; bytes that are not UTF-8 are replaced by U+FFFD.
    pub log: String,
    /// `stdout` or `stderr`.
    pub stream: LogStream,
    /// When the shim read it: RFC 3339 UTC with nine fraction digits.
    pub time: String,
}

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output, and all output of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}
