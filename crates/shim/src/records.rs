//! The files a shim leaves: `shim.json` while it lives, `exit.json` when it ended.

use ireko_protocol::plan::{self, ExitRecord, ShimRecord, VmPlan};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A plan has a chain of at most 250 paths and an environment; this is far beyond any real one.
const MAX_PLAN: u64 = 8 * 1024 * 1024;

/// Reads the plan the engine wrote.
pub fn read_plan(path: &Path) -> io::Result<VmPlan> {
    let mut text = String::new();
    File::open(path)?.take(MAX_PLAN).read_to_string(&mut text)?;
    let plan: VmPlan = serde_json::from_str(&text).map_err(io::Error::other)?;
    if plan.version != plan::VERSION {
        let message = format!("plan version {} is not {}", plan.version, plan::VERSION);
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    Ok(plan)
}

/// Says which process owns the VM.
pub fn write_shim_record(plan: &VmPlan, socket: &Path, vm_pid: u32) -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let record = ShimRecord {
        version: plan::VERSION,
        pid: std::process::id(),
        start_time: start_time(&stat)
            .ok_or_else(|| io::Error::other("/proc/self/stat has no start time"))?,
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
        vm: plan.vm.clone(),
        socket: socket.to_owned(),
        vm_pid,
    };
    // Not synced: no power cut leaves a shim that it could tell of.
    let path = plan.state_dir.join("shim.json");
    let (_, aside) = write_aside(&path, &record)?;
    fs::rename(aside, path)
}

/// Says how it ended, durably unless all of the container goes with it; the last thing a shim does to the
/// container's folder.
pub fn write_exit_record(plan: &VmPlan, record: &ExitRecord) -> io::Result<()> {
    let path = plan.state_dir.join("exit.json");
    let (file, aside) = write_aside(&path, record)?;
    if plan.disposable {
        return fs::rename(aside, path);
    }
    file.sync_all()?;
    fs::rename(aside, path)?;
    File::open(&plan.state_dir)?.sync_all()
}

/// Nanoseconds since 1970 UTC.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Field 22 of /proc/PID/stat. The second field, the name, may itself hold spaces and brackets.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Writes what `path` is to be beside it.
fn write_aside<T: serde::Serialize>(path: &Path, value: &T) -> io::Result<(File, PathBuf)> {
    let aside = path.with_extension("json.new");
    let mut file = File::create(&aside)?;
    file.write_all(&serde_json::to_vec_pretty(value).map_err(io::Error::other)?)?;
    Ok((file, aside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_name_with_brackets() {
        let stat = "17 (a b) c) S 1 17 17 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 987654 0 0";
        assert_eq!(start_time(stat), Some(987_654));
        assert_eq!(start_time("17 (short) S 1"), None);
    }
}
