//! Random reads of 4 KiB through a chain of 64 layers, beside a disk of one layer with the same bytes.
//!
//! All files are in the page cache: what is measured is how a layer is found, and what a request costs.

use crate::layers::{Content, UNIT, require_equal};
use crate::rounds::{Samples, time, turns};
use crate::server::{Amount, Job, Server};
use crate::setting::{KIB, MIB, Setting};
use ireko_disk::{Access, Chain, Disk, Held};
use ireko_testkit::random::Random;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const DEPTHS: [usize; 2] = [1, 64];
const READ: u64 = 4 * KIB;
const READS: u64 = 200_000;

pub fn run(setting: &Setting) {
    let mib = setting.mib_or(1024);
    println!("depth: random reads of 4 KiB, warm, {mib} MiB in 1 and in 64 layers");
    let contents = DEPTHS.map(|depth| Content::full(mib, depth));
    let name = |content: usize| format!("of{}-", DEPTHS[content]);
    let vhdx = [0, 1].map(|it| contents[it].vhdx(setting.folder(), &name(it)));
    let qcow2 = [0, 1].map(|it| contents[it].qcow2(setting.folder(), &name(it)));
    for it in [0, 1] {
        require_equal(&vhdx[it][0], &qcow2[it][0]);
    }
    in_process(setting, &vhdx, mib);
    by_nbd(setting, &vhdx, &qcow2, mib);
}

/// Fills a buffer with what lies at an offset of a disk.
type Read<'a> = dyn Fn(u64, &mut [u8]) + 'a;

/// Beside the engine, the same bytes by `pread` from the files they lie in, at places known before: what no engine can do without.
fn in_process(setting: &Setting, chains: &[Vec<PathBuf>; 2], mib: u64) {
    let disks = [0, 1].map(|it| Chain::open(&chains[it], Access::ReadOnly).expect("the chain"));
    let places = [0, 1].map(|it| Places::of(&disks[it], &chains[it], mib));
    let sides: [&Read; 4] = [
        &|at, bytes| disks[0].read_at(at, bytes).expect("read"),
        &|at, bytes| disks[1].read_at(at, bytes).expect("read"),
        &|at, bytes| places[0].read(at, bytes),
        &|at, bytes| places[1].read(at, bytes),
    ];
    let mut samples: [Samples; 4] = Default::default();
    for side in sides {
        read_anywhere(side, mib, 0);
    }
    for round in 0..setting.rounds {
        for side in turns(round, sides.len()) {
            let took = time(|| read_anywhere(sides[side], mib, round as u64));
            samples[side].push(READS as f64 / took);
        }
    }
    print("in process, 1 thread", &samples[0], &samples[1]);
    print("pread of the same, 1 thread", &samples[2], &samples[3]);
}

fn read_anywhere(read: &Read, mib: u64, seed: u64) {
    let (mut random, mut bytes) = (Random::new(seed), [0; READ as usize]);
    for _ in 0..READS {
        read(random.below(mib * MIB / READ) * READ, &mut bytes);
    }
}

/// Where each unit of a disk lies.
struct Places {
    files: Vec<File>,
    /// Number of the file and offset in it.
    units: Vec<(usize, u64)>,
}

impl Places {
    fn of(disk: &Chain, paths: &[PathBuf], mib: u64) -> Self {
        let place = |unit: u64| match disk.stretches(unit * UNIT, UNIT, 1).expect("a map")[0].held {
            Held::In { layer, at } => (layer, at),
            _ => unreachable!("every unit is in a layer"),
        };
        let files = paths.iter().map(|path| File::open(path).expect("a layer")).collect();
        Self { files, units: (0..mib * MIB / UNIT).map(place).collect() }
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) {
        let (file, at) = self.units[(offset / UNIT) as usize];
        self.files[file].read_exact_at(bytes, at + offset % UNIT).expect("read");
    }
}

fn by_nbd(setting: &Setting, vhdx: &[Vec<PathBuf>; 2], qcow2: &[Vec<PathBuf>; 2], mib: u64) {
    let servers = [
        Server::ireko(&vhdx[0][0], false),
        Server::ireko(&vhdx[1][0], false),
        Server::qemu(&qcow2[0][0], "qcow2", false),
        Server::qemu(&qcow2[1][0], "qcow2", false),
    ];
    for queue in [1, 16] {
        let mut samples: [Samples; 4] = Default::default();
        for round in 0..setting.rounds {
            for side in turns(round, servers.len()) {
                let job = Job {
                    pattern: "randread",
                    block: READ,
                    depth: queue,
                    size: mib * MIB,
                    amount: Amount::Seconds(2),
                    seed: round,
                };
                samples[side].push(servers[side].fio(&job) / READ as f64);
            }
        }
        print(&format!("ireko vhd serve, queue of {queue}"), &samples[0], &samples[1]);
        print(&format!("qemu-nbd, qcow2, queue of {queue}"), &samples[2], &samples[3]);
        let beside = samples[1].median() / samples[3].median();
        println!("   {:<50} {beside:>8.2} x qemu-nbd", "64 layers by ireko");
    }
}

fn print(what: &str, one: &Samples, many: &Samples) {
    one.print(&format!("{what}, 1 layer"), 1e-3, "k/s", "");
    let ratio = format!("{:.2} x one layer", many.median() / one.median());
    many.print(&format!("{what}, 64 layers"), 1e-3, "k/s", &ratio);
}
