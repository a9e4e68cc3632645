//! Builds the guest agent, which the executable carries inside.
//!
//! The agent is linked statically, against the same target as the host binary: no other toolchain
//! target is needed. It has a target folder of its own, below this crate's `OUT_DIR`, because the
//! outer cargo holds the lock of its own. `IREKO_AGENT=path` puts another file in its place.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Settings of the outer build that would be meant for another one.
const LEAKING: [&str; 4] = ["RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "TARGET", "HOST"];

/// Cargo's variables that are about this machine rather than about the outer build.
const KEPT: [&str; 5] =
    ["CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR"];

/// How the agent is optimised: for size. It unwinds, so that a panic need not end the machine.
const PROFILE: [(&str, &str); 5] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
];

fn main() {
    // Of now: the checkout may have moved since this program was compiled.
    let workspace = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../..");
    println!("cargo::rerun-if-env-changed=IREKO_AGENT");
    for path in ["crates/agent", "crates/protocol", "crates/tar", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    let agent = match env::var_os("IREKO_AGENT") {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            path.canonicalize().unwrap_or_else(|error| {
                panic!("IREKO_AGENT names {}: {error}", path.display());
            })
        }
        None => build(&workspace),
    };
    println!("cargo::rustc-env=IREKO_AGENT_FILE={}", agent.display());
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"))
}

fn build(workspace: &Path) -> PathBuf {
    let target_dir = Path::new(&variable("OUT_DIR")).join("agent");
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .args(["build", "--release", "--locked", "--package", "ireko-agent"])
        .args(["--bin", "ireko-agent", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(workspace);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let outer = text.starts_with("CARGO_") && !KEPT.iter().any(|kept| text.starts_with(kept));
        if outer || LEAKING.contains(&text.as_ref()) {
            cargo.env_remove(&name);
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static").envs(PROFILE);
    let status = cargo.status().unwrap_or_else(|error| panic!("run {cargo:?}: {error}"));
    assert!(status.success(), "the guest agent was not built: {status}");
    target_dir.join(TARGET).join("release/ireko-agent")
}
