//! What the disk engine costs, beside what is usual: `cp`, qemu-img and qemu-nbd.
//!
//! ```text
//!   cargo bench -p ireko-e2e --bench disk [-- depth nbd copy snapshot open memory]     (or `make bench`)
//! ```
//! Prints medians and ratios of one run; asserts nothing. In each round every side has its turn, and each round
//! begins with another side, so that a machine that gets slower does so for all.
//!
//! | variable | what it sets | if unset |
//! |---|---|---|
//! | `IREKO_BENCH_DIR` | where the files are made | the folder for temporary files |
//! | `IREKO_BENCH_MIB` | MiB of data in a section's disks | what each section says |
//! | `IREKO_BENCH_ROUNDS` | rounds | 5 |
//! | `IREKO_BENCH_PAUSE` | seconds that a disk with a quota has to recover before each run | 0 |
//! | `IREKO_BIN` | the `ireko` to measure | a debug build |
//!
//! Needs fio, GNU time and QEMU's tools. Dropping the page cache takes root; without it the cache is warm, and the run says so.

mod copy;
mod depth;
mod layers;
mod memory;
mod nbd;
mod open;
mod rounds;
mod server;
mod setting;
mod snapshot;

use setting::Setting;
use std::process::ExitCode;
use std::time::Instant;

/// A section's name and what runs it.
type Section = (&'static str, fn(&Setting));

const SECTIONS: [Section; 6] = [
    ("depth", depth::run),
    ("nbd", nbd::run),
    ("copy", copy::run),
    ("snapshot", snapshot::run),
    ("open", open::run),
    ("memory", memory::run),
];

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if let Some(unknown) = wanted.iter().find(|word| SECTIONS.iter().all(|(name, _)| name != word))
    {
        eprintln!("no section {unknown}; there are {}", SECTIONS.map(|(name, _)| name).join(" "));
        return ExitCode::FAILURE;
    }
    for (name, run) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            let began = Instant::now();
            run(&Setting::for_section(name));
            println!("   ({name} took {:.0} s)\n", began.elapsed().as_secs_f64());
        }
    }
    ExitCode::SUCCESS
}
