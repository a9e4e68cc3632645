//! A daemon that is attacked by raw bytes on its socket, and what it takes meanwhile.

use crate::World;
use crate::http::{self, Answer, PATIENCE, say};
use crate::slots::Vms;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The daemon that is attacked.
pub struct Victim {
    /// Its root, with a container `still` that does not run.
    pub world: World,
    socket: PathBuf,
    /// Its process.
    pub pid: u32,
    files: usize,
    mib: u64,
}

impl Victim {
    /// A daemon at rest, and as many files for this process as it may have.
    pub fn new(name: &str, vms: Vms) -> Self {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("files");
        let world = World::new(name, vms);
        world.ok(&["create", "--name", "still", "base", "true"]);
        let (socket, pid) = (world.root().join("ireko.sock"), world.process("daemon"));
        let mut victim = Self { world, socket, pid, files: 0, mib: 0 };
        victim.rest();
        victim
    }

    /// What it takes now is what it may take again.
    pub fn rest(&mut self) {
        (self.files, self.mib) = (self.open_files(), self.memory());
    }

    /// A new connection.
    pub fn connect(&self) -> UnixStream {
        http::connect(&self.socket)
    }

    /// Opens so many connections that say this.
    pub fn crowd(&self, count: usize, words: &[u8]) -> Vec<UnixStream> {
        let open = || {
            let mut stream = self.connect();
            say(&mut stream, words);
            stream
        };
        (0..count).map(|_| open()).collect()
    }

    /// Says this, and hears all of the answer.
    pub fn ask(&self, words: &[u8]) -> Answer {
        http::ask(&self.socket, words)
    }

    /// One request, on a connection of its own.
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        http::request(&self.socket, method, path, body)
    }

    /// It answers.
    #[track_caller]
    pub fn lives(&self) {
        assert_eq!(self.request("GET", "/_ping", b""), (200, "OK".to_owned()));
    }

    /// It does its work, too.
    #[track_caller]
    pub fn works(&self) {
        self.lives();
        assert_eq!(self.request("GET", "/containers/json", b"").0, 200);
        assert_eq!(self.request("GET", "/images/json", b"").0, 200);
        let create = br#"{"Image": "nonesuch"}"#;
        assert_eq!(self.request("POST", "/containers/create", create).0, 404);
    }

    /// How many files it has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("the daemon's files").count()
    }

    /// MiB of memory.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.split_whitespace().next().expect("a number").parse().expect("KiB");
        kib / 1024
    }

    /// During an attack it takes no more than this on top of what it took.
    #[track_caller]
    pub fn is_bounded(&self, what: &str, files: usize, mib: u64) {
        // Who is shown out is on the way.
        await_true(what, || self.open_files() <= self.files + files);
        let (now_files, now_mib) = (self.open_files(), self.memory());
        eprintln!(
            "      {what}: {now_files} files ({} before), {now_mib} MiB ({} before)",
            self.files, self.mib
        );
        assert!(now_mib <= self.mib + mib, "{what}: {now_mib} MiB");
    }

    /// Whoever attacked is gone: so is what they had open.
    #[track_caller]
    pub fn recovers(&self) {
        self.lives();
        // Some to spare: its own keep-alive connections, and logs that are rotated.
        let limit = self.files + 16;
        await_true("the files of clients that are gone are closed", || self.open_files() <= limit);
        self.works();
    }
}

/// Waits until this is so.
#[track_caller]
pub fn await_true(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How many files a folder has; none where it is not there.
pub fn count_entries(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}
