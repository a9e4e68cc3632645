//! What the container's processes use: the counters of their cgroup and of the network devices.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ireko_protocol::agent::{DiskUsage, InterfaceUsage, Traffic, Usage};
use rustix::time::{ClockId, clock_gettime};

const GROUP: &str = "/sys/fs/cgroup/workload";
const INTERFACES: &str = "/sys/class/net";
/// More devices than a machine of ours has.
const MOST: usize = 64;

/// Reads the counters. What the kernel lacks is 0.
pub fn usage() -> Usage {
    let group = |file: &str| fs::read_to_string(Path::new(GROUP).join(file)).unwrap_or_default();
    let (cpu, memory) = (group("cpu.stat"), group("memory.stat"));
    let nanos = |name| named(&cpu, name).saturating_mul(1000);
    Usage {
        cpu_nanos: nanos("usage_usec"),
        user_nanos: nanos("user_usec"),
        kernel_nanos: nanos("system_usec"),
        machine_nanos: machine_nanos(
            &fs::read_to_string("/proc/stat").unwrap_or_default(),
            Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default(),
        ),
        memory_bytes: number(&group("memory.current")),
        inactive_file_bytes: named(&memory, "inactive_file"),
        tasks: number(&group("pids.current")),
        disks: group("io.stat").lines().filter_map(disk).take(MOST).collect(),
        interfaces: interfaces(Path::new(INTERFACES)),
    }
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_default()
}

/// The number in a line `name number`.
fn named(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(number).unwrap_or_default()
}

/// All CPUs' time since the start. The kernel's own sum counts ticks, of which an emulated machine loses some:
/// a container would seem to use more than there is.
fn machine_nanos(stat: &str, up: Duration) -> u64 {
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let cpus = stat.lines().filter(is_cpu).count() as u64;
    u64::try_from(up.as_nanos()).unwrap_or(u64::MAX).saturating_mul(cpus)
}

/// `254:0 rbytes=4096 wbytes=0 …`
fn disk(line: &str) -> Option<DiskUsage> {
    let (device, rest) = line.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let of = |name: &str| {
        let word = rest.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        word.map(number).unwrap_or_default()
    };
    Some(DiskUsage {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        read_bytes: of("rbytes"),
        written_bytes: of("wbytes"),
    })
}

fn interfaces(folder: &Path) -> Vec<InterfaceUsage> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name != "lo").take(MOST).collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let counters = folder.join(&name).join("statistics");
            let count =
                |file: String| number(&fs::read_to_string(counters.join(file)).unwrap_or_default());
            let traffic = |way: &str| Traffic {
                bytes: count(format!("{way}_bytes")),
                packets: count(format!("{way}_packets")),
                errors: count(format!("{way}_errors")),
                dropped: count(format!("{way}_dropped")),
            };
            InterfaceUsage { received: traffic("rx"), sent: traffic("tx"), name }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_as_the_kernel_writes_them() {
        assert_eq!(named("usage_usec 12\nuser_usec 7\n", "user_usec"), 7);
        assert_eq!(named("user_usec_x 7\n", "user_usec"), 0);
        let stat = "cpu  1 2 3\ncpu0 1\ncpu1 1\nintr 7\n";
        assert_eq!(machine_nanos(stat, Duration::from_nanos(36)), 72);
        let read = disk("254:16 rbytes=4096 wbytes=512 rios=1 wios=1 dbytes=0 dios=0").unwrap();
        assert_eq!(read, DiskUsage { major: 254, minor: 16, read_bytes: 4096, written_bytes: 512 });
        assert!(disk("nonsense").is_none());
    }
}
