//! Flattening and merging against `cp` of as many bytes: from a cold cache to the end of a sync.
//!
//! ```text
//!   IREKO_BENCH_DIR=/some/disk cargo bench -p ireko-disk --bench copy
//! ```
//! Prints medians and ratios of one run; asserts nothing. `IREKO_BENCH_MIB` sets how much is copied (2048),
//! `IREKO_BENCH_PAUSE` how many seconds a disk with a quota has to recover between runs (0). Dropping the
//! page cache takes root; without it, the cache is warm and the run says so.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk, MergeOptions, NewDisk, convert, merge};
use ireko_testkit::random::Random;

const MIB: u64 = 1 << 20;
const ROUNDS: u64 = 5;

fn main() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let mib = number("IREKO_BENCH_MIB").unwrap_or(2048);
    let rounds = number("IREKO_BENCH_ROUNDS").unwrap_or(ROUNDS);
    let pause = Duration::from_secs(number("IREKO_BENCH_PAUSE").unwrap_or(0));
    let place = std::env::var_os("IREKO_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(place).expect("a folder");
    let chain = chain(folder.path(), mib);
    let [flat, merged, target] =
        ["flat.vhdx", "merged.vhdx", "target"].map(|name| folder.path().join(name));
    flatten(&chain, &flat);
    merge_two(&chain, &merged);

    let runs: [(&str, &Path, &dyn Fn()); 5] = [
        ("cp of the flattened file", &flat, &|| copy(&flat, &target)),
        ("flatten", &flat, &|| flatten(&chain, &target)),
        ("flatten to raw", &flat, &|| flatten_to_raw(&chain, &target)),
        ("cp of the merged file", &merged, &|| copy(&merged, &target)),
        ("merge of two layers", &merged, &|| merge_two(&chain, &target)),
    ];
    let mut times: [Vec<Duration>; 5] = Default::default();
    for round in 0..rounds as usize {
        for turn in 0..runs.len() {
            // Disks that were busy for a while may be slower: each run is first, second, … in turn.
            let run = (round + turn) % runs.len();
            std::thread::sleep(pause);
            drop_caches();
            let start = Instant::now();
            runs[run].2();
            times[run].push(start.elapsed());
            fs::remove_file(&target).expect("remove the copy");
        }
    }
    let mut cp = 0.0;
    for ((what, file, _), mut times) in runs.into_iter().zip(times) {
        times.sort();
        let [best, median] = [times[0], times[times.len() / 2]].map(|time| time.as_secs_f64());
        cp = if what.starts_with("cp") { median } else { cp };
        let mib = (fs::metadata(file).expect("the file").blocks() * 512 / MIB) as f64;
        println!(
            "{what:<25} {mib:>6.0} MiB {median:>7.2} s, best {best:>6.2} s {:>6.0} MiB/s  {:.2} x cp",
            mib / median,
            cp / median
        );
    }
}

/// Three layers: a base, and two children that hide parts of it.
fn chain(folder: &Path, mib: u64) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for (name, block_mib) in [("base.vhdx", 32), ("middle.vhdx", 2), ("leaf.vhdx", 2)] {
        let path = folder.join(name);
        match paths.first() {
            None => vhdx::create(&path, &CreateOptions::new(2 * mib * MIB)),
            Some(parent) => {
                let options = ChildOptions { block_size: block_mib << 20, ..Default::default() };
                vhdx::create_child(&path, parent, r".\parent.vhdx", &options)
            }
        }
        .expect("a new layer");
        paths.insert(0, path);
        let disk = Chain::open(&paths, Access::ReadWrite).expect("the chain");
        let (mut random, mut bytes) = (Random::new(paths.len() as u64), vec![0; MIB as usize]);
        for at in 0..mib {
            // A child holds a third: every third run of 8 MiB.
            if paths.len() == 1 || at / 8 % 3 == paths.len() as u64 - 2 {
                random.fill(&mut bytes);
                disk.write_at(at * MIB, &bytes).expect("write");
            }
        }
        disk.close().expect("close");
    }
    paths
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").args([from, to]).status().expect("cp").success());
    File::open(to).and_then(|file| file.sync_data()).expect("sync the copy");
}

fn flatten(chain: &[PathBuf], to: &Path) {
    let disk = Chain::open(chain, Access::ReadOnly).expect("the chain");
    let options = CreateOptions::like(disk.geometry());
    convert(&disk, to, &NewDisk::Vhdx(options), &()).expect("flatten");
}

fn flatten_to_raw(chain: &[PathBuf], to: &Path) {
    let disk = Chain::open(chain, Access::ReadOnly).expect("the chain");
    convert(&disk, to, &NewDisk::Raw, &()).expect("flatten");
}

fn merge_two(chain: &[PathBuf], to: &Path) {
    merge::into_new(chain, 2, to, &MergeOptions::default(), &()).expect("merge");
}

fn drop_caches() {
    rustix::fs::sync();
    let dropped = File::options()
        .write(true)
        .open("/proc/sys/vm/drop_caches")
        .and_then(|mut file| file.write_all(b"3"));
    if let Err(error) = dropped {
        println!("the cache is warm: {error}");
    }
}
