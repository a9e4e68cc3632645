//! What a container is made of: every option understood, none of it Docker's JSON.
//!
//! These types are written as they are into `config.json` (see [`crate::state`]), so fields may be
//! added with a `serde(default)` but not renamed.

use crate::store::oci::{Firmware, Hardware, Healthcheck};
use ireko_protocol::bounds::{Bounds, Shares};
use ireko_protocol::network::Publish;
pub use ireko_protocol::plan::{LogLimit, StartChoice};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Bytes in one MiB.
pub(crate) const MIB: u64 = 1024 * 1024;
/// Memory of a container that asked for none, in bytes.
pub const DEFAULT_MEMORY: u64 = 512 * MIB;
/// Memory of a whole operating system for which none was asked, in bytes.
pub const DEFAULT_MACHINE_MEMORY: u64 = 1024 * MIB;
/// The least memory a VM is made with, in bytes; a smaller limit is kept by the guest's cgroup.
pub const LEAST_VM_MEMORY: u64 = 128 * MIB;
/// Up to here a VM has a power of two of memory, in bytes, so that few templates are enough.
pub const MOST_CLASSED_MEMORY: u64 = 4096 * MIB;
/// The least memory limit that is accepted, in bytes.
pub const LEAST_MEMORY: u64 = 6 * MIB;

/// A container as it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The image as the user named it.
    pub image: String,
    /// Program and arguments; `None` is the image's.
    pub command: Option<Vec<String>>,
    /// What the command is given to; `None` is the image's, empty is none at all.
    pub entrypoint: Option<Vec<String>>,
    /// `KEY=value`, or `KEY` alone to remove it; on top of the image's.
    pub env: Vec<String>,
    /// Working directory; `None` is the image's.
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers; `None` is the image's.
    pub user: Option<String>,
    /// Host name; `None` is the first 12 digits of the id.
    pub hostname: Option<String>,
    /// The domain of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain_name: Option<String>,
    /// On top of the image's.
    pub labels: BTreeMap<String, String>,
    /// `80/tcp`: what the program listens on; says nothing about publishing.
    pub exposed_ports: Vec<String>,
    /// Name or number; `None` is the image's, or SIGTERM.
    pub stop_signal: Option<String>,
    /// Seconds that stop waits before it kills; `None` is 10, negative is for ever.
    pub stop_timeout: Option<i64>,
    /// Where the process's standard streams lead.
    pub stdio: StdioSpec,
    /// What the VM is given.
    pub resources: Resources,
    /// What its processes may do.
    #[serde(skip_serializing_if = "Bounds::is_none")]
    pub bounds: Bounds,
    /// What was asked for in words that this room does not read, each with its name there: it is only
    /// shown. Either it says what other fields here say too, or it has no effect.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub noted: BTreeMap<String, serde_json::Value>,
    /// The container is removed when it has ended.
    pub auto_remove: bool,
    /// What happens when its process ends by itself.
    pub restart: RestartPolicy,
    /// The root disk is mounted read-only.
    pub read_only: bool,
    /// tmpfs mounts: path and mount options.
    pub tmpfs: BTreeMap<String, String>,
    /// The process runs under a minimal init.
    pub init: bool,
    /// The network's name as the user gave it.
    pub network: String,
    /// Further lines of /etc/hosts.
    pub extra_hosts: Vec<ExtraHost>,
    /// Names in /etc/hosts of its network's gateway.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateway_hosts: Vec<String>,
    /// Its ports that are to be reached by ports of the host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
    /// All of `exposed_ports` are published.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub publish_all: bool,
    /// What /etc/resolv.conf says.
    pub dns: Dns,
    /// Output is kept for `logs`.
    pub keep_log: bool,
    /// How much of it is kept; `None` is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_limit: Option<LogLimit>,
    /// What boots a whole operating system; `None` is what its image says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    /// The devices of a whole operating system; `None` is what its image says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
    /// A whole operating system's CPUs can run virtual machines themselves.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub nested: bool,
    /// Whether its VM may go on from a template.
    #[serde(skip_serializing_if = "StartChoice::is_auto")]
    pub start: StartChoice,
    /// What a whole operating system's cloud-init is given at its first boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Public keys that a whole operating system is to let in, each a line of `authorized_keys`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// How to tell whether it is well, on top of the image's way; `["NONE"]` is not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Disks beside the image's, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSpec>,
}

/// A disk that a container is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// What it is called; `None` is `disk` and a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is on it.
    #[serde(flatten)]
    pub content: DiskContent,
}

/// What is on a disk that a container is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskContent {
    /// Nothing: so many bytes, rounded up to whole MiB.
    Blank(u64),
    /// What a disk file holds, of any format that can be imported: its absolute path. It is copied.
    File(PathBuf),
}

/// Where a process's standard streams lead.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StdioSpec {
    /// It has a terminal.
    pub tty: bool,
    /// Its stdin is a stream.
    pub open_stdin: bool,
    /// Its stdin ends with the first client that was attached to it.
    pub stdin_once: bool,
    /// The client that made it meant to attach to these: stdin, stdout, stderr. Only shown.
    pub attached: [bool; 3],
    /// The terminal's first size: rows, columns; zeros where unknown.
    pub console_size: (u16, u16),
}

