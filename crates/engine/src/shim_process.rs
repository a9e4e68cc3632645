//! Shims and switches: processes of ours, started so that they outlive the daemon, and found again
//! by a new one.
//!
//! A process id alone proves nothing: it is trusted together with its start time and the boot's id,
//! as `shim.json` has them, and held by a pidfd from then on.
#![allow(unsafe_code)]

use crate::durable;
use crate::error::{Attempt, Error, Result};
use crate::ready::readable;
use crate::shim_client::ShimSocket;
use ireko_protocol::plan::ShimRecord;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use tokio::time::{Instant, sleep_until};

/// Time for a new shim to listen.
pub(crate) const LISTEN: Duration = Duration::from_secs(30);
/// How much of `shim.log` is shown where a shim ended too early.
const LOG_TAIL: usize = 2000;

/// One shim, or one switch.
#[derive(Debug)]
pub(crate) enum OwnProcess {
    /// Started by this daemon, and reaped by it.
    Own(Child),
    /// Started by a daemon before this one.
    Adopted(AsyncFd<OwnedFd>),
}

impl OwnProcess {
    /// Starts `executable PERSONALITY --root ROOT --plan FILE` in a session of its own.
    ///
    /// Its stderr is appended to `log`, its other streams are /dev/null.
    pub(crate) fn spawn(
        executable: &Path,
        personality: &str,
        root: &Path,
        plan: &Path,
        log: &Path,
    ) -> Result<Self> {
        let what = || format!("start {} {personality}", executable.display());
        let log = File::options().create(true).append(true).open(log).attempt(what)?;
        let mut command = Command::new(executable);
        command.arg(personality).arg("--root").arg(root).arg("--plan").arg(plan);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir("/");
        // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe and
        // touches no memory of ours.
        unsafe {
            command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into));
        }
        let child = tokio::process::Command::from(command).spawn().attempt(what)?;
        Ok(Self::Own(child))
    }

    /// The shim that `shim.json` in this folder names; `None` where it has ended.
    pub(crate) fn adopt(state_dir: &Path) -> Result<Option<Self>> {
        let record = durable::read_json_unsynced::<ShimRecord>(&state_dir.join("shim.json"))?;
        let Some(record) = record else { return Ok(None) };
        if record.boot_id != boot_id()? || start_time(record.pid) != Some(record.start_time) {
            return Ok(None);
        }
        let Some(pid) = i32::try_from(record.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::NONBLOCK) else { return Ok(None) };
        // The handle may be of a process that took the id since: looked at again, it cannot.
        if start_time(record.pid) != Some(record.start_time) {
            return Ok(None);
        }
        readable(handle).map(|fd| Some(Self::Adopted(fd))).attempt(|| "watch a shim".into())
    }

    /// The process at the other end of a connection, which can be no other than the one that
    /// listens there; `None` where it has ended.
    pub(crate) fn of_peer(stream: &tokio::net::UnixStream) -> Result<Option<Self>> {
        let peer = stream.peer_cred().attempt(|| "see who is at a socket".into())?;
        let Some(pid) = peer.pid().and_then(Pid::from_raw) else { return Ok(None) };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::NONBLOCK) else { return Ok(None) };
        readable(handle).map(|fd| Some(Self::Adopted(fd))).attempt(|| "watch a process".into())
    }

    /// Returns when the process has ended.
    pub(crate) async fn ended(&mut self) {
        let result = match self {
            Self::Own(child) => child.wait().await.map(drop),
            Self::Adopted(handle) => handle.readable().await.map(drop),
        };
        if let Err(error) = result {
            tracing::error!(%error, "cannot wait for a process");
        }
    }

    /// Kills it; its VM dies with it.
    pub(crate) fn kill(&mut self) {
        let result = match self {
            Self::Own(child) => child.start_kill(),
            Self::Adopted(handle) => {
                pidfd_send_signal(handle.get_ref(), Signal::KILL).map_err(Into::into)
            }
        };
        if let Err(error) = result {
            tracing::warn!(%error, "cannot kill a process");
        }
    }

    /// Waits for the end, and kills it where that does not come in time.
    pub(crate) async fn end_within(&mut self, patience: Duration) {
        if tokio::time::timeout(patience, self.ended()).await.is_err() {
            tracing::warn!(?patience, "a process did not end; it is killed");
            self.kill();
            self.ended().await;
        }
    }

    /// Whether it is known to have ended; one that was adopted is not looked after.
    pub(crate) fn has_ended(&mut self) -> bool {
        match self {
            Self::Own(child) => matches!(child.try_wait(), Ok(Some(_))),
            Self::Adopted(_) => false,
        }
    }

    /// Waits until the new shim listens.
    ///
    /// Errors where it ends before, with the last lines of its log, or does not listen in time.
    pub(crate) async fn reach(
        &mut self,
        socket: &ShimSocket,
        log: &Path,
        patience: Duration,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(2);
        loop {
            let Err(refused) = socket.connect().await else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(Error::caused("the VM's shim does not listen", refused));
            }
            tokio::select! {
                () = self.ended() => return Err(early_end(log)),
                () = sleep_until(Instant::now() + pause) => {}
            }
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// The error of a shim that ended before its work began.
pub(crate) fn early_end(log: &Path) -> Error {
    let text = fs::read(log).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(LOG_TAIL)..];
    let tail = String::from_utf8_lossy(tail);
    match tail.trim() {
        "" => Error::internal("the VM's shim ended before the VM was ready and said nothing"),
        said => Error::internal(format!("the VM's shim ended before the VM was ready: {said}")),
    }
}

/// The id of this boot.
fn boot_id() -> Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .attempt(|| "read the boot's id".into())
}

/// Field 22 of /proc/PID/stat; `None` where there is no such process, or only its remains.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name in parentheses, may hold spaces and parentheses itself.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: u32, start_time: u64) -> ShimRecord {
        ShimRecord {
            version: ireko_protocol::plan::VERSION,
            pid,
            start_time,
            boot_id: boot_id().unwrap(),
            vm: "0123456789ab".into(),
            socket: "/nowhere".into(),
            vm_pid: 0,
        }
    }

    #[tokio::test]
    async fn a_shim_is_found_again_by_pid_and_start_time_only() {
        let folder = tempfile::tempdir().unwrap();
        assert!(OwnProcess::adopt(folder.path()).unwrap().is_none());
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let started = start_time(child.id()).unwrap();
        let path = folder.path().join("shim.json");

        durable::write_json(&path, &record(child.id(), started + 1)).unwrap();
        assert!(OwnProcess::adopt(folder.path()).unwrap().is_none());

        durable::write_json(&path, &record(child.id(), started)).unwrap();
        let mut adopted = OwnProcess::adopt(folder.path()).unwrap().unwrap();
        adopted.kill();
        adopted.ended().await;
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn a_shim_that_ends_at_once_is_reported_with_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("shim.log");
        let plan = folder.path().join("plan.json");
        // `ls` knows no such options and says so on stderr.
        let mut process =
            OwnProcess::spawn(Path::new("/bin/ls"), "shim", folder.path(), &plan, &log).unwrap();
        let socket = ShimSocket::in_folder(folder.path());
        let error = process.reach(&socket, &log, LISTEN).await.unwrap_err();
        assert!(error.to_string().contains("--root"), "{error}");
    }
}
