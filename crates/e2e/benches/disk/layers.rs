//! Chains of layers with the same bytes, ours as VHDX and QEMU's as qcow2.

use crate::setting::{KIB, MIB};
use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk, relative_parent_path};
use ireko_e2e::programs::{ireko, run};
use ireko_testkit::random::Random;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes that lie together in a layer, anywhere else than their neighbours: qcow2's cluster, so that it copies nothing.
pub const UNIT: u64 = 64 * KIB;

/// What each layer of a chain holds.
pub struct Content {
    virtual_size: u64,
    /// Bytes in a unit.
    unit: u64,
    /// Numbers of units, by layer, base first. Each is filled with a byte of its own.
    layers: Vec<Vec<u64>>,
}

impl Content {
    /// Every unit of the disk, each in any one of the layers.
    pub fn full(mib: u64, depth: usize) -> Self {
        let (mut random, unit) = (Random::new(64), UNIT);
        let mut layers = vec![Vec::new(); depth];
        for number in 0..mib * MIB / unit {
            layers[random.below(depth as u64) as usize].push(number);
        }
        Self { virtual_size: mib * MIB, unit, layers }
    }

    /// As many units in each layer, anywhere on the disk.
    pub fn sparse(virtual_size: u64, mib: u64, depth: usize) -> Self {
        let (mut random, unit) = (Random::new(1), UNIT);
        let each = mib * MIB / unit / depth as u64;
        let mut layer = || {
            let mut units: Vec<u64> =
                (0..each).map(|_| random.below(virtual_size / unit)).collect();
            units.sort_unstable();
            units
        };
        let layers = (0..depth).map(|_| layer()).collect();
        Self { virtual_size, unit, layers }
    }

    /// Half of a disk in the base, of which two children each hide a third: every third run of 8 MiB.
    pub fn thirds(mib: u64) -> Self {
        let third = |which| (0..mib).filter(|at| at / 8 % 3 == which).collect();
        let layers = vec![(0..mib).collect(), third(0), third(1)];
        Self { virtual_size: 2 * mib * MIB, unit: MIB, layers }
    }

    /// Where the base has data, in bytes of the disk.
    pub fn in_base(&self) -> u64 {
        self.layers[0][0] * self.unit
    }

    /// Makes the VHDX files; leaf first.
    pub fn vhdx(&self, folder: &Path, name: &str) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for (number, units) in self.layers.iter().enumerate() {
            let path = folder.join(format!("{name}{number}.vhdx"));
            match paths.first() {
                None => vhdx::create(&path, &CreateOptions::new(self.virtual_size)),
                Some(parent) => {
                    let link = relative_parent_path(&path, parent).expect("a relative path");
                    vhdx::create_child(&path, parent, &link, &ChildOptions::default())
                }
            }
            .expect("a new layer");
            paths.insert(0, path);
            let disk = Chain::open(&paths, Access::ReadWrite).expect("the chain");
            for &unit in units {
                let bytes = vec![fill(number, unit); self.unit as usize];
                disk.write_at(unit * self.unit, &bytes).expect("write");
            }
            disk.close().expect("close");
        }
        paths
    }

    /// Makes the qcow2 files; leaf first.
    pub fn qcow2(&self, folder: &Path, name: &str) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for (number, units) in self.layers.iter().enumerate() {
            let path = folder.join(format!("{name}{number}.qcow2"));
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", "qcow2"]);
            if let Some(parent) = paths.first() {
                create.args(["-F", "qcow2", "-b"]).arg(parent);
            }
            run(create.arg(&path).arg(self.virtual_size.to_string())).ok();
            // Commands that come by standard input take qemu-io three times as long.
            let mut qemu_io = Command::new("qemu-io");
            qemu_io.args(["-t", "unsafe", "-f", "qcow2"]).arg(&path);
            for &unit in units {
                let (byte, at) = (fill(number, unit), unit * self.unit);
                qemu_io.args(["-c", &format!("write -q -P {byte} {at} {}", self.unit)]);
            }
            run(&mut qemu_io).ok();
            paths.insert(0, path);
        }
        paths
    }
}

/// Panics unless both disks read the same. Leaves their files in the page cache.
pub fn require_equal(vhdx: &Path, qcow2: &Path) {
    let compare = "qemu-img compare -f raw -F qcow2 \"$IREKO_NBD_URI\" \"$0\"";
    let mut served = Command::new(ireko());
    served.args(["vhd", "serve"]).arg(vhdx).args(["--", "sh", "-c", compare]).arg(qcow2);
    run(&mut served).ok();
}

/// Never zero: zeros take no space.
fn fill(layer: usize, unit: u64) -> u8 {
    ((layer as u64 * 37 + unit) % 255 + 1) as u8
}
