//! What the processes of a container may do with their virtual machine, and how much of it they may use.
//!
//! A container's processes own their machine, and may do all that its kernel lets them unless these
//! bounds say otherwise. They hold for each process of the container, whoever started it.

use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The bounds of a container; the default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bounds {
    /// Capabilities that they cannot have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<Capability>,
    /// No program that they execute has more rights than they have.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_new_privileges: bool,
    /// They see the machine's devices, and may write to /sys.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// What each process may use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<ProcessLimit>,
    /// Groups that they are in beside their user's: names of the container's /etc/group, or numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Parameters of the guest's kernel, and their values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sysctls: Vec<(Sysctl, String)>,
    /// The size of /dev/shm in bytes; `None` is 64 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm_bytes: Option<u64>,
}

impl Bounds {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// How much the processes of a container may use together; `None` is what the machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// Bytes of memory.
    pub memory_max: Option<u64>,
    /// Thousandths of a CPU.
    pub cpu_millis: Option<u64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<u64>,
}

/// A capability of Linux, by its number in linux/capability.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Capability(u8);

/// Their names without `CAP_`, in the order of their numbers.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

impl Capability {
    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..CAPABILITIES.len() as u8).map(Self)
    }

    /// Its number in linux/capability.h, below 64.
    pub fn number(self) -> u8 {
        self.0 & 63
    }
}

impl FromStr for Capability {
    type Err = String;

    /// Reads `NET_ADMIN` or `CAP_NET_ADMIN`, in either case.
    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        match CAPABILITIES.iter().position(|known| *known == name) {
            Some(number) => Ok(Self(number as u8)),
            None => Err(format!("unknown capability: \"CAP_{name}\"")),
        }
    }
}

/// What one process may use of one thing: setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimit {
    /// Of what.
    pub of: Limited,
    /// In the unit of setrlimit(2), up to `hard` as the process likes; `None` is no limit.
    pub soft: Option<u64>,
    /// What `soft` may be raised to.
    pub hard: Option<u64>,
}

/// What a process's use of can be limited, in docker's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the words are those of setrlimit(2)")]
pub enum Limited {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

/// The name of a kernel parameter, `net.ipv4.ip_forward`, that leads to a file below /proc/sys and nowhere
/// else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sysctl(String);

impl Sysctl {
    /// The name of the domain that the host name is in.
    pub fn domain_name() -> Self {
        Self("kernel.domainname".to_owned())
    }

    /// Its file, relative to /proc/sys.
    pub fn file(&self) -> String {
        // A name with slashes may have dots within its words: net/ipv4/conf/eth0.1/forwarding.
        match self.0.contains('/') {
            true => self.0.clone(),
            false => self.0.replace('.', "/"),
        }
    }
}

impl TryFrom<String> for Sysctl {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let is_word = |word: &str| !word.is_empty() && word != ".." && word != ".";
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        let parsed = Self(name);
        match parsed.0.chars().all(is_plain) && parsed.file().split('/').all(is_word) {
            true => Ok(parsed),
            false => Err(format!("invalid name of a kernel parameter: {:?}", parsed.0)),
        }
    }
}

impl From<Sysctl> for String {
    fn from(name: Sysctl) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_kernels_numbers_and_dockers_names() {
        let number = |name: &str| name.parse::<Capability>().unwrap().number();
        assert_eq!(number("CHOWN"), 0);
        assert_eq!(number("cap_sys_admin"), 21);
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), 40);
        assert_eq!("FLY".parse::<Capability>().unwrap_err(), "unknown capability: \"CAP_FLY\"");
        assert_eq!(Capability::all().count(), 41);
    }

    #[test]
    fn a_kernel_parameter_is_a_file_below_proc_sys() {
        let file = |name: &str| Sysctl::try_from(name.to_owned()).map(|sysctl| sysctl.file());
        assert_eq!(file("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(file("net/ipv4/conf/eth0.1/x").unwrap(), "net/ipv4/conf/eth0.1/x");
        for wrong in ["", "..", "a/../b", "/etc/passwd", "a..b", "a b", "a\0"] {
            assert!(file(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn no_bounds_are_nothing_to_write_down() {
        assert_eq!(serde_json::to_string(&Bounds::default()).unwrap(), "{}");
        assert!(serde_json::from_str::<Bounds>("{}").unwrap().is_none());
    }
}
