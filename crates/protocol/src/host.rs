//! What this machine offers to VMs, as `ireko probe` finds it.
//!
//! The probe runs as a process of its own, because only it knows QEMU; it prints one
//! [`HostFacts`] as JSON. The daemon passes it on in `GET /ireko/info`, with the fields of
//! [`HostInfo`] around it; `ireko doctor` and `ireko info` show it.

use crate::plan::AccelChoice;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What `ireko probe` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The virtual machine monitor.
    pub qemu: QemuFacts,
    /// How guests' CPUs will be run.
    pub accel: AccelFacts,
    /// The guest kernel in the cache.
    pub kernel: KernelFacts,
    /// The parts of the base image in the cache.
    pub base: BaseFacts,
}

/// The body of `GET /ireko/info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// The daemon's version.
    pub version: String,
    /// The store.
    pub root: PathBuf,
    /// The machine-wide cache.
    pub cache: PathBuf,
    /// The folder of sockets.
    pub runtime: PathBuf,
    /// What keeps VMs to their share of the host.
    #[serde(default)]
    pub limits: LimitFacts,
    /// What the machine offers.
    #[serde(flatten)]
    pub host: HostFacts,
}

/// What keeps VMs to their share of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitFacts {
    /// The control group in which each VM gets its own; `None` where none is granted.
    pub group: Option<PathBuf>,
    /// The controllers that hold there, of `cpu`, `memory` and `pids`.
    pub controllers: Vec<String>,
    /// Why there is no group, or why not all controllers hold.
    pub reason: Option<String>,
}

/// The virtual machine monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuFacts {
    /// A usable one was found.
    pub found: bool,
    /// Its version, `7.2.0`.
    pub version: Option<String>,
    /// The executable.
    pub path: Option<PathBuf>,
    /// Why none is usable.
    pub error: Option<String>,
}

/// How guests' CPUs will be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccelFacts {
    /// What was asked for.
    pub choice: AccelChoice,
    /// What that comes to: `kvm` or `tcg`; `None` where the choice cannot be had.
    pub verdict: Option<String>,
    /// Why.
    pub reason: String,
}

/// The guest kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFacts {
    /// The current one's version.
    pub version: Option<String>,
    /// Why there is none.
    pub error: Option<String>,
}

/// The parts of the base image in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFacts {
    /// They are there.
    pub present: bool,
    /// Which is missing.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_answer_is_one_flat_object() {
        let info = HostInfo {
            version: "0.1.0".into(),
            root: "/r".into(),
            cache: "/c".into(),
            runtime: "/run/r".into(),
            limits: LimitFacts { reason: Some("no slice".into()), ..LimitFacts::default() },
            host: HostFacts {
                qemu: QemuFacts {
                    found: true,
                    version: Some("7.2.0".into()),
                    path: Some("/usr/bin/qemu-system-x86_64".into()),
                    error: None,
                },
                accel: AccelFacts {
                    choice: AccelChoice::Auto,
                    verdict: Some("tcg".into()),
                    reason: "no /dev/kvm".into(),
                },
                kernel: KernelFacts { version: Some("6.1.0-1".into()), error: None },
                base: BaseFacts { present: true, error: None },
            },
        };
        let json = serde_json::to_value(&info).unwrap();
        assert_eq!(json["accel"]["choice"], "auto");
        assert_eq!(json["qemu"]["found"], true);
        assert_eq!(json["limits"]["reason"], "no slice");
        assert_eq!(serde_json::from_value::<HostInfo>(json).unwrap(), info);
    }
}
