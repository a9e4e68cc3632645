//! What `crates/cgroup` does with a kernel that grants everything: the very code, as a program in a guest.
//!
//! Prints one fact a line; the test that starts it says what they have to be.

#![allow(dead_code, missing_docs)]

#[path = "../../cgroup/src/error.rs"]
mod error;
#[path = "../../cgroup/src/group.rs"]
mod group;
#[path = "../../cgroup/src/home.rs"]
mod home;

use group::{Group, Limits};
use home::{Home, SLICE};
use std::fs;
use std::hint::black_box;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const TOP: &str = "/sys/fs/cgroup";
const MIB: u64 = 1 << 20;
const LIMITS: Limits = Limits { memory: 48 * MIB, cpu_millis: 200, tasks: 12 };
/// Far more than any step takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("eat") => eat(),
        Some("spin") => loop {
            black_box(0);
        },
        _ => tell(),
    }
}

fn tell() {
    // As a service manager has it: a slice, and the daemon's own group in it.
    let own = Path::new(TOP).join(SLICE).join("ireko.service");
    fs::create_dir_all(&own).expect("a group");
    fs::write(own.join("cgroup.procs"), "0").expect("enter a group");
    fs::write(Path::new(TOP).join("cgroup.subtree_control"), "+cpu +memory +pids")
        .expect("controllers");
    let home = Home::of_own_slice().expect("the slice of this process");
    println!("home: {} with {}", home.dir().display(), home.controllers().join(" "));
    println!("left of the trial: {}", groups_in(home.dir()));
    let busy = Home::open(&own).expect_err("a group with a process in it");
    println!("a group with a process in it: {busy}");

    limits(&home);
    memory(&home);
    end(&home);
}

fn limits(home: &Home) {
    let group = made(home, "limits");
    println!("in force: {:?}", group.in_force().expect("a group"));
    let mut look = Command::new("cat");
    let shown = entering(look.arg("/proc/self/cgroup"), &group).output().expect("cat");
    println!("a process in it: {}", String::from_utf8_lossy(&shown.stdout).trim());

    let mut spinning = entering(myself("spin"), &group).spawn().expect("spin");
    until("the CPU's limit to be felt", || count(&group, "cpu.stat", "nr_throttled ") > 0);
    println!("throttled");
    group.limit_cpu(700).expect("another limit");
    println!("then: {:?}", group.in_force().expect("a group").cpu_millis);
    spinning.kill().expect("kill");
    spinning.wait().expect("wait");

    let many = "for one in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do sleep 1000 & done";
    let mut forking = Command::new("sh");
    entering(forking.args(["-c", many]), &group).stderr(Stdio::null()).status().expect("sh");
    println!("refused a process: {}", count(&group, "pids.events", "max ") > 0);
    group.end(PATIENCE).expect("an end");
    println!("there still: {}", group.dir().exists());
}

fn memory(home: &Home) {
    let group = made(home, "memory");
    let cached = "dd if=/dev/zero of=/cached bs=1M count=120 2>/dev/null && cat /cached >/dev/null";
    let wrote = entering(Command::new("sh").args(["-c", cached]), &group).status().expect("sh");
    println!("120 MiB of page cache: {wrote}, {} killed", group.oom_kills());
    let ate = entering(myself("eat"), &group).status().expect("eat");
    println!("120 MiB of its own: {}, {} killed", signal(ate), group.oom_kills());
    group.end(PATIENCE).expect("an end");
}

fn end(home: &Home) {
    // What a maker that was killed left is its group and whatever is in it.
    let mut left = entering(myself("spin"), &made(home, "stale")).spawn().expect("spin");
    let stale = home.group("stale");
    stale.make().expect("it is there");
    stale.end(PATIENCE).expect("an end");
    println!("what was in it: {}", signal(left.wait().expect("wait")));
    stale.end(PATIENCE).expect("an end of nothing");
    println!("left at the end: {}", groups_in(home.dir()));
}

fn made(home: &Home, vm: &str) -> Group {
    let group = home.group(vm);
    group.make().expect("a group");
    group.limit(&LIMITS).expect("limits");
    group
}

fn myself(how: &str) -> &'static mut Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(how);
    Box::leak(Box::new(command))
}

/// As QEMU is launched: in the group before it is the program.
fn entering<'a>(command: &'a mut Command, group: &Group) -> &'a mut Command {
    let door = fs::File::options().write(true).open(group.dir().join("cgroup.procs"));
    let door = door.expect("the way in");
    // SAFETY: between fork and exec only write(2) is called.
    unsafe { command.pre_exec(move || std::io::Write::write(&mut &door, b"0").map(drop)) }
}

/// Takes memory and writes to it, page by page, far beyond the limit.
fn eat() {
    let mut eaten = Vec::new();
    for _ in 0..120 {
        let mut piece = vec![0_u8; MIB as usize];
        piece.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        eaten.push(black_box(piece));
    }
}

fn signal(status: ExitStatus) -> String {
    status.signal().map_or_else(|| status.to_string(), |number| format!("signal {number}"))
}

fn count(group: &Group, file: &str, word: &str) -> u64 {
    let text = fs::read_to_string(group.dir().join(file)).expect("a file of the group");
    let line = text.lines().find_map(|line| line.strip_prefix(word)).expect("the count");
    line.parse().expect("a number")
}

fn groups_in(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).expect("a group").flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("ireko-")).count()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        sleep(Duration::from_millis(20));
    }
}