/// What a VM is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes; `None` is [`DEFAULT_MEMORY`], or [`DEFAULT_MACHINE_MEMORY`].
    pub memory: Option<u64>,
    /// Thousandths of a CPU; `None` is one whole virtual CPU.
    pub cpu_millis: Option<u64>,
    /// Processes and threads; `None` is what the guest's kernel allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u64>,
}

impl Resources {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The VM's RAM in MiB and, where that is more than was asked for, the guest's own limit in bytes.
    pub fn vm_memory(&self) -> (u64, Option<u64>) {
        let memory = self.memory.unwrap_or(DEFAULT_MEMORY);
        let of_vm = match memory > MOST_CLASSED_MEMORY {
            true => memory.div_ceil(MIB).saturating_mul(MIB),
            false => memory.next_power_of_two().max(LEAST_VM_MEMORY),
        };
        (of_vm / MIB, (of_vm > memory).then_some(memory))
    }

    /// What the guest's own limits keep the container to, in a VM made for `of_vm`; `None` where that VM
    /// has less than this.
    pub fn shares_in(&self, of_vm: &Resources) -> Option<Shares> {
        let ((wanted_mib, _), (vm_mib, _)) = (self.vm_memory(), of_vm.vm_memory());
        let ((wanted_cpus, _), (vm_cpus, _)) = (self.vm_cpus(), of_vm.vm_cpus());
        let memory = self.memory.unwrap_or(DEFAULT_MEMORY);
        let millis = self.cpu_millis.unwrap_or(1000);
        (wanted_mib <= vm_mib && wanted_cpus <= vm_cpus).then(|| Shares {
            memory_max: (memory < vm_mib.saturating_mul(MIB)).then_some(memory),
            cpu_millis: (millis < u64::from(vm_cpus).saturating_mul(1000)).then_some(millis),
            pids_max: self.pids_max,
        })
    }

    /// The RAM in MiB of a VM that boots a whole operating system.
    pub fn machine_memory(&self) -> u64 {
        self.memory.unwrap_or(DEFAULT_MACHINE_MEMORY).div_ceil(MIB)
    }

    /// The VM's number of virtual CPUs and, where that is more than was asked for, the guest's own
    /// limit in thousandths of a CPU.
    pub fn vm_cpus(&self) -> (u32, Option<u64>) {
        let millis = self.cpu_millis.unwrap_or(1000).max(1);
        let vcpus = u32::try_from(millis.div_ceil(1000)).unwrap_or(u32::MAX);
        (vcpus, (!millis.is_multiple_of(1000)).then_some(millis))
    }
}

/// What happens when a container's process ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It is started again, also by a new daemon, unless a user stopped it in this daemon's life.
    Always,
    /// It is started again, also by a new daemon, unless a user stopped it.
    UnlessStopped,
    /// It is started again where its exit code is not 0.
    OnFailure {
        /// At most so many times in a row; 0 is without end.
        limit: u32,
    },
}

/// One line of /etc/hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: std::net::IpAddr,
}

/// What /etc/resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<std::net::IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_has_a_size_of_a_few_and_the_guest_keeps_to_the_limit() {
        let memory = |bytes| Resources { memory: bytes, ..Resources::default() }.vm_memory();
        assert_eq!(memory(None), (512, None));
        assert_eq!(memory(Some(64 * MIB)), (128, Some(64 * MIB)));
        assert_eq!(memory(Some(128 * MIB)), (128, None));
        assert_eq!(memory(Some(300 * MIB)), (512, Some(300 * MIB)));
        assert_eq!(memory(Some(1024 * MIB + 1)), (2048, Some(1024 * MIB + 1)));
        assert_eq!(memory(Some(5000 * MIB + 1)), (5001, Some(5000 * MIB + 1)));
    }

    #[test]
    fn a_vm_that_runs_can_keep_to_less_and_to_no_more_than_it_was_made_for() {
        let of = |mib: u64, cpu_millis| Resources {
            memory: Some(mib * MIB),
            cpu_millis: Some(cpu_millis),
            pids_max: Some(9),
        };
        let made = of(400, 1500);
        let shares = |memory_max, cpu_millis| Shares { memory_max, cpu_millis, pids_max: Some(9) };
        let less = shares(Some(300 * MIB), Some(500));
        assert_eq!(of(300, 500).shares_in(&made), Some(less));
        // The VM has 512 MiB and two CPUs: nothing inside has to keep to that.
        assert_eq!(of(512, 2000).shares_in(&made), Some(shares(None, None)));
        assert_eq!(of(513, 500).shares_in(&made), None);
        assert_eq!(of(300, 2500).shares_in(&made), None);
    }

    #[test]
    fn a_fraction_of_a_cpu_is_a_whole_one_with_a_limit() {
        let cpus = |millis| Resources { cpu_millis: millis, ..Resources::default() }.vm_cpus();
        assert_eq!(cpus(None), (1, None));
        assert_eq!(cpus(Some(1500)), (2, Some(1500)));
        assert_eq!(cpus(Some(2000)), (2, None));
        assert_eq!(cpus(Some(10)), (1, Some(10)));
    }
}
