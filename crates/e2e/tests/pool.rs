//! VMs that stand by: what they are to the containers that get them, and that none is left.

use ireko_e2e::slots::Vms;
use ireko_e2e::{World, programs, run};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// All that a container may not share with another, a line each.
const IDENTITY: &str = "head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/boot_id; \
                        hostname; cat /sys/class/net/eth0/address; ip -4 -o addr show eth0 | \
                        awk '{print $4}'";

/// A world whose daemon keeps one VM of each shape.
fn world(name: &str) -> World {
    let world = World::new(name, Vms::Two);
    run(world.ireko(&["version"]).env("IREKO_POOL", "1")).ok();
    world
}

/// The processes of VMs that stand by, of which a file names each.
fn spares(world: &World) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(world.root().join("spares")) else { return Vec::new() };
    let pid = |text: String| {
        let record: serde_json::Value = serde_json::from_str(&text).ok()?;
        record["pid"].as_u64()?.try_into().ok()
    };
    let records = entries.flatten().map(|entry| entry.path().join("shim.json"));
    records.filter_map(|path| pid(fs::read_to_string(path).ok()?)).collect()
}

/// The QEMU of a shim.
fn qemu(shim: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children"));
    let children = children.expect("children");
    children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a QEMU")
}

fn signal(pid: u32, name: &str) {
    run(std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()])).ok();
}

#[test]
fn containers_in_vms_that_stood_by_are_strangers_and_lack_nothing() {
    let world = world("strangers of the pool");
    let none = world.run(&["run", "--rm", "--start", "pool", "base", "true"]);
    none.fails_with(125, "stands by");
    let mut seen = BTreeSet::new();
    for name in ["first", "second"] {
        let said = world.ok(&["warm", "--cpus", "2", "-m", "300m"]);
        assert!(said.contains("1 virtual machine stands by"), "{said}");
        let script = format!("{IDENTITY}; nproc; cat /sys/fs/cgroup/memory.max; cat");
        let words = ["run", "-i", "--name", name, "--start", "pool", "--cpus", "2", "-m", "300m"];
        let words = [&words[..], &["--disk", "64m", "base", "sh", "-c", &script]].concat();
        let ran = programs::run_with_input(&mut world.ireko(&words), b"typed");
        let said = ran.ok();
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines[5..], ["2", &(300 << 20).to_string(), "typed"], "{said}");
        for line in &lines[..5] {
            assert!(seen.insert((*line).to_owned()), "both have {line}");
        }
        let mac = world.inspect(name, "/NetworkSettings/MacAddress");
        assert!(mac == "" || said.contains(mac.as_str().expect("a MAC address")), "{said}");
        assert_eq!(world.inspect(name, "/State/Origin"), "pool");
    }
    // Nothing of the rehearsal is on their disks, and what one wrote is the next's no more than ever.
    let list = "ls -A /; test ! -e /ireko-rehearsal";
    world.ok(&["warm"]);
    let listed = world.ok(&["run", "--rm", "--start", "pool", "base", "sh", "-c", list]);
    let cold = world.ok(&["run", "--rm", "--start", "cold", "base", "sh", "-c", list]);
    assert_eq!(listed, cold);
}

#[test]
fn a_vm_that_stood_by_and_died_or_hangs_costs_its_container_nothing_but_time() {
    let world = world("spares that fail");
    world.ok(&["warm"]);
    let [shim] = spares(&world)[..] else { panic!("one stands by") };
    // A start that fails before its VM is wanted leaves the VM to the next.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = format!("{}:80", taken.local_addr().expect("an address"));
    assert_ne!(world.run(&["run", "--rm", "-p", &port, "base", "true"]).code, 0);
    world.ok(&["run", "--rm", "--start", "pool", "base", "true"]);
    programs::await_death(shim);

    world.ok(&["warm"]);
    let [shim] = spares(&world)[..] else { panic!("one stands by") };
    signal(shim, "KILL");
    programs::await_death(shim);
    world.ok(&["run", "--name", "one", "base", "true"]);
    assert_eq!(world.inspect("one", "/State/Origin"), "template");

    world.ok(&["warm"]);
    let [shim] = spares(&world)[..] else { panic!("one stands by") };
    signal(qemu(shim), "STOP");
    world.ok(&["run", "--name", "two", "base", "ping", "-c", "1", "-W", "60", "172.17.0.1"]);
    assert_eq!(world.inspect("two", "/State/Origin"), "template");
}

#[test]
fn a_vm_that_falls_asleep_in_its_rehearsal_is_replaced_by_another() {
    let world = world("a rehearsal asleep");
    // The template is there then, and nobody stands by.
    world.ok(&["warm"]);
    world.ok(&["run", "--rm", "--start", "pool", "base", "true"]);
    let woken = std::thread::scope(|scope| {
        let warm = scope.spawn(|| world.ok(&["warm"]));
        // The agent copies itself there when it is awake.
        let is_written = || disk_of_rehearsal(&world).filter(|(_, bytes)| *bytes > 0);
        let (disk, empty) = await_some(is_written);
        await_some(|| fs::metadata(&disk).ok().filter(|file| file.len() > empty));
        let [shim] = spares(&world)[..] else { panic!("one rehearses") };
        signal(qemu(shim), "STOP");
        assert!(warm.join().expect("warm").contains("1 virtual machine stands by"));
        shim
    });
    assert_eq!(spares(&world), [woken]);
    assert_eq!(world.ok(&["run", "--rm", "--start", "pool", "base", "echo", "hi"]), "hi");
}

/// Where a VM rehearses, and how large that file is.
fn disk_of_rehearsal(world: &World) -> Option<(PathBuf, u64)> {
    let spare = fs::read_dir(world.root().join("spares")).ok()?.flatten().next()?;
    let plan = fs::read(spare.path().join("plan.json")).ok()?;
    let plan: serde_json::Value = serde_json::from_slice(&plan).ok()?;
    let disk = Path::new(plan["runtime_dir"].as_str()?).join("rehearsal.vhdx");
    let bytes = fs::metadata(&disk).ok()?.len();
    Some((disk, bytes))
}

fn await_some<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match look() {
            Some(found) => return found,
            None => assert!(Instant::now() < deadline, "nothing comes"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn no_vm_stands_by_for_a_daemon_that_is_gone() {
    let world = world("daemons that end");
    // A start alone sees to it that the next is quicker.
    world.ok(&["run", "--rm", "base", "true"]);
    await_some(|| spares(&world).pop());
    world.ok(&["warm"]);
    let daemon = world.process("daemon");
    let pids: Vec<_> = world.processes("shim");
    assert_eq!(pids.len(), 1);
    world.ok(&["daemon", "stop"]);
    programs::await_death(daemon);
    pids.into_iter().for_each(programs::await_death);
    assert!(spares(&world).is_empty());

    run(world.ireko(&["version"]).env("IREKO_POOL", "1")).ok();
    world.ok(&["warm"]);
    let left = spares(&world);
    assert_eq!(left.len(), 1);
    let daemon = world.process("daemon");
    programs::kill(daemon);
    programs::await_death(daemon);
    // The next daemon ends what this one left.
    assert_eq!(world.ok(&["run", "--rm", "base", "echo", "hi"]), "hi");
    left.into_iter().for_each(programs::await_death);
    assert!(spares(&world).is_empty());
}
