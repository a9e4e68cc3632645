//! One root with its daemon, thrown away at the end.

use crate::programs::{self, Ran, run};
use ireko_testkit::slots::{self, Slots, Vms};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tempfile::TempDir;

/// A root of its own; dropping it removes its containers, daemon and files, and prints its seconds.
pub struct World {
    name: String,
    folder: Option<TempDir>,
    root: PathBuf,
    began: Instant,
    _slots: Slots,
}

impl World {
    /// A new root, once that many VMs may run.
    pub fn new(name: &str, vms: Vms) -> Self {
        let slots = slots::take(vms);
        let folder = tempfile::Builder::new().prefix("ireko-e2e-").tempdir().expect("a folder");
        let root = folder.path().to_owned();
        Self::made(name, Some(folder), root, slots)
    }

    /// The same in a folder the test made and removes.
    pub fn at(name: &str, root: &Path, vms: Vms) -> Self {
        Self::made(name, None, root.to_owned(), slots::take(vms))
    }

    fn made(name: &str, folder: Option<TempDir>, root: PathBuf, slots: Slots) -> Self {
        Self { name: name.to_owned(), folder, root, began: Instant::now(), _slots: slots }
    }

    /// The root's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> String {
        format!("unix://{}/ireko.sock", self.root.display())
    }

    /// `ireko ARGS` on this root. A daemon that it starts keeps no VMs that stand by: tests share two.
    pub fn ireko(&self, args: &[&str]) -> Command {
        let mut command = Command::new(programs::ireko());
        command.arg("--root").arg(&self.root).args(args).env("IREKO_POOL", "0");
        command
    }

    /// Runs `ireko ARGS` to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Ran {
        run(&mut self.ireko(args))
    }

    /// Runs `ireko ARGS`, which must succeed; what it printed, without the last line end.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        self.run(args).ok().trim_end().to_owned()
    }

    /// One field of `ireko inspect OBJECT`, found by a JSON pointer.
    #[track_caller]
    pub fn inspect(&self, object: &str, pointer: &str) -> serde_json::Value {
        let text = self.ok(&["inspect", object]);
        let objects: serde_json::Value = serde_json::from_str(&text).expect("inspect prints JSON");
        objects[0].pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {text}")).clone()
    }

    /// The pids of this root's processes of one personality: `daemon`, `shim`.
    pub fn processes(&self, personality: &str) -> Vec<u32> {
        let root = self.root.as_os_str().as_encoded_bytes();
        let pids = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            let ours = words.contains(&root) && words.contains(&personality.as_bytes());
            ours.then_some(pid)
        });
        pids.collect()
    }

    /// The only process of one personality.
    #[track_caller]
    pub fn process(&self, personality: &str) -> u32 {
        match self.processes(personality)[..] {
            [pid] => pid,
            ref pids => panic!("{} {personality} processes: {pids:?}", pids.len()),
        }
    }

    /// The folder of a container.
    #[track_caller]
    pub fn container_dir(&self, container: &str) -> PathBuf {
        let id = self.inspect(container, "/Id");
        self.root.join("containers").join(id.as_str().expect("an id"))
    }

    /// The one disk file of `images/` with this slug.
    #[track_caller]
    pub fn image_file(&self, slug: &str) -> PathBuf {
        let start = format!("{slug}_");
        let mut files =
            fs::read_dir(self.root.join("images")).expect("images/").flatten().filter(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                name.starts_with(&start) && name.ends_with(".vhdx")
            });
        match (files.next(), files.next()) {
            (Some(file), None) => file.path(),
            other => panic!("files of {slug}: {other:?}"),
        }
    }

    fn clean_up(&self) {
        if !self.root.join("ireko.sock").exists() {
            return;
        }
        // Asked now: a process on its way out has no command line any more, but still its files.
        let pids = ["shim", "daemon"].map(|personality| self.processes(personality)).concat();
        let listed = run(&mut self.ireko(&["ps", "-aq"]));
        for id in listed.stdout.split_whitespace() {
            run(&mut self.ireko(&["rm", "-f", id]));
        }
        run(&mut self.ireko(&["daemon", "stop"]));
        for pid in ["shim", "daemon"].map(|personality| self.processes(personality)).concat() {
            programs::kill_if_there(pid);
        }
        pids.into_iter().for_each(programs::await_death);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let seconds = self.began.elapsed().as_secs_f32();
        if std::thread::panicking() {
            show_logs(&self.root);
        }
        self.clean_up();
        drop(self.folder.take());
        // Written past the test runner's capture: every end-to-end test shows its time.
        let _ = writeln!(std::io::stderr(), "      {}: {seconds:.1} s", self.name);
    }
}

/// After a failure: the last words of the daemon and of each shim.
fn show_logs(root: &Path) {
    let mut logs = vec![];
    for folder in [root.join("log"), root.join("containers")] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            logs.push(if path.is_dir() { path.join("shim.log") } else { path });
        }
    }
    for log in logs {
        if let Ok(text) = fs::read_to_string(&log) {
            let lines: Vec<_> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- {}\n{}", log.display(), last.join("\n"));
        }
    }
}
