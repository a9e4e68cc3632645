//! The talker of `guest/` as a program that runs in any guest: built once a test process, without
//! anything that the guest would have to have.

use crate::programs::{run, run_with_input};
use crate::world::World;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The program's bytes.
pub fn talker() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("talker");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest/main.rs");
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
        std::fs::read(&program).expect("the talker")
    })
}

/// Puts it into a running container, as `/bin/talker`.
pub fn give_talker(world: &World, container: &str) {
    let put = "cat >/bin/talker && chmod +x /bin/talker";
    let mut command = world.ireko(&["exec", "-i", container, "sh", "-c", put]);
    run_with_input(&mut command, talker()).ok();
}
