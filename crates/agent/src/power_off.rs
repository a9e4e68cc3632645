//! The end of the machine, with the disk in order: by ourselves, or by the system that it runs.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::system::{RebootCommand, reboot};

use ireko_protocol::agent::FailureKind;

use crate::configure::DISK;
use crate::failure::{During, Failure, Result};
use crate::{cgroup, kmsg, view};

/// How long killed processes may take to be gone; they may be waiting for the disk.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Kills what runs, writes everything out, closes the disk and powers off.
pub fn power_off() -> ! {
    kill_all();
    rustix::fs::sync();
    close_view();
    if std::path::Path::new(DISK).exists() {
        close_disk();
    }
    for command in [RebootCommand::PowerOff, RebootCommand::Restart, RebootCommand::Halt] {
        if let Err(cause) = reboot(command) {
            kmsg::warn(format_args!("end the machine: {cause}"));
        }
    }
    loop {
        std::thread::park();
    }
}

/// Takes the container's view away, with all that is mounted in it.
pub(crate) fn close_view() {
    let _ = unmount(view::VIEW, UnmountFlags::DETACH);
}

/// Has the system that the agent is a service of shut itself down. Returns when that is begun.
///
/// Every init has a program of this name: systemd's, sysvinit's, busybox's.
pub fn shut_down() -> Result<()> {
    let found = ["/sbin/poweroff", "/usr/sbin/poweroff", "/bin/poweroff", "/usr/bin/poweroff"]
        .into_iter()
        .find(|program| std::path::Path::new(program).exists())
        .ok_or_else(|| Failure::new(FailureKind::NotFound, "the system has no poweroff"))?;
    let status = Command::new(found)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .during(|| format!("run {found}"))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::new(FailureKind::Other, format!("{found}: {status}"))),
    }
}

/// Writes the file system's superblock as clean, also where a mount of it is still held.
pub(crate) fn close_disk() {
    // Mounted in it where it is a whole operating system's.
    let _ = unmount(format!("{DISK}/var"), UnmountFlags::NOFOLLOW);
    match mount_remount(DISK, MountFlags::RDONLY, c"") {
        // The second: it was never mounted.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(cause) => kmsg::warn(format_args!("make the root disk read-only: {cause}")),
    }
    let _ = unmount(DISK, UnmountFlags::empty());
    rustix::fs::sync();
}

fn kill_all() {
    let events = rustix::fs::open(
        "/sys/fs/cgroup/workload/cgroup.events",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let Ok(events) = events else { return };
    cgroup::kill_workload();
    let deadline = Instant::now() + KILL_PATIENCE;
    while cgroup::workload_is_populated() {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else {
            kmsg::warn("a process of the container did not die");
            break;
        };
        wait_for_change(&events, left.min(Duration::from_millis(100)));
        reap();
    }
    reap();
}

/// A change of cgroup.events is reported as priority data.
fn wait_for_change(events: &OwnedFd, patience: Duration) {
    let timeout = Timespec::try_from(patience).ok();
    let _ = poll(&mut [PollFd::new(events, PollFlags::PRI)], timeout.as_ref());
}

/// Takes the dead away: a PID namespace ends only after the last zombie in it is reaped.
fn reap() {
    use rustix::process::{WaitOptions, wait};
    while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
}
