//! Ways to a whole operating system: what its first boot is told, ssh, its screen and its keyboard.

use ireko_e2e::World;
use ireko_e2e::http::request;
use ireko_e2e::machine::{TINY, await_line, debian, import_boot_sector};
use ireko_e2e::programs::run_with_input;
use ireko_e2e::slots::Vms;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Enough for what a VM answers by itself.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_machines_screen_is_seen_and_its_keys_are_pressed() {
    let world = World::new("machine screen", Vms::One);
    import_boot_sector(&world, TINY, "tiny");
    world.ok(&["create", "--name", "off", "tiny"]);
    world.run(&["screenshot", "off", "-"]).fails_with(1, "is not running");
    world.ok(&["run", "-d", "--name", "box", "tiny"]);
    await_line(&world, "box", "^ready");
    let picture = |name: &str| {
        let file = world.root().join(name);
        world.ok(&["screenshot", "box", file.to_str().expect("a path")]);
        std::fs::read(file).expect("read the picture")
    };
    let before = picture("before.png");
    assert!(before.starts_with(b"\x89PNG\r\n\x1a\n"), "{:?}", before.get(..8));

    world.ok(&["send-keys", "box", "shift-k", "e", "y"]);
    world.ok(&["send-keys", "--text", "box", "s: OK!"]);
    await_line(&world, "box", "Keys: OK!");
    assert!(picture("after.png") != before, "what was typed is on the screen");
    world.run(&["send-keys", "box", "nope"]).fails_with(1, "\"nope\" is no key");
    let post = |path: &str, body: &[u8]| {
        let path = format!("/ireko/containers/box/{path}");
        request(&world.root().join("ireko.sock"), "POST", &path, body)
    };
    let (status, said) = post("keys", br#"{"named": ["nope"]}"#);
    assert!(status == 400 && said.contains("keys are shift, "), "{status} {said}");
    for sign in ["agent", "ip", "log=nothing", "port=1"] {
        let (status, said) = post(&format!("wait?for={sign}&timeout=1"), b"");
        assert!(status == 408 && said.contains("is not up after 1 s"), "{sign}: {status} {said}");
    }
    world.run(&["send-keys", "--text", "box", "é"]).fails_with(1, "on no US keyboard");

    // A viewer is led to the screen and has to know a password.
    let mut desktop = world.ireko(&["desktop", "--no-viewer", "box"]);
    let mut desktop =
        desktop.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("run ireko desktop");
    let mut said = BufReader::new(desktop.stdout.take().expect("its output")).lines();
    let mut line = || said.next().expect("a line").expect("text");
    let (address, password) = (line(), line());
    let address = address.strip_prefix("vnc://").expect("an address").to_owned();
    assert_eq!(password.strip_prefix("password ").map(str::len), Some(8), "{password}");
    let mut viewer = TcpStream::connect(&address).expect("connect to the screen");
    viewer.set_read_timeout(Some(SOON)).expect("set a time limit");
    let mut greeting = [0; 12];
    viewer.read_exact(&mut greeting).expect("hear the server's version");
    assert_eq!(&greeting, b"RFB 003.008\n");
    viewer.write_all(&greeting).expect("say the version");
    let mut ways_in = [0; 2];
    viewer.read_exact(&mut ways_in).expect("hear who is let in");
    assert_eq!(ways_in, [1, 2], "one way in: by password");
    desktop.kill().expect("end the way in");
    desktop.wait().expect("see it end");
    assert!(TcpStream::connect(&address).is_err(), "the port is gone with the command");
}

/// As the documentation has it: by ssh, in a system that runs.
fn the_agent_is_installed_by_hand(world: &World, key: &str) {
    world.run(&["exec", "-i", "web", "cat"]).fails_with(126, "qemu-guest-agent");
    world.ok(&["exec", "web", "cp", "/home/debian/.ssh/authorized_keys", "/root/.ssh/"]);
    let agent = world.ireko(&["agent"]).output().expect("run ireko agent").stdout;
    let install = "cat > agent && chmod +x agent && ./agent install";
    let mut ssh = world.ireko(&["ssh", "-i", key, "root@web", install]);
    run_with_input(&mut ssh, &agent).ok();
    world.ok(&["wait", "--for", "agent", "--timeout", "600", "web"]);
    let ran = run_with_input(&mut world.ireko(&["exec", "-i", "web", "cat"]), b"typed");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "typed"), "{ran:?}");
    assert_eq!(world.ok(&["exec", "web", "systemctl", "is-enabled", "ireko-agent"]), "enabled");
}

#[test]
fn debian_comes_up_named_and_lets_a_key_in() {
    let Some(disk) = debian("cloud") else { return };
    let world = World::new("debian's first boot", Vms::One);
    let file = |name: &str| world.root().join(name).to_str().expect("a path").to_owned();
    let (key, public) = (file("key"), file("key.pub"));
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]).status();
    assert!(made.expect("run ssh-keygen").success());
    std::fs::write(file("told"), "#!/bin/sh\necho by-the-user > /var/told\n").expect("write");
    world.run(&["create", "--ssh-key", &key, "base"]).fails_with(125, "a private key");
    world.run(&["create", "--ssh-key", &public, "base"]).fails_with(1, "--ssh-key is for those");

    world.ok(&["image", "import", disk.to_str().expect("a path"), "debian-server"]);
    let said = ["--user-data", &file("told"), "--ssh-key", &public, "-e", "A=it's $1"];
    let options = [&["run", "-d", "--name", "web", "--hostname", "named"], &said[..]].concat();
    world.ok(&[&options[..], &["-p", "127.0.0.1::22", "debian-server"]].concat());
    world.ok(&["wait", "--for", "agent", "--timeout", "600", "web"]);
    world.ok(&["exec", "web", "cloud-init", "status", "--wait"]);
    let id = world.inspect("web", "/Id");
    assert_eq!(world.ok(&["exec", "web", "cloud-init", "query", "instance_id"]), id);
    assert_eq!(world.ok(&["exec", "web", "cat", "/var/told"]), "by-the-user");

    let mut ssh = world.ireko(&["ssh", "-i", &key, "debian@web", "hostname; echo $A; cat; exit 7"]);
    let ran = run_with_input(&mut ssh, b"typed");
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "named\nit's $1\ntyped"), "{ran:?}");
    world.run(&["ssh", "-o", "BatchMode=yes", "root@web"]).fails_with(255, "Permission denied");

    // The same by a port of the host's, without us.
    let port = world.inspect("web", "/NetworkSettings/Ports/22~1tcp/0/HostPort");
    let known = format!("UserKnownHostsFile={}", file("known"));
    let mut plain = Command::new("ssh");
    plain.args(["-i", &key, "-o", &known, "-o", "StrictHostKeyChecking=accept-new", "-p"]);
    plain.args([port.as_str().expect("a port"), "debian@127.0.0.1", "hostname"]);
    assert_eq!(ireko_e2e::run(&mut plain).ok().trim(), "named");

    the_agent_is_installed_by_hand(&world, &key);
    world.ok(&["stop", "web"]);
    world.run(&["ssh", "web"]).fails_with(1, "does not run");
}
