//! Listing the container's processes: those of /proc that have a PID in the container's namespace.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ireko_protocol::agent::ProcessInfo;

use crate::failure::{During, Result};

/// Milliseconds in one of the kernel's clock ticks: USER_HZ is 100 on every architecture we run.
const TICK_MILLIS: u64 = 10;
/// The longest command line listed, in bytes: a whole list must fit one message.
const COMMAND_LIMIT: usize = 4096;

/// Lists the processes by their PID in the container.
pub fn list() -> Result<Vec<ProcessInfo>> {
    list_in(Path::new("/proc"))
}

fn list_in(proc: &Path) -> Result<Vec<ProcessInfo>> {
    let found: BTreeMap<u32, Seen> = fs::read_dir(proc)
        .during(|| "read /proc")?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // A process that ended since is simply not there any more.
            Some((pid, Seen::read(&entry.path())?))
        })
        .collect();
    let mut processes: Vec<ProcessInfo> = found
        .values()
        .map(|seen| ProcessInfo {
            // A parent outside the container is shown as 0, as the container itself sees it.
            parent: found.get(&seen.outer_parent).map_or(0, |parent| parent.info.pid),
            ..seen.info.clone()
        })
        .collect();
    processes.sort_by_key(|process| process.pid);
    Ok(processes)
}

struct Seen {
    outer_parent: u32,
    info: ProcessInfo,
}

impl Seen {
    fn read(folder: &Path) -> Option<Self> {
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            Some(line[name.len()..].split_whitespace())
        };
        // The agent's own PID comes first; only the container's processes have a second one.
        let pid = field("NSpid:")?.nth(1)?.parse().ok()?;
        let outer_parent = field("PPid:")?.next()?.parse().ok()?;
        let uid = field("Uid:")?.nth(1)?.parse().ok()?;
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let cpu_millis = cpu_millis(&stat)?;
        let command = command(&fs::read(folder.join("cmdline")).ok()?).unwrap_or_else(|| {
            format!("[{}]", field("Name:").map_or("", |mut n| n.next().unwrap_or("")))
        });
        Some(Self { outer_parent, info: ProcessInfo { pid, parent: 0, uid, cpu_millis, command } })
    }
}

/// User and system time, the 14th and 15th field of stat; the second holds any bytes in brackets.
fn cpu_millis(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user.saturating_add(system).saturating_mul(TICK_MILLIS))
}

fn command(cmdline: &[u8]) -> Option<String> {
    let cmdline = &cmdline[..cmdline.len().min(COMMAND_LIMIT)];
    let end = cmdline.iter().rposition(|byte| *byte != 0)? + 1;
    let spaced: Vec<u8> =
        cmdline[..end].iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect();
    Some(String::from_utf8_lossy(&spaced).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_listed_with_the_pids_it_sees() {
        let proc = tempfile::tempdir().unwrap();
        let process = |pid: u32, status: &str, stat: &str, cmdline: &str| {
            let folder = proc.path().join(pid.to_string());
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("status"), status).unwrap();
            fs::write(folder.join("stat"), stat).unwrap();
            fs::write(folder.join("cmdline"), cmdline).unwrap();
        };
        let stat = "9 (a) b) S 1 1 1 0 -1 4 0 0 0 0 12 30 0 0 20 0 1 0 5";
        process(1, "Name:\tinit\nPPid:\t0\nUid:\t0\t0\t0\t0\nNSpid:\t1\n", stat, "/init\0");
        process(
            50,
            "Name:\tsh\nPPid:\t1\nUid:\t0\t0\t0\t0\nNSpid:\t50\t1\n",
            stat,
            "sh\0-c\0x y\0",
        );
        process(60, "Name:\tz\nPPid:\t50\nUid:\t7\t33\t7\t7\nNSpid:\t60\t8\n", stat, "");
        let listed = list_in(proc.path()).unwrap();
        let info = |pid, parent, uid, command: &str| ProcessInfo {
            pid,
            parent,
            uid,
            cpu_millis: 420,
            command: command.into(),
        };
        assert_eq!(listed, [info(1, 0, 0, "sh -c x y"), info(8, 1, 33, "[z]")]);
    }
}
