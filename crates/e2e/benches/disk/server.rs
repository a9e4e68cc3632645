//! Disks served by NBD on a unix socket, and fio as their client.

use ireko_e2e::programs::{await_death, ireko, run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A server; stopped, and its disk closed, when dropped.
pub struct Server {
    uri: String,
    pid: u32,
    /// Ours is a child; qemu-nbd goes to the background.
    child: Option<Child>,
}

impl Server {
    /// `ireko vhd serve`, writable or not.
    pub fn ireko(disk: &Path, writable: bool) -> Self {
        let mut command = Command::new(ireko());
        command.args(["vhd", "serve"]).args(writable.then_some("-w"));
        command.arg("--socket").arg(disk.with_extension("ireko")).arg(disk);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("run ireko");
        let mut uri = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut uri).expect("the URI");
        Self { uri: uri.trim_end().to_owned(), pid: child.id(), child: Some(child) }
    }

    /// `qemu-nbd` as it is by default: through the page cache, requests by a pool of threads, no flush but those that are asked for.
    pub fn qemu(disk: &Path, format: &str, writable: bool) -> Self {
        let [socket, pid_file] = ["sock", "pid"].map(|end| disk.with_extension(end));
        let mut command = Command::new("qemu-nbd");
        command.args([
            "--fork",
            "--persistent",
            "--cache=writeback",
            "--aio=threads",
            "-f",
            format,
        ]);
        command.args((!writable).then_some("--read-only"));
        // In the background, it would keep a pipe for its messages open.
        command.arg("--pid-file").arg(&pid_file).arg("--socket").arg(&socket).arg(disk);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        assert!(status.expect("run qemu-nbd").success(), "{command:?}");
        let pid = fs::read_to_string(&pid_file).expect("its process id");
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        Self { uri, pid: pid.trim().parse().expect("a number"), child: None }
    }

    /// The most memory that the server has had until now, in KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Runs one job of fio; bytes a second, its flush included.
    pub fn fio(&self, job: &Job) -> f64 {
        let mut fio = Command::new("fio");
        fio.args(["--name=job", "--ioengine=nbd", "--output-format=json", "--end_fsync=1"]);
        fio.arg(format!("--uri={}", self.uri)).arg(format!("--rw={}", job.pattern));
        fio.arg(format!("--bs={}", job.block)).arg(format!("--iodepth={}", job.depth));
        fio.arg(format!("--size={}", job.size)).arg(format!("--randseed={}", job.seed));
        match job.amount {
            Amount::Bytes(bytes) => fio.arg(format!("--io_size={bytes}")),
            Amount::Seconds(seconds) => {
                fio.args(["--time_based", &format!("--runtime={seconds}"), "--norandommap"])
            }
        };
        let said = run(&mut fio).ok();
        // Before the JSON it says that it is connected.
        let json = said.find('{').map_or("", |start| &said[start..]);
        let report: Value = serde_json::from_str(json).expect("fio's JSON");
        let job = &report["jobs"][0];
        let rate = |way: &str| job[way]["bw_bytes"].as_f64().expect("a rate");
        rate("read") + rate("write")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.pid as i32).expect("a process id");
        let _ = kill_process(pid, Signal::TERM);
        match &mut self.child {
            Some(child) => drop(child.wait()),
            None => await_death(self.pid),
        }
    }
}

/// What fio is to do.
pub struct Job {
    /// `read`, `write`, `randread` or `randwrite`.
    pub pattern: &'static str,
    /// Bytes in a request.
    pub block: u64,
    /// Requests under way at once.
    pub depth: u32,
    /// Bytes from the disk's start in which it works.
    pub size: u64,
    pub amount: Amount,
    /// Chooses the offsets.
    pub seed: usize,
}

/// When fio's job is done.
pub enum Amount {
    /// After so many bytes, none of them twice.
    Bytes(u64),
    Seconds(u32),
}
