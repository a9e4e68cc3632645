//! The most memory that each verb takes on large files: a chain of 64 layers of 1 TiB, and a disk with all its data in one file.
//!
//! Each verb is a process of its own, whose peak GNU time tells, beside QEMU's tools on qcow2 files with the same bytes.
//! Of a server, which would count its client's too, it is VmHWM.

use crate::layers::Content;
use crate::server::{Amount, Job, Server};
use crate::setting::{KIB, Setting, TIB};
use ireko_e2e::programs::{ireko, run as run_program};
use std::process::Command;

const DEPTH: usize = 64;

pub fn run(setting: &Setting) {
    let mib = setting.mib_or(256).max(DEPTH as u64);
    println!(
        "memory: the most resident, {DEPTH} layers of 1 TiB, {mib} MiB of data anywhere in them"
    );
    let content = Content::sparse(TIB, mib, DEPTH);
    let chain = content.vhdx(setting.folder(), "layer");
    let qcow2 = content.qcow2(setting.folder(), "layer");

    print("ireko --version", peak(Command::new(ireko()).arg("--version")));
    let here = |words: &[&str]| {
        let mut command = Command::new(ireko());
        peak(command.arg("vhd").args(words).current_dir(setting.folder()))
    };
    let leaf = format!("layer{}.vhdx", DEPTH - 1);
    let verbs: [(&str, &[&str]); 12] = [
        ("info --chain", &["info", "--chain", &leaf]),
        ("create --parent", &["create", "child.vhdx", "--parent", &leaf]),
        ("map", &["map", &leaf]),
        ("check --chain", &["check", "--chain", &leaf]),
        ("merge, in place", &["merge", "child.vhdx"]),
        ("merge --into, 8 layers", &["merge", &leaf, "--into", "eight.vhdx", "--depth", "8"]),
        ("merge --into --all", &["merge", &leaf, "--into", "all.vhdx", "--all"]),
        ("flatten", &["flatten", &leaf, "flat.vhdx"]),
        ("convert to VHDX, from one file", &["convert", "all.vhdx", "again.vhdx"]),
        ("check, one file", &["check", "flat.vhdx"]),
        ("resize, one file", &["resize", "flat.vhdx", "+1t"]),
        ("compact, one file", &["compact", "flat.vhdx"]),
    ];
    for (what, words) in verbs {
        print(&format!("ireko vhd {what}"), here(words));
    }
    let served = Server::ireko(&chain[0], true);
    print("ireko vhd serve, writable, reads and writes", used(&served));
    drop(served);

    let qemu_img = || {
        let mut command = Command::new("qemu-img");
        command.current_dir(setting.folder());
        command
    };
    print("qemu-img check, qcow2 leaf", peak(qemu_img().args(["check", "-q"]).arg(&qcow2[0])));
    let convert =
        peak(qemu_img().args(["convert", "-O", "qcow2"]).arg(&qcow2[0]).arg("flat.qcow2"));
    print("qemu-img convert, qcow2", convert);
    let served = Server::qemu(&qcow2[0], "qcow2", true);
    print("qemu-nbd, writable, reads and writes", used(&served));
}

/// A server's peak after reads and writes all over the disk.
fn used(server: &Server) -> u64 {
    for pattern in ["randread", "randwrite"] {
        let amount = Amount::Seconds(3);
        server.fio(&Job { pattern, block: 64 * KIB, depth: 16, size: TIB, amount, seed: 1 });
    }
    server.peak_kib()
}

/// KiB that a command had resident at most; panics when it fails.
fn peak(command: &mut Command) -> u64 {
    let mut timed = Command::new("time");
    timed.args(["--quiet", "--format=%M"]).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        timed.current_dir(folder);
    }
    let ran = run_program(&mut timed);
    assert_eq!(ran.code, 0, "{ran:#?}");
    ran.stderr.lines().last().and_then(|line| line.parse().ok()).expect("a number")
}

fn print(what: &str, kib: u64) {
    println!("   {what:<50} {:>8.1} MiB", kib as f64 / KIB as f64);
}
