//! Flattening and merging against `cp` of as many bytes, and against qemu-img on a qcow2 chain with the same bytes.
//!
//! All are whole commands, from a cold cache to the end of a sync. What is merged in place is a copy made before.

use crate::layers::{Content, require_equal};
use crate::rounds::{Samples, time, turns};
use crate::setting::{MIB, Setting, remove};
use ireko_e2e::programs::{ireko, run as run_program};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One way to copy.
struct Way<'a> {
    what: &'a str,
    /// The file that as many bytes are copied as.
    like: &'a Path,
    prepare: &'a dyn Fn(),
    work: &'a dyn Fn(),
}

pub fn run(setting: &Setting) {
    let mib = setting.mib_or(512);
    println!(
        "copy: a base of {mib} MiB and two children of a third of that, cold, to the end of a sync"
    );
    let content = Content::thirds(mib);
    let vhdx = content.vhdx(setting.folder(), "layer");
    let qcow2 = content.qcow2(setting.folder(), "layer");
    require_equal(&vhdx[0], &qcow2[0]);

    let [flat, merged] = ["flat.vhdx", "merged.vhdx"].map(|name| setting.path(name));
    flatten(&vhdx[0], &flat);
    merge(&vhdx[0], &merged);
    let [new, new_vhdx, new_raw] = ["new", "new.vhdx", "new.raw"].map(|name| setting.path(name));
    let place = InPlace::new(setting);
    let nothing = || ();
    let ways = [
        Way {
            what: "cp of the flattened file",
            like: &flat,
            prepare: &nothing,
            work: &|| cp(&flat, &new),
        },
        Way {
            what: "ireko vhd flatten",
            like: &flat,
            prepare: &nothing,
            work: &|| flatten(&vhdx[0], &new_vhdx),
        },
        Way {
            what: "qemu-img convert to qcow2",
            like: &flat,
            prepare: &nothing,
            work: &|| convert(&qcow2[0], "qcow2", &new),
        },
        Way {
            what: "ireko vhd convert to raw",
            like: &flat,
            prepare: &nothing,
            work: &|| flatten_to_raw(&vhdx[0], &new_raw),
        },
        Way {
            what: "qemu-img convert to raw",
            like: &flat,
            prepare: &nothing,
            work: &|| convert(&qcow2[0], "raw", &new),
        },
        Way {
            what: "cp of the merged file",
            like: &merged,
            prepare: &nothing,
            work: &|| cp(&merged, &new),
        },
        Way {
            what: "ireko vhd merge --into, two layers",
            like: &merged,
            prepare: &nothing,
            work: &|| merge(&vhdx[0], &new_vhdx),
        },
        Way {
            what: "cp of the child",
            like: &vhdx[0],
            prepare: &nothing,
            work: &|| cp(&vhdx[0], &new),
        },
        Way {
            what: "ireko vhd merge, in place",
            like: &vhdx[0],
            prepare: &|| place.copy(&vhdx),
            work: &|| place.merge(),
        },
        Way {
            what: "qemu-img commit -d",
            like: &vhdx[0],
            prepare: &|| place.copy(&qcow2),
            work: &|| place.commit(),
        },
    ];
    let mut samples = vec![Samples::default(); ways.len()];
    for round in 0..setting.rounds {
        for turn in turns(round, ways.len()) {
            (ways[turn].prepare)();
            setting.cool();
            samples[turn].push(time(ways[turn].work));
            remove(&[&new, &new_vhdx, &new_raw]);
            place.clear();
        }
    }
    let mut cp = 0.0;
    for (way, samples) in ways.iter().zip(&samples) {
        let mib = fs::metadata(way.like).expect("the file").blocks() as f64 * 512.0 / MIB as f64;
        let median = samples.median();
        cp = if way.what.starts_with("cp") { median } else { cp };
        let remark = format!("{mib:.0} MiB at {:.0} MiB/s, {:.2} x cp", mib / median, cp / median);
        samples.print(way.what, 1.0, "s", &remark);
    }
}

fn cp(from: &Path, to: &Path) {
    run_program(Command::new("cp").args([from, to])).ok();
    sync(to);
}

fn flatten(chain: &Path, to: &Path) {
    vhd(["flatten".as_ref(), chain.as_os_str(), to.as_os_str()]);
}

fn flatten_to_raw(chain: &Path, to: &Path) {
    vhd(["convert".as_ref(), chain.as_os_str(), to.as_os_str()]);
}

fn merge(chain: &Path, to: &Path) {
    vhd(["merge".as_ref(), chain.as_os_str(), "--into".as_ref(), to.as_os_str()]);
}

/// What it makes is durable when it ends.
fn vhd<const N: usize>(words: [&OsStr; N]) {
    run_program(Command::new(ireko()).arg("vhd").args(words)).ok();
}

/// With 16 requests at once in any order, as its manual has it for speed.
fn convert(chain: &Path, format: &str, to: &Path) {
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-m", "16", "-W", "-t", "writeback", "-f", "qcow2", "-O", format]);
    run_program(convert.args([chain, to])).ok();
    sync(to);
}

fn sync(path: &Path) {
    File::open(path).and_then(|file| file.sync_data()).expect("sync the copy");
}

/// A folder with copies of a leaf and its parent, to be merged.
struct InPlace {
    folder: PathBuf,
}

impl InPlace {
    fn new(setting: &Setting) -> Self {
        let folder = setting.path("in-place");
        fs::create_dir(&folder).expect("a folder");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Copies leaf and parent of a chain of three and has them over the same base.
    fn copy(&self, chain: &[PathBuf]) {
        for path in chain {
            let to = self.path(&path.file_name().expect("a name").to_string_lossy());
            match chain.last() == Some(path) {
                true => fs::hard_link(path, to).expect("link the base"),
                false => drop(run_program(Command::new("cp").arg(path).arg(to)).ok()),
            }
        }
        if chain[0].ends_with("layer2.qcow2") {
            let mut rebase = Command::new("qemu-img");
            rebase.args(["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b"]);
            run_program(rebase.args([self.path("layer1.qcow2"), self.path("layer2.qcow2")])).ok();
        }
    }

    fn merge(&self) {
        vhd(["merge".as_ref(), self.path("layer2.vhdx").as_os_str()]);
    }

    fn commit(&self) {
        let mut commit = Command::new("qemu-img");
        commit.args(["commit", "-q", "-d", "-f", "qcow2", "-t", "writeback"]);
        run_program(commit.arg(self.path("layer2.qcow2"))).ok();
        sync(&self.path("layer1.qcow2"));
    }

    fn clear(&self) {
        for entry in fs::read_dir(&self.folder).expect("the folder") {
            fs::remove_file(entry.expect("an entry").path()).expect("remove a copy");
        }
    }
}
