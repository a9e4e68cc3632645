//! One VM's group: its limits, and its end.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The period of `cpu.max`, in microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;
/// The shortest quota that the kernel takes, in microseconds.
const LEAST_QUOTA: u64 = 1000;
/// The kernel's word for no limit.
const NO_LIMIT: &str = "max";
/// How often it is seen whether a group is empty that is to go.
const LOOK: Duration = Duration::from_millis(5);

/// What the processes of a group may take at most, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, page cache that can be given back included; and as many of swap.
    pub memory: u64,
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
    /// Processes and threads.
    pub tasks: u64,
}

/// The limits of a group as the kernel says them; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InForce {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a CPU.
    pub cpu_millis: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// A control group, there or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    dir: PathBuf,
}

impl Group {
    /// The group whose folder is this one.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the group; one that is there is taken as it is.
    pub fn make(&self) -> Result<()> {
        match fs::create_dir(&self.dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(Error::io(format!("make the control group {}", self.dir.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Sets its limits, as far as the controllers reach that hold in it.
    pub fn limit(&self, limits: &Limits) -> Result<()> {
        let Limits { memory, cpu_millis, tasks } = *limits;
        self.set("memory.max", &memory.to_string())?;
        self.set("memory.swap.max", &memory.to_string())?;
        self.set("pids.max", &tasks.to_string())?;
        self.limit_cpu(cpu_millis)
    }

    /// Sets the limit of its CPU time alone, in thousandths of a CPU.
    pub fn limit_cpu(&self, millis: u64) -> Result<()> {
        self.set("cpu.max", &cpu_max(millis))
    }

    /// The limits that hold; `None` where there is no such group.
    pub fn in_force(&self) -> Option<InForce> {
        self.dir.is_dir().then(|| InForce {
            memory: self.read("memory.max").and_then(|text| text.trim().parse().ok()),
            cpu_millis: self.read("cpu.max").and_then(|text| millis(&text)),
            tasks: self.read("pids.max").and_then(|text| text.trim().parse().ok()),
        })
    }

    /// How many of its processes the kernel has killed since they took more memory than it may have.
    pub fn oom_kills(&self) -> u64 {
        let events = self.read("memory.events").unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Kills what is in it and removes it; one that is not there is what was wanted.
    ///
    /// Errors where it is not empty after that time.
    pub fn end(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            match fs::remove_dir(&self.dir) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error)
                    if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline =>
                {
                    // Kernels before 5.14 cannot; then it has to end by itself.
                    self.set("cgroup.kill", "1")?;
                    thread::sleep(LOOK);
                }
                Err(error) => {
                    let what = format!("remove the control group {}", self.dir.display());
                    return Err(Error::io(what, error));
                }
            }
        }
    }

    /// Writes to one of its files; one that it does not have is passed over.
    fn set(&self, knob: &str, value: &str) -> Result<()> {
        let path = self.dir.join(knob);
        // Not made where it is missing: that is what tells.
        let written = File::options().write(true).open(&path).and_then(|mut file| {
            // One call: each write is a value of its own to the kernel.
            file.write(value.as_bytes()).map(drop)
        });
        match written {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::io(format!("set {} to {value}", path.display()), error))
            }
            _ => Ok(()),
        }
    }

    fn read(&self, knob: &str) -> Option<String> {
        fs::read_to_string(self.dir.join(knob)).ok()
    }
}

fn cpu_max(millis: u64) -> String {
    let quota = millis.saturating_mul(CPU_PERIOD / 1000).max(LEAST_QUOTA);
    format!("{quota} {CPU_PERIOD}")
}

/// What [`cpu_max`] wrote, or the kernel's word for none.
fn millis(text: &str) -> Option<u64> {
    let (quota, period) = text.trim().split_once(' ')?;
    if quota == NO_LIMIT {
        return None;
    }
    quota.parse::<u64>().ok()?.checked_mul(1000)?.checked_div(period.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_cpu_is_a_quota_and_back() {
        assert_eq!(cpu_max(1500), "150000 100000");
        assert_eq!(cpu_max(1), "1000 100000");
        assert_eq!(millis("150000 100000\n"), Some(1500));
        assert_eq!(millis("max 100000\n"), None);
        assert_eq!(millis("1 0"), None);
        assert_eq!(millis(""), None);
    }

    #[test]
    fn a_group_that_is_not_there_has_no_limits_and_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let group = Group::at(folder.path().join("none"));
        assert_eq!((group.in_force(), group.oom_kills()), (None, 0));
        group.end(Duration::ZERO).unwrap();
    }

    #[test]
    fn limits_without_their_controllers_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let group = Group::at(folder.path().join("plain"));
        group.make().unwrap();
        group.make().unwrap();
        group.limit(&Limits { memory: 1 << 20, cpu_millis: 1000, tasks: 9 }).unwrap();
        assert_eq!(group.in_force(), Some(InForce::default()));
        group.end(Duration::ZERO).unwrap();
        assert!(!group.dir().exists());
    }
}
