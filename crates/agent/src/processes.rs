//! Listing the container's processes: those of /proc that have a PID in the container's namespace.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ireko_protocol::agent::ProcessInfo;

use crate::failure::{During, Result};

/// The kernel's clock ticks: USER_HZ is 100 on every architecture we run.
const TICKS_PER_SECOND: u64 = 100;
/// Bytes of a page of memory, on every architecture we run.
const PAGE: u64 = 4096;
/// The longest command line listed, in bytes: a whole list must fit one message.
const COMMAND_LIMIT: usize = 4096;

/// Lists the processes by their PID in the container.
pub fn list() -> Result<Vec<ProcessInfo>> {
    list_in(Path::new("/proc"))
}

fn list_in(proc: &Path) -> Result<Vec<ProcessInfo>> {
    let up_seconds = fs::read_to_string(proc.join("uptime"))
        .ok()
        .and_then(|text| text.split(['.', ' ']).next()?.parse().ok())
        .unwrap_or(0);
    let found: BTreeMap<u32, Seen> = fs::read_dir(proc)
        .during(|| "read /proc")?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // A process that ended since is simply not there any more.
            Some((pid, Seen::read(&entry.path(), up_seconds)?))
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
    fn read(folder: &Path, up_seconds: u64) -> Option<Self> {
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
        // Its second field holds any bytes in brackets, so that fields are counted from the third.
        let stat: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| stat.get(field - 3).and_then(|text| text.parse::<u64>().ok());
        let ticks = number(14)?.saturating_add(number(15)?);
        let began = number(22).unwrap_or(0) / TICKS_PER_SECOND;
        let program = field("Name:").map_or("", |mut name| name.next().unwrap_or("")).to_owned();
        let command = command(&fs::read(folder.join("cmdline")).ok()?);
        let info = ProcessInfo {
            pid,
            parent: 0,
            uid,
            cpu_millis: ticks.saturating_mul(1000 / TICKS_PER_SECOND),
            command: command.unwrap_or_else(|| format!("[{program}]")),
            program,
            age_seconds: up_seconds.saturating_sub(began),
            terminal: number(7).and_then(terminal),
            state: stat.first().map_or_else(String::new, |letter| (*letter).to_owned()),
            virtual_bytes: number(23).unwrap_or(0),
            resident_bytes: number(24).unwrap_or(0).saturating_mul(PAGE),
        };
        Some(Self { outer_parent, info })
    }
}

/// The number of a Unix 98 terminal, out of the kernel's number for the device.
fn terminal(device: u64) -> Option<u32> {
    let device = u32::try_from(device).ok()?;
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    (136..=143).contains(&major).then(|| (major - 136) * (1 << 20) + minor)
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
        let stat = "9 (a) b) S 1 1 1 34817 -1 4 0 0 0 0 12 30 0 0 20 0 1 0 500 8192 1";
        fs::write(proc.path().join("uptime"), "65.25 9.00\n").unwrap();
        process(1, "Name:\tinit\nPPid:\t0\nUid:\t0\t0\t0\t0\nNSpid:\t1\n", stat, "/init\0");
        process(
            50,
            "Name:\tsh\nPPid:\t1\nUid:\t0\t0\t0\t0\nNSpid:\t50\t1\n",
            stat,
            "sh\0-c\0x y\0",
        );
        process(60, "Name:\tz\nPPid:\t50\nUid:\t7\t33\t7\t7\nNSpid:\t60\t8\n", stat, "");
        let listed = list_in(proc.path()).unwrap();
        let info = |pid, parent, uid, command: &str, program: &str| ProcessInfo {
            pid,
            parent,
            uid,
            cpu_millis: 420,
            command: command.into(),
            program: program.into(),
            age_seconds: 60,
            terminal: Some(1),
            state: "S".into(),
            virtual_bytes: 8192,
            resident_bytes: 4096,
        };
        assert_eq!(listed, [info(1, 0, 0, "sh -c x y", "sh"), info(8, 1, 33, "[z]", "z")]);
    }
}
