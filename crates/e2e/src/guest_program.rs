//! The sources of `guest/` as programs that run in any guest: each built once a test process, without
//! anything that the guest would have to have.

use crate::programs::{run, run_with_input};
use crate::world::World;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The bytes of the program that talks over networks.
pub fn talker() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| build("main.rs"))
}

/// The bytes of the program that keeps processes in control groups.
pub fn group_keeper() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| build("groups.rs"))
}

fn build(source: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("program");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest").join(source);
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args([
        "--edition",
        "2024",
        "-O",
        "-C",
        "target-feature=+crt-static",
        "-C",
        "strip=symbols",
    ]);
    run(rustc.arg("-o").arg(&program).arg(source)).ok();
    std::fs::read(&program).expect("the program")
}

/// Puts the talker into a running container, as `/bin/talker`.
pub fn give_talker(world: &World, container: &str) {
    let put = "cat >/bin/talker && chmod +x /bin/talker";
    let mut command = world.ireko(&["exec", "-i", container, "sh", "-c", put]);
    run_with_input(&mut command, talker()).ok();
}
