//! Whole operating systems: the life of a machine, by one of 512 bytes; and real ones.

use ireko_e2e::World;
use ireko_e2e::machine::{
    PATIENCE, RESTLESS, TINY, await_line, debian, import_boot_sector, leave, log_in, sit_down,
};
use ireko_e2e::programs::{await_death, kill};
use ireko_e2e::slots::Vms;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

/// `ireko logs -f`, line by line as they come.
struct Following {
    child: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(world: &World, container: &str) -> Self {
        let mut command = world.ireko(&["logs", "-f", container]);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("run ireko logs");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                if tell.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for a line that holds this.
    #[track_caller]
    fn expect(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut last = String::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return,
                Ok(line) => last = line,
                Err(_) => panic!("{text:?} never came; the last line was {last:?}"),
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended with its container.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_machine_lives_as_its_system_and_its_user_want() {
    let world = World::new("machine life", Vms::One);
    import_boot_sector(&world, TINY, "tiny");
    world
        .run(&["run", "tiny", "sh"])
        .fails_with(125, "whole operating system: it takes no command");
    world.run(&["run", "-u", "me", "tiny"]).fails_with(125, "runs as no user");
    world.run(&["run", "--firmware", "efi", "tiny"]).fails_with(125, "bios, uefi or uefi-secure");
    assert_eq!(world.ok(&["ps", "-aq"]), "");

    world.ok(&["run", "-d", "--name", "box", "tiny"]);
    await_line(&world, "box", "^ready");
    assert_eq!(world.inspect("box", "/HostConfig/Annotations/ireko.firmware"), "bios");
    assert_eq!(world.inspect("box", "/HostConfig/Annotations/ireko.hardware"), "compatible");
    let mut console = sit_down(&world, "box");
    console.type_keys("said");
    console.expect("said");
    leave(console);
    world.run(&["exec", "box", "true"]).fails_with(126, "no agent runs in this machine");
    world
        .run(&["wait", "--for", "agent", "--timeout", "1", "box"])
        .fails_with(1, "no agent runs in this machine");
    world.run(&["kill", "-s", "USR1", "box"]).fails_with(1, "takes no signal 10");

    // A reset boots again: the container does not end.
    let log = Following::start(&world, "box");
    log.expect("ready");
    let mut console = sit_down(&world, "box");
    console.type_keys("r");
    log.expect("ready");
    console.expect("ready");
    console.type_keys("again");
    console.expect("again");
    leave(console);
    assert_eq!(world.inspect("box", "/State/Running"), true);

    world.ok(&["pause", "box"]);
    assert_eq!(world.inspect("box", "/State/Status"), "paused");
    world.ok(&["unpause", "box"]);

    // A new daemon finds it running, and its console where it was.
    drop(log);
    let daemon = world.process("daemon");
    kill(daemon);
    await_death(daemon);
    let mut console = sit_down(&world, "box");
    console.type_keys("found");
    console.expect("found");

    // Powered off from inside: an end like any other, and nobody's failure.
    console.type_keys("p");
    assert_eq!(console.exit_code(), 0);
    assert_eq!(world.inspect("box", "/State/ExitCode"), 0);
    assert_eq!(world.inspect("box", "/State/Error"), "");

    // One that does not hear its power button is switched off when its time is over.
    world.ok(&["start", "box"]);
    await_line(&world, "box", "^ready");
    let mut console = sit_down(&world, "box");
    console.type_keys("h");
    leave(console);
    world.ok(&["stop", "-t", "1", "box"]);
    assert_eq!(world.inspect("box", "/State/ExitCode"), 137);

    world.ok(&["start", "box"]);
    world.ok(&["kill", "box"]);
    assert_eq!(world.ok(&["wait", "box"]), "137");
}

#[test]
fn a_machine_is_committed_running_and_stopped_and_what_it_makes_boots_as_it_did() {
    let world = World::new("machine commit", Vms::One);
    import_boot_sector(&world, TINY, "tiny");
    world.ok(&["run", "-d", "--name", "box", "--hardware", "virtio", "tiny"]);
    await_line(&world, "box", "^ready");
    let said = world.run(&["commit", "box", "live"]);
    assert!(said.stderr.contains("as after a power cut"), "nobody in it held it still: {said:?}");
    world.ok(&["kill", "box"]);
    world.ok(&["wait", "box"]);
    world.ok(&["commit", "box", "rest"]);
    for image in ["live", "rest"] {
        world.ok(&["run", "-d", "--name", image, image]);
        await_line(&world, image, "^ready");
        assert_eq!(world.inspect(image, "/HostConfig/Annotations/ireko.hardware"), "virtio");
        world.ok(&["rm", "-f", image]);
    }
    assert_eq!(world.ok(&["run", "--rm", "base", "echo", "hi"]), "hi", "beside app containers");
}

#[test]
fn a_machine_that_only_resets_itself_is_ended_and_says_so() {
    let world = World::new("machine resets", Vms::One);
    import_boot_sector(&world, RESTLESS, "restless");
    world.ok(&["run", "-d", "--name", "box", "restless"]);
    world.run(&["wait", "box"]).fails_with(1, "reset itself ten times");
    assert_eq!(world.inspect("box", "/State/ExitCode"), 255);
}

#[test]
fn debian_boots_by_uefi_with_secure_boot_and_its_panic_is_told() {
    let Some(disk) = debian("uefi") else { return };
    if !std::path::Path::new("/usr/share/OVMF").exists() {
        eprintln!("skipped: no UEFI firmware (package ovmf)");
        return;
    }
    let world = World::new("debian by UEFI", Vms::One);
    world.ok(&["image", "import", disk.to_str().expect("a path"), "debian-server"]);
    world.ok(&["create", "--name", "plain", "debian-server"]);
    assert_eq!(world.inspect("plain", "/HostConfig/Annotations/ireko.firmware"), "uefi");
    let secure = ["--hostname", "debian", "--firmware", "uefi-secure"];
    world.ok(&[&["run", "-d", "--name", "secure"], &secure[..], &["debian-server"]].concat());
    let mut console = log_in(&world, "secure");
    console.type_keys("dmesg | grep -i 'secure boot'\r");
    console.expect("Secure boot enabled");
    assert!(world.container_dir("secure").join("nvram.fd").exists());

    // A kernel that panics says so, and whoever waits hears it.
    console.type_keys("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger\r");
    world.run(&["wait", "secure"]).fails_with(1, "the guest's kernel panicked");
    assert_eq!(world.inspect("secure", "/State/ExitCode"), 255);
    drop(console);
}
