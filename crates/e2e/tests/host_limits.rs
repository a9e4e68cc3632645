//! What keeps a VM to its share of the host: its control group.

use ireko_e2e::programs::{await_death, kill, run_with_input};
use ireko_e2e::slots::Vms;
use ireko_e2e::{World, guest_program, run};
use std::fs;
use std::path::{Path, PathBuf};

/// What the code that keeps VMs in groups has to see in a kernel that grants it everything. The CPU, the
/// memory and the processes of a group are limited, page cache does not count against it, and what was left
/// in a group ends with it.
const FACTS: &str = "\
home: /sys/fs/cgroup/ireko.slice with cpu memory pids
left of the trial: 0
a group with a process in it: there are processes in it, beside the groups to come
in force: InForce { memory: Some(50331648), cpu_millis: Some(200), tasks: Some(12) }
a process in it: 0::/ireko.slice/ireko-vm-limits
throttled
then: Some(700)
refused a process: true
there still: false
120 MiB of page cache: exit status: 0, 0 killed
120 MiB of its own: signal 9, 1 killed
what was in it: signal 9
left at the end: 0
";

#[test]
fn a_kernel_that_grants_control_groups_keeps_processes_to_their_limits() {
    let world = World::new("control groups in a guest", Vms::One);
    // A container's own group is the top of what it sees; it is shown for looking at only.
    let script = "umount /sys/fs/cgroup && mount -t cgroup2 cgroup /sys/fs/cgroup && \
                  cat >/keeper && chmod +x /keeper && exec /keeper";
    let mut command = world.ireko(&["run", "-i", "--rm", "base", "sh", "-c", script]);
    let ran = run_with_input(&mut command, guest_program::group_keeper());
    assert_eq!((ran.stdout.as_str(), ran.code), (FACTS, 0), "{}", ran.stderr);
}

/// A control group of this test's own, removed at the end.
struct OwnGroup(PathBuf);

impl OwnGroup {
    /// `None` where this host lets none be made.
    fn make() -> Option<Self> {
        let tops = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let top = tops.into_iter().find(|top| top.join("cgroup.controllers").exists())?;
        let dir = top.join(format!("ireko-e2e-{}", std::process::id()));
        fs::create_dir(&dir).ok().map(|()| Self(dir))
    }

    fn groups(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the group").flatten();
        let folders = entries.filter(|entry| entry.path().is_dir());
        folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for OwnGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} is left over: {error}", self.0.display());
        }
    }
}

/// The control group (version 2) that a process is in.
fn group_of(pid: u64) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its groups");
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    own.expect("a group of version 2").to_owned()
}

#[test]
fn a_vm_has_a_control_group_as_long_as_it_lives_and_longer_than_daemon_and_shim() {
    let Some(home) = OwnGroup::make() else {
        return eprintln!("skipped: this host lets no control groups of version 2 be made");
    };
    let world = World::new("a control group for each VM", Vms::Two);
    let begin = |args: &[&str]| {
        run(world.ireko(args).env("IREKO_CGROUP", &home.0).env("IREKO_POOL", "1")).ok()
    };
    let stop = || {
        let daemon = world.process("daemon");
        world.ok(&["daemon", "stop"]);
        // It ends the VMs that stand by when it listens no more.
        await_death(daemon);
    };
    assert!(begin(&["info"]).contains(&home.0.display().to_string()));
    world.ok(&["warm"]);
    let [spare] = home.groups().try_into().expect("the group of the VM that stands by");
    begin(&["run", "-d", "--name", "one", "--cpus", "0.5", "base", "sleep", "1000"]);
    let limits = world.inspect("one", "/State/HostLimits");
    assert_eq!(limits["Group"], home.0.join(&spare).display().to_string(), "{limits}");
    let vm = world.inspect("one", "/State/Pid").as_u64().expect("a pid");
    assert!(group_of(vm).ends_with(&spare), "{}", group_of(vm));
    // Where this host gives the group controllers, its limits hold.
    if limits["NanoCpus"].is_u64() {
        assert_eq!(limits["NanoCpus"], 1_500_000_000_u64);
        world.ok(&["update", "--cpus", "0.25", "one"]);
        assert_eq!(world.inspect("one", "/State/HostLimits/NanoCpus"), 1_250_000_000_u64);
    }
    let limits = world.inspect("one", "/State/HostLimits");

    // By now another VM stands by, which ends with its daemon; this one goes on.
    stop();
    assert_eq!(home.groups(), [spare.as_str()]);
    begin(&["ps"]);
    assert_eq!(world.inspect("one", "/State/HostLimits"), limits);
    let shim = world.process("shim");
    kill(shim);
    await_death(shim);
    world.run(&["wait", "one"]);
    assert!(!home.groups().contains(&spare), "its shim could not remove it");

    world.ok(&["start", "one"]);
    let group = world.inspect("one", "/State/HostLimits/Group");
    assert!(Path::new(group.as_str().expect("a group")).is_dir());
    world.ok(&["rm", "-f", "one"]);
    stop();
    assert!(home.groups().is_empty(), "{:?}", home.groups());
}

#[test]
fn without_a_control_group_the_daemon_says_why_and_one_that_is_none_is_refused() {
    let world = World::new("no control group", Vms::One);
    let folder = world.root().join("no-group");
    fs::create_dir_all(&folder).expect("a folder");
    let refused = run(world.ireko(&["ps"]).env("IREKO_CGROUP", &folder));
    refused.fails_with(1, "no control group of version 2");

    world.ok(&["run", "-d", "--name", "free", "base", "sleep", "1000"]);
    let reason = world.inspect("free", "/State/HostLimits/Reason");
    let reason = reason.as_str().expect("a reason");
    assert!(reason.contains("control group"), "{reason}");
    assert!(world.ok(&["info"]).contains(reason));
}

#[test]
fn qemu_has_no_privileges_and_no_way_to_them() {
    let world = World::new("privileges of QEMU", Vms::One);
    world.ok(&["run", "-d", "--name", "plain", "base", "sleep", "1000"]);
    let vm = world.inspect("plain", "/State/Pid").as_u64().expect("a pid");
    let status = fs::read_to_string(format!("/proc/{vm}/status")).expect("its status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap_or_else(|| panic!("{name} in {status}")).to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".to_owned(), "2".to_owned()));
}
