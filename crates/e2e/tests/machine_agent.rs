//! A real Debian with an agent in it: Ireko's, put there by `image prepare`, and qemu-guest-agent.

use ireko_e2e::World;
use ireko_e2e::machine::{debian, log_in};
use ireko_e2e::programs::run_with_input;
use ireko_e2e::slots::Vms;
use ireko_e2e::terminal::Terminal;
use std::process::Command;

#[track_caller]
fn await_agent(world: &World, container: &str) {
    world.ok(&["wait", "--for", "agent", "--timeout", "600", container]);
}

fn exec_as_in_any_container(world: &World) {
    assert_eq!(world.ok(&["exec", "one", "cat", "/etc/hostname"]), "debian");
    let script = "id -un; pwd; echo $A; cat; echo no >&2; exit 7";
    let words =
        ["exec", "-i", "-u", "daemon", "-w", "/tmp", "-e", "A=b", "one", "sh", "-c", script];
    let ran = run_with_input(&mut world.ireko(&words), b"typed\n");
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "daemon\n/tmp\nb\ntyped\n"), "{ran:?}");
    assert_eq!(ran.stderr, "no\n");
    world.run(&["exec", "one", "nope"]).fails_with(127, "not found in $PATH");
    world.run(&["exec", "-u", "nobody-here", "one", "true"]).fails_with(126, "unable to find user");

    let script = "stty size; tty; trap 'echo interrupted; exit 5' INT; \
                  until [ \"$(stty size)\" = '30 100' ]; do :; done; echo resized; \
                  while :; do sleep 1; done";
    let mut shell = Terminal::open(&world.ireko(&["exec", "-it", "one", "sh", "-c", script]));
    shell.expect("24 80");
    shell.expect("/dev/pts/");
    shell.resize(30, 100);
    shell.expect("resized");
    shell.type_keys("\u{3}");
    shell.expect("interrupted");
    assert_eq!(shell.exit_code(), 5);
}

/// Both ways while it runs, through its agent.
fn files(world: &World) {
    let outside = tempfile::tempdir().expect("a folder");
    let at = |name: &str| outside.path().join(name).to_str().expect("a path").to_owned();
    std::fs::create_dir_all(at("site/deep")).expect("a folder");
    std::fs::write(at("site/deep/page"), "hello").expect("write");
    std::os::unix::fs::symlink("deep/page", at("site/link")).expect("a link");
    world.ok(&["cp", &at("site/."), "one:/srv"]);
    assert_eq!(world.ok(&["exec", "one", "cat", "/srv/link"]), "hello");
    world.ok(&["exec", "one", "sh", "-c", "echo more >> /srv/deep/page; rm /etc/motd"]);
    world.ok(&["cp", "one:/srv/deep", &at("back")]);
    assert_eq!(std::fs::read_to_string(at("back/page")).expect("read"), "hellomore\n");
    world.run(&["cp", "one:/nope", "-"]).fails_with(1, "Could not find the file /nope");
    let changes = world.ok(&["diff", "one"]);
    for change in ["C /srv", "A /srv/deep", "A /srv/deep/page", "A /srv/link", "D /etc/motd"] {
        assert!(changes.lines().any(|line| line == change), "{change} in {changes}");
    }
    assert!(!changes.contains("/usr"), "what nobody touched is not told: {changes}");
    assert!(!changes.contains("/proc"), "nor what is only mounted: {changes}");
}

/// The same where it does not run: its disk is looked at by another system.
fn files_at_rest(world: &World) {
    let outside = tempfile::tempdir().expect("a folder");
    let at = |name: &str| outside.path().join(name).to_str().expect("a path").to_owned();
    std::fs::write(at("late"), "by another system").expect("write");
    world.ok(&["cp", &at("late"), "one:/root/late"]);
    let changes = world.ok(&["diff", "one"]);
    for change in ["A /root/late", "A /srv/link", "D /etc/motd"] {
        assert!(changes.lines().any(|line| line == change), "{change} in {changes}");
    }
    world.ok(&["export", "-o", &at("all.tar"), "one"]);
    let listed = Command::new("tar").args(["-tf", &at("all.tar")]).output().expect("run tar");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in ["root/late", "srv/deep/page", "usr/local/sbin/ireko-agent"] {
        assert!(listed.lines().any(|line| line == name), "{name} is not in it");
    }
}

/// What the guest says of its address counts, not what its network keeps for it.
fn addresses(world: &World) {
    world.ok(&["wait", "--for", "ip", "--timeout", "600", "one"]);
    let own = world.ok(&["ip", "one"]);
    assert_eq!(world.inspect("one", "/NetworkSettings/IPAddress"), own);
    let script = "set -e; device=$(basename $(dirname $(grep -l ^02:42: /sys/class/net/*/address))); \
                  ip addr flush dev $device scope global; ip addr add 172.17.0.99/16 dev $device";
    world.ok(&["exec", "one", "sh", "-c", script]);
    let listed = world.run(&["ip", "--json", "one"]).ok();
    assert!(listed.contains("172.17.0.99") && listed.contains("\"reported\": true"), "{listed}");
    assert_eq!(world.inspect("one", "/NetworkSettings/IPAddress"), "172.17.0.99");
    assert_eq!(world.inspect("one", "/NetworkSettings/IPPrefixLen"), 16);
}

