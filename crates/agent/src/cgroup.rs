//! The workload's cgroup: its limits, its freezer, its end.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ireko_protocol::bounds::Shares;
use rustix::fs::{Mode, OFlags};

use crate::failure::{During, Result};

const TOP: &str = "/sys/fs/cgroup";
/// The period of `cpu.max`, in microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// The kernel's word in each of them.
const NO_LIMIT: &str = "max";

/// The control group every process of the container is born in.
#[derive(Debug)]
pub struct Workload {
    folder: PathBuf,
}

impl Workload {
    /// Makes the group and sets its limits.
    pub fn create(shares: &Shares) -> Result<Self> {
        for controller in ["cpu", "memory", "pids", "io"] {
            // A kernel may lack one; a limit that needs it fails by name below.
            let _ =
                fs::write(Path::new(TOP).join("cgroup.subtree_control"), format!("+{controller}"));
        }
        let workload = Self { folder: Path::new(TOP).join("workload") };
        match fs::create_dir(&workload.folder) {
            Err(cause) if cause.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(cause).during(|| "make the workload's cgroup");
            }
            _ => {}
        }
        // What is not limited is not touched: a kernel may lack the controller.
        for (knob, value) in knobs(shares).into_iter().filter(|(_, value)| value != NO_LIMIT) {
            workload.set(knob, &value)?;
        }
        Ok(workload)
    }

    /// Changes its limits.
    pub fn limit(&self, shares: &Shares) -> Result<()> {
        knobs(shares).iter().try_for_each(|(knob, value)| self.set(knob, value))
    }

    /// Opens the group for `clone3`.
    pub fn open(&self) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.folder, flags, Mode::empty()).during(|| "open the workload's cgroup")
    }

    /// Stops every process of the group, or lets them run again.
    pub fn set_frozen(&self, frozen: bool) -> Result<()> {
        self.set("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    fn set(&self, knob: &str, value: &str) -> Result<()> {
        fs::write(self.folder.join(knob), value).during(|| format!("set {knob} to {value}"))
    }
}

/// Kills every process of the workload, also one that is frozen.
pub fn kill_workload() {
    // Absent before the first process: nothing to kill then.
    let _ = fs::write(Path::new(TOP).join("workload/cgroup.kill"), "1");
}

/// Whether the workload still has a live process.
pub fn workload_is_populated() -> bool {
    fs::read_to_string(Path::new(TOP).join("workload/cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

fn knobs(shares: &Shares) -> [(&'static str, String); 3] {
    let or_none = |value: Option<String>| value.unwrap_or_else(|| NO_LIMIT.to_owned());
    [
        ("memory.max", or_none(shares.memory_max.map(|bytes| bytes.to_string()))),
        ("cpu.max", or_none(shares.cpu_millis.map(cpu_max))),
        ("pids.max", or_none(shares.pids_max.map(|count| count.to_string()))),
    ]
}

fn cpu_max(millis: u64) -> String {
    // The kernel refuses quotas below one millisecond.
    let quota = millis.saturating_mul(CPU_PERIOD / 1000).max(1000);
    format!("{quota} {CPU_PERIOD}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_cpu_is_half_of_each_period() {
        assert_eq!(cpu_max(500), "50000 100000");
        assert_eq!(cpu_max(2000), "200000 100000");
        assert_eq!(cpu_max(1), "1000 100000");
    }
}
