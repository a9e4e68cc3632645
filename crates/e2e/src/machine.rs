//! Whole operating systems that tests boot, and sitting down at them.

use crate::World;
use crate::terminal::Terminal;
use std::path::PathBuf;
use std::time::Duration;

/// No system takes longer to come up or down, even emulated on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// An operating system: says `ready`, repeats what is typed, and knows three commands: `p` powers
/// the machine off, `r` resets it, `h` halts it for good.
pub const TINY: &[u8] = &[
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
pub const RESTLESS: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xfa, 0xf4, 0xeb, 0xfc];

/// Imports a disk that begins with this boot sector.
pub fn import_boot_sector(world: &World, code: &[u8], name: &str) {
    let mut disk = vec![0; 1 << 20];
    disk[..code.len()].copy_from_slice(code);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let file = world.root().join(format!("{name}.img"));
    std::fs::write(&file, disk).expect("write the disk");
    world.ok(&["image", "import", "--format", "raw", file.to_str().expect("a path"), name]);
}

/// Waits until a machine has written a line like this.
#[track_caller]
pub fn await_line(world: &World, container: &str, pattern: &str) {
    let sign = format!("log={pattern}");
    world.ok(&["wait", "--for", &sign, "--timeout", &PATIENCE.as_secs().to_string(), container]);
}

/// Sits down at a machine's console.
#[track_caller]
pub fn sit_down(world: &World, container: &str) -> Terminal {
    let mut terminal = Terminal::open(&world.ireko(&["console", container]));
    terminal.expect("ctrl-p,ctrl-q leaves it");
    terminal
}

/// Types docker's detach keys; the container goes on.
#[track_caller]
pub fn leave(mut terminal: Terminal) {
    terminal.type_keys("\u{10}\u{11}");
    assert_eq!(terminal.exit_code(), 0);
}

/// The Debian disk made by `scripts/fixtures/debian-machine.sh`; says what is missing.
pub fn debian(firmware: &str) -> Option<PathBuf> {
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
pub fn log_in(world: &World, container: &str) -> Terminal {
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