/// In memory alone is what tells a machine that went on from one that booted.
fn suspend_and_go_on(world: &World) {
    world.ok(&["exec", "one", "sh", "-c", "echo kept > /run/kept; date +%s > /run/then"]);
    let script = "echo up; sleep 1000";
    let mut lost = Terminal::open(&world.ireko(&["exec", "-t", "one", "sh", "-c", script]));
    lost.expect("up");
    world.ok(&["suspend", "one"]);
    assert_ne!(lost.exit_code(), 0, "whoever was connected is let go");
    assert_eq!(world.inspect("one", "/State/Suspended"), true);
    assert!(world.ok(&["ps", "-a"]).contains("Suspended"));
    world.run(&["commit", "one", "x"]).fails_with(1, "its disk has to stay as it is");
    world.run(&["update", "-m", "2g", "one"]).fails_with(1, "what was saved of it");
    world.run(&["cp", "one:/etc/hostname", "-"]).fails_with(1, "its disk has to stay as it is");
    world.ok(&["start", "one"]);
    assert_eq!(world.inspect("one", "/State/Origin"), "suspended");
    assert_eq!(world.ok(&["exec", "one", "cat", "/run/kept"]), "kept");
    let script = "test $(date +%s) -ge $(cat /run/then)";
    world.ok(&["exec", "one", "sh", "-c", script]);
}

/// The other agent, once ours is ended; and ours again.
fn the_second_way(world: &World) {
    world.run(&["exec", "one", "systemctl", "stop", "ireko-agent"]);
    await_agent(world, "one");
    world.run(&["exec", "-i", "one", "cat"]).fails_with(126, "`ireko image prepare`");
    world.run(&["cp", "one:/etc/hostname", "-"]).fails_with(1, "go through Ireko's agent");
    world.run(&["exec", "one", "sh", "-c", "echo no >&2; exit 3"]).fails_with(3, "no\n");
    assert!(world.ok(&["ip", "one"]).contains("172.17.0.99"));
    world.ok(&["exec", "one", "systemctl", "start", "ireko-agent"]);
    let ran = run_with_input(&mut world.ireko(&["exec", "-i", "one", "cat"]), b"back");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "back"), "{ran:?}");

    // One that is killed is started again by its system, and whoever it served is not kept waiting.
    let killed =
        world.run(&["exec", "one", "sh", "-c", "kill -9 $(pidof ireko-agent); sleep 1000"]);
    assert_ne!(killed.code, 0, "{killed:?}");
}

/// A guest without room left is asked, committed and stopped as any other.
fn a_full_disk(world: &World) {
    // What is kept back for root has to be written.
    let script = "fallocate -l $(df --output=avail -B1 / | tail -1) /fill; \
                  dd if=/dev/zero of=/more bs=1M";
    world.run(&["exec", "one", "sh", "-c", script]).fails_with(1, "No space left");
    assert_eq!(world.ok(&["exec", "one", "echo", "there"]), "there");
    let said = world.run(&["commit", "one", "full"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "its agent held it still");
    world.ok(&["exec", "one", "rm", "/fill", "/more"]);
    world.ok(&["rmi", "full"]);
}

#[test]
fn debian_boots_with_an_agent_is_asked_suspended_and_committed_and_its_image_boots() {
    let Some(disk) = debian("bios") else { return };
    let world = World::new("debian by the BIOS", Vms::Two);
    world.ok(&["image", "import", disk.to_str().expect("a path"), "debian-server"]);
    let taken = "the name debian-server:latest is in use by image";
    world.run(&["image", "prepare", "debian-server", "debian-server"]).fails_with(1, taken);
    world.run(&["image", "generalize", "debian-server", "debian-server"]).fails_with(1, taken);
    world.ok(&["image", "prepare", "debian-server", "prepared"]);
    world.ok(&["run", "-d", "--name", "one", "--hostname", "debian", "prepared"]);
    assert_eq!(world.inspect("one", "/HostConfig/Annotations/ireko.firmware"), "bios");
    assert_eq!(world.inspect("one", "/HostConfig/Annotations/ireko.hardware"), "virtio");
    await_agent(&world, "one");
    exec_as_in_any_container(&world);
    files(&world);
    addresses(&world);
    suspend_and_go_on(&world);
    the_second_way(&world);
    await_agent(&world, "one");
    a_full_disk(&world);
    world.ok(&["exec", "one", "sh", "-c", "echo made-$((6*7)) > /root/mark"]);
    let said = world.run(&["commit", "one", "live"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "its agent held it still");
    world.ok(&["stop", "one"]);
    assert_eq!(world.inspect("one", "/State/ExitCode"), 0, "it powered itself off in time");
    assert_eq!(world.inspect("one", "/State/Error"), "");
    files_at_rest(&world);
    world.ok(&["rm", "one"]);

    world.ok(&["run", "-d", "--name", "two", "--hostname", "debian", "live"]);
    let mut console = log_in(&world, "two");
    console.type_keys("cat mark; poweroff\r");
    console.expect("made-42");
    assert_eq!(console.exit_code(), 0);
    assert_eq!(world.ok(&["wait", "two"]), "0");
}
