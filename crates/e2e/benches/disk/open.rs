//! Opening a chain of 64 layers, each 1 TiB virtual with some data: how long, and how much of the files is read.

use crate::layers::Content;
use crate::rounds::{Samples, time, turns};
use crate::setting::{KIB, Setting, TIB};
use ireko_disk::{Access, Chain, Disk, FileStorage, Lock, Storage, find_chain};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const DEPTH: usize = 64;

pub fn run(setting: &Setting) {
    let mib = setting.mib_or(64).max(DEPTH as u64);
    println!("open: {DEPTH} layers of 1 TiB, {} MiB of data in each", mib / DEPTH as u64);
    let content = Content::sparse(TIB, mib, DEPTH);
    let many = content.vhdx(setting.folder(), "layer");
    let one = many[DEPTH - 1..].to_vec();
    let written = content.in_base();
    for (cache, cool) in [("warm", false), ("cold", true)] {
        println!("   {cache}:");
        measure(setting, &[one.clone(), many.clone()], cool, written);
    }
    for (name, chain) in [("1 layer", &one), ("64 layers", &many)] {
        let counted = Counted::open(chain);
        let disk = Chain::over(counted.storages(), Access::ReadOnly).expect("the chain");
        counted.print(&format!("read to open {name}"));
        disk.read_at(written, &mut [0; 4096]).expect("read");
        counted.print(&format!("read to open and read 4 KiB, {name}"));
    }
}

fn measure(setting: &Setting, chains: &[Vec<PathBuf>; 2], cool: bool, written: u64) {
    let steps = ["find the files by their links", "open", "first read of 4 KiB"];
    let mut samples: [[Samples; 2]; 3] = Default::default();
    for round in 0..setting.rounds {
        for side in turns(round, 2) {
            if cool {
                setting.cool();
            }
            let leaf = &chains[side][0];
            samples[0][side].push(time(|| drop(find_chain(leaf, &[]).expect("the files"))));
            if cool {
                setting.cool();
            }
            let open = || Chain::open(&chains[side], Access::ReadOnly).expect("the chain");
            let mut disk = None;
            samples[1][side].push(time(|| disk = Some(open())));
            let read = |disk: Chain| disk.read_at(written, &mut [0; 4096]).expect("read");
            samples[2][side].push(time(|| disk.take().into_iter().for_each(read)));
        }
    }
    for (step, [one, many]) in steps.iter().zip(&samples) {
        one.print(&format!("{step}, 1 layer"), 1e3, "ms", "");
        let ratio = many.median() / one.median();
        many.print(
            &format!("{step}, {DEPTH} layers"),
            1e3,
            "ms",
            &format!("{ratio:.1} x one layer"),
        );
    }
}

/// Files that count what is read of them together.
struct Counted {
    files: Vec<Arc<CountedFile>>,
}

struct CountedFile {
    file: FileStorage,
    reads: AtomicU64,
    bytes: AtomicU64,
}

impl Counted {
    fn open(paths: &[PathBuf]) -> Self {
        let open = |path: &PathBuf| {
            let file = FileStorage::open(path, Lock::Read).expect("the file");
            Arc::new(CountedFile { file, reads: AtomicU64::new(0), bytes: AtomicU64::new(0) })
        };
        Self { files: paths.iter().map(open).collect() }
    }

    fn storages(&self) -> Vec<Arc<dyn Storage>> {
        self.files.iter().map(|file| file.clone() as Arc<dyn Storage>).collect()
    }

    fn print(&self, what: &str) {
        let sum = |counter: fn(&CountedFile) -> &AtomicU64| -> u64 {
            self.files.iter().map(|file| counter(file).load(Ordering::Relaxed)).sum()
        };
        let (reads, bytes) = (sum(|file| &file.reads), sum(|file| &file.bytes));
        println!("   {what:<50} {:>8} KiB     in {reads} reads", bytes.div_ceil(KIB));
    }
}

impl Storage for CountedFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.file.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        self.file.punch_hole(offset, length)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.file.next_data(offset)
    }
}
