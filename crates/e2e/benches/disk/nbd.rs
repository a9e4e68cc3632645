//! Reading and writing by NBD: a dynamic VHDX by `ireko vhd serve -w`, qcow2 and a raw file by qemu-nbd.
//!
//! Each round begins with new files. A job that writes ends with a flush, which is part of its time.
//! What is read was just written and is in the page cache.

use crate::rounds::{Samples, turns};
use crate::server::{Amount, Job, Server};
use crate::setting::{KIB, MIB, Setting, remove};
use ireko_disk::vhdx::{self, CreateOptions};
use ireko_e2e::programs::run as run_program;
use std::fs::File;
use std::path::Path;
use std::process::Command;

const SIDES: [&str; 3] = ["ireko, vhdx", "qemu-nbd, qcow2", "qemu-nbd, raw"];

/// What is done, in this order, and whether on the disk that is written in sequence or on the other one.
const STEPS: [(&str, &str, bool); 6] = [
    ("write 1 MiB, new space", "write", false),
    ("write 1 MiB, over it", "write", false),
    ("read 1 MiB", "read", false),
    ("write 4 KiB anywhere, over it", "randwrite", false),
    ("read 4 KiB anywhere", "randread", false),
    ("write 4 KiB anywhere, new space", "randwrite", true),
];

pub fn run(setting: &Setting) {
    let mib = setting.mib_or(512);
    println!("nbd: {mib} MiB in sequence (queue of 4), {} MiB anywhere (queue of 16)", mib / 8);
    let mut samples: [[Samples; SIDES.len()]; STEPS.len()] = Default::default();
    for round in 0..setting.rounds {
        // Twice as large as what is written, as disks are.
        let disks = [0, 1].map(|number| Disks::new(setting, number, 2 * mib * MIB));
        // The last round's files are gone by now; the first job is not to pay for that.
        rustix::fs::sync();
        for (step, (_, pattern, other)) in STEPS.into_iter().enumerate() {
            for side in turns(round, SIDES.len()) {
                setting.pause();
                let server = &disks[usize::from(other)].servers[side];
                samples[step][side].push(server.fio(&job(pattern, mib * MIB, round)));
            }
        }
    }
    for ((what, ..), samples) in STEPS.into_iter().zip(&samples) {
        let ours = samples[0].median();
        for (side, samples) in SIDES.into_iter().zip(samples) {
            let ratio = format!("ireko: {:.2} x this", ours / samples.median());
            let ratio = if side == SIDES[0] { "" } else { &ratio };
            samples.print(&format!("{what}: {side}"), 1.0 / MIB as f64, "MiB/s", ratio);
        }
    }
}

fn job(pattern: &'static str, size: u64, seed: usize) -> Job {
    let (block, depth, amount) = match pattern.starts_with("rand") {
        false => (MIB, 4, size),
        true => (4 * KIB, 16, size / 8),
    };
    Job { pattern, block, depth, size, amount: Amount::Bytes(amount), seed }
}

/// New disks of all kinds, served.
struct Disks {
    servers: [Server; SIDES.len()],
}

impl Disks {
    fn new(setting: &Setting, number: usize, size: u64) -> Self {
        let path = |end: &str| setting.path(&format!("disk{number}-{end}.{end}"));
        let [vhdx, qcow2, raw] = ["vhdx", "qcow2", "raw"].map(path);
        remove(&[&vhdx, &qcow2, &raw]);
        vhdx::create(&vhdx, &CreateOptions::new(size)).expect("a new VHDX file");
        new_qcow2(&qcow2, size);
        File::create(&raw).and_then(|file| file.set_len(size)).expect("a new raw file");
        let servers = [
            Server::ireko(&vhdx, true),
            Server::qemu(&qcow2, "qcow2", true),
            Server::qemu(&raw, "raw", true),
        ];
        Self { servers }
    }
}

fn new_qcow2(path: &Path, size: u64) {
    let mut create = Command::new("qemu-img");
    run_program(create.args(["create", "-q", "-f", "qcow2"]).arg(path).arg(size.to_string())).ok();
}
