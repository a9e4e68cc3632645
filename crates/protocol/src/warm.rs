//! What `POST /ireko/warm` takes and answers: getting ready for containers to come.

use serde::{Deserialize, Serialize};

/// For which containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Warm {
    /// Their memory in bytes; `None` is that of a container that asks for none.
    pub memory: Option<u64>,
    /// Their CPUs, in thousandths; `None` likewise.
    pub cpu_millis: Option<u64>,
    /// On how many networks each is; `None` is one.
    pub networks: Option<usize>,
}

/// What is there for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warmed {
    /// Memory of the VM that they have, in MiB.
    pub memory_mib: u64,
    /// Its CPUs.
    pub vcpus: u32,
    /// Its network devices.
    pub networks: usize,
    /// How many such VMs stand by.
    pub standing_by: usize,
}
