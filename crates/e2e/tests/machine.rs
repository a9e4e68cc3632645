//! Whole operating systems: the life of a machine, by one of 512 bytes; and real ones.

use ireko_e2e::World;
use ireko_e2e::programs::{await_death, kill};
use ireko_e2e::slots::Vms;
use ireko_e2e::terminal::Terminal;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// No system takes longer to come up or down, even emulated on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// An operating system: says `ready`, repeats what is typed, and knows three commands: `p` powers
/// the machine off, `r` resets it, `h` halts it for good.
const TINY: &[u8] = &[
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, // registers, a stack
    0xbe, 0x3c, 0x7c, // the text
    0xac, 0x84, 0xc0, 0x74, 0x06, 0xb4, 0x0e, 0xcd, 0x10, 0xeb, 0xf5, // written by the BIOS
    0x31, 0xc0, 0xcd, 0x16, // a key, from the BIOS
    0x3c, b'p', 0x74, 0x0e, 0x3c, b'r', 0x74, 0x11, 0x3c, b'h', 0x74, 0x11, // which?
    0xb4, 0x0e, 0xcd, 0x10, 0xeb, 0xea, // none: repeated
    0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, // ACPI's soft off
    0xb0, 0xfe, 0xe6, 0x64, // the keyboard controller's reset line
    0xfa, 0xf4, 0xeb, 0xfc, // no interrupts, halt
    b'r', b'e', b'a', b'd', b'y', b'\r', b'\n', 0,
];

/// Another one: resets the machine at once.
const RESTLESS: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xfa, 0xf4, 0xeb, 0xfc];

/// Imports a disk that begins with this boot sector.
fn import_boot_sector(world: &World, code: &[u8], name: &str) {
    let mut disk = vec![0; 1 << 20];
    disk[..code.len()].copy_from_slice(code);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let file = world.root().join(format!("{name}.img"));
    std::fs::write(&file, disk).expect("write the disk");
    world.ok(&["image", "import", "--format", "raw", file.to_str().expect("a path"), name]);
}

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

#[track_caller]
fn await_line(world: &World, container: &str, pattern: &str) {
    let sign = format!("log={pattern}");
    world.ok(&["wait", "--for", &sign, "--timeout", &PATIENCE.as_secs().to_string(), container]);
}

#[track_caller]
fn sit_down(world: &World, container: &str) -> Terminal {
    let mut terminal = Terminal::open(&world.ireko(&["console", container]));
    terminal.expect("ctrl-p,ctrl-q leaves it");
    terminal
}

/// Types docker's detach keys; the container goes on.
#[track_caller]
fn leave(mut terminal: Terminal) {
    terminal.type_keys("\u{10}\u{11}");
    assert_eq!(terminal.exit_code(), 0);
}

#[test]
fn a_machine_lives_as_its_system_and_its_user_want() {
    let world = World::new("machine life", Vms::One);
    import_boot_sector(&world, TINY, "tiny");
    world
        .run(&["run", "tiny", "sh"])
        .fails_with(125, "whole operating system: it takes no command");
    world.run(&["run", "-e", "A=1", "tiny"]).fails_with(125, "environment");
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
    world.run(&["exec", "box", "true"]).fails_with(126, "no qemu-guest-agent runs");
    world
        .run(&["wait", "--for", "agent", "--timeout", "1", "box"])
        .fails_with(1, "no qemu-guest-agent runs");
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

/// The Debian disk made by `scripts/fixtures/debian-machine.sh`; says what is missing.
fn debian(firmware: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("IREKO_CACHE").map(PathBuf::from);
    let disk = cache?.join(format!("fixtures/debian-machine-{firmware}.raw"));
    if !disk.exists() {
        eprintln!("skipped: {} is missing (`make fixtures` makes it)", disk.display());
        return None;
    }
    Some(disk)
}

/// Logs in as root, whose prompt is shown then.
#[track_caller]
fn log_in(world: &World, container: &str) -> Terminal {
    await_line(world, container, "login:");
    let mut console = sit_down(world, container);
    console.type_keys("\r");
    console.expect("login:");
    console.type_keys("root\r");
    console.expect("Password:");
    console.type_keys("ireko\r");
    console.expect("root@debian:~#");
    console
}

#[test]
fn debian_boots_from_its_disk_and_its_images_do() {
    let Some(disk) = debian("bios") else { return };
    let world = World::new("debian by the BIOS", Vms::One);
    world.ok(&["image", "import", disk.to_str().expect("a path"), "debian-server"]);
    world.ok(&["run", "-d", "--name", "one", "debian-server"]);
    assert_eq!(world.inspect("one", "/HostConfig/Annotations/ireko.firmware"), "bios");
    assert_eq!(world.inspect("one", "/HostConfig/Annotations/ireko.hardware"), "virtio");
    world.ok(&["wait", "--for", "agent", "--timeout", "600", "one"]);
    assert_eq!(world.ok(&["exec", "one", "cat", "/etc/hostname"]), "debian");
    world.run(&["exec", "one", "sh", "-c", "echo no >&2; exit 3"]).fails_with(3, "no\n");
    world.run(&["exec", "one", "nope"]).fails_with(127, "nope");
    world.run(&["exec", "-i", "one", "cat"]).fails_with(126, "no standard input");
    let mut console = log_in(&world, "one");
    console.type_keys("free -m; echo made-$((6*7)) > mark; sync; cat mark\r");
    console.expect("made-42");
    let said = world.run(&["commit", "one", "live"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "its agent held it still");

    // Reboot: the machine goes on, and so does whoever sits at it.
    console.type_keys("reboot\r");
    console.expect("login:");
    assert_eq!(world.inspect("one", "/State/Running"), true);
    leave(console);
    world.ok(&["stop", "one"]);
    assert_eq!(world.inspect("one", "/State/ExitCode"), 0, "it powered itself off in time");
    assert_eq!(world.inspect("one", "/State/Error"), "");
    world.ok(&["rm", "one"]);

    world.ok(&["run", "-d", "--name", "two", "live"]);
    let mut console = log_in(&world, "two");
    console.type_keys("cat mark; poweroff\r");
    console.expect("made-42");
    assert_eq!(console.exit_code(), 0);
    assert_eq!(world.ok(&["wait", "two"]), "0");
}

#[test]
fn debian_boots_by_uefi_with_secure_boot_too() {
    let Some(disk) = debian("uefi") else { return };
    if !std::path::Path::new("/usr/share/OVMF").exists() {
        eprintln!("skipped: no UEFI firmware (package ovmf)");
        return;
    }
    let world = World::new("debian by UEFI", Vms::One);
    world.ok(&["image", "import", disk.to_str().expect("a path"), "debian-server"]);
    world.ok(&["create", "--name", "plain", "debian-server"]);
    assert_eq!(world.inspect("plain", "/HostConfig/Annotations/ireko.firmware"), "uefi");
    world.ok(&["run", "-d", "--name", "secure", "--firmware", "uefi-secure", "debian-server"]);
    let mut console = log_in(&world, "secure");
    console.type_keys("dmesg | grep -i 'secure boot'\r");
    console.expect("Secure boot enabled");
    leave(console);
    assert!(world.container_dir("secure").join("nvram.fd").exists());
    world.ok(&["stop", "secure"]);
    assert_eq!(world.inspect("secure", "/State/ExitCode"), 0);
}
