//! Random chains, and what to compare them by.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use ireko_disk::{Access, Chain, Disk, FileStorage, Format, Lock, Storage, Watch, vhd, vhdx};
use ireko_testkit::CrashStorage;
use ireko_testkit::random::Random;

pub const MIB: u64 = 1 << 20;

/// A folder in memory where there is such a place: the tests are not about the host's disk.
pub fn folder() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let folder = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    folder.unwrap()
}

/// What a chain looks like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub format: Format,
    pub size: u64,
    pub sector: u32,
    /// Bytes in a block of each layer, base first.
    pub blocks: Vec<u32>,
    /// Changes made to each layer.
    pub changes: usize,
}

impl Shape {
    /// A disk that ends in the middle of a block, and blocks of any size.
    pub fn random(random: &mut Random, format: Format, depth: usize) -> Self {
        let sector = if format == Format::Vhdx && random.one_in(4) { 4096 } else { 512 };
        let size = 9 * MIB + random.below(4 * MIB / 4096) * 4096;
        let smallest = if format == Format::Vhdx { 20 } else { 19 };
        let blocks = (0..depth).map(|_| 1 << (smallest + random.below(4))).collect();
        Self { format, size, sector, blocks, changes: 8 }
    }

    /// The name of a layer's file; they count from the base up.
    pub fn name(&self, layer: usize) -> String {
        format!("layer{layer}.{}", self.format.to_string().to_lowercase())
    }

    /// Makes the files, leaf first, in a folder, and changes each at random.
    pub fn make(&self, folder: &Path, random: &mut Random) -> Vec<PathBuf> {
        self.make_with(folder, |_, disk| (0..self.changes).for_each(|_| change(disk, random)))
    }

    /// Makes the files, leaf first, in a folder. Each is filled before it has a child; they count from the base up.
    pub fn make_with(&self, folder: &Path, mut fill: impl FnMut(usize, &Chain)) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for (layer, &block_size) in self.blocks.iter().enumerate() {
            let path = folder.join(self.name(layer));
            let file = FileStorage::create(&path).unwrap();
            match paths.first() {
                None => self.format_base(&file, block_size),
                Some(parent) => {
                    let parent = Arc::new(FileStorage::open(parent, Lock::Read).unwrap());
                    self.format_child(&file, parent, &self.name(layer - 1), block_size);
                }
            }
            drop(file);
            paths.insert(0, path);
            let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
            fill(layer, &disk);
            disk.close().unwrap();
        }
        paths
    }

    /// Makes the files, leaf first, in memory.
    pub fn make_in_memory(&self, random: &mut Random) -> Vec<Arc<CrashStorage>> {
        let mut files = Vec::new();
        self.blocks.iter().for_each(|&block| self.add_in_memory(&mut files, block, random));
        files
    }

    /// Puts a layer on top of files in memory, and changes it.
    pub fn add_in_memory(
        &self,
        files: &mut Vec<Arc<CrashStorage>>,
        block_size: u32,
        random: &mut Random,
    ) {
        let file = Arc::new(CrashStorage::default());
        match files.first() {
            None => self.format_base(&*file, block_size),
            Some(parent) => self.format_child(&*file, parent.clone(), "parent", block_size),
        }
        files.insert(0, file);
        let disk = over(files, Access::ReadWrite);
        (0..self.changes).for_each(|_| change(&disk, random));
        disk.close().unwrap();
    }

    fn format_base(&self, file: &dyn Storage, block_size: u32) {
        let (size, logical_sector) = (self.size, self.sector);
        match self.format {
            Format::Vhdx => {
                let options = vhdx::CreateOptions::new(size);
                let options = vhdx::CreateOptions { block_size, logical_sector, ..options };
                vhdx::format(file, &options).unwrap();
            }
            _ => {
                let options = vhd::CreateOptions::new(size);
                vhd::format(file, &vhd::CreateOptions { block_size, ..options }).unwrap();
            }
        }
    }

    fn format_child(
        &self,
        file: &dyn Storage,
        parent: Arc<dyn Storage>,
        parent_name: &str,
        block_size: u32,
    ) {
        let path = format!(r".\{parent_name}");
        match self.format {
            Format::Vhdx => {
                let parent = vhdx::ParentIdentity::of(parent).unwrap();
                let options = vhdx::ChildOptions { block_size, ..Default::default() };
                vhdx::format_child(file, &parent, &path, &options).unwrap();
            }
            _ => {
                let parent = vhd::ParentIdentity::of(parent, SystemTime::UNIX_EPOCH).unwrap();
                let options = vhd::ChildOptions { block_size, ..Default::default() };
                vhd::format_child(file, &parent, &path, &options).unwrap();
            }
        }
    }
}

/// Writes, zeroes or discards something, at block borders more often than not.
pub fn change(disk: &dyn Disk, random: &mut Random) {
    let size = disk.geometry().virtual_size;
    let at = match random.one_in(3) {
        true => random.below(size),
        false => random.below(size / MIB) * MIB + random.below(3) * 512,
    };
    let length = match random.below(4) {
        0 => random.below(3 * MIB),
        1 => (random.below(3) + 1) * MIB,
        _ => random.below(20_000),
    };
    let length = (length + 1).min(size - at);
    match random.below(8) {
        0 => disk.write_zeroes(at, length).unwrap(),
        1 => disk.discard(at, length).unwrap(),
        2 => disk.write_at(at, &vec![0; length as usize]).unwrap(),
        _ => {
            let mut data = vec![0; length as usize];
            random.fill(&mut data);
            disk.write_at(at, &data).unwrap();
        }
    }
}

/// Opens storages as a chain, leaf first.
pub fn over(files: &[Arc<CrashStorage>], access: Access) -> Chain {
    Chain::over(storages(files), access).unwrap()
}

pub fn storages(files: &[Arc<CrashStorage>]) -> Vec<Arc<dyn Storage>> {
    files.iter().map(|file| file.clone() as _).collect()
}

pub fn bytes(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xEE; disk.geometry().virtual_size as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

/// What the chain of these files reads, leaf first.
pub fn bytes_of(paths: &[PathBuf]) -> Vec<u8> {
    bytes(&Chain::open(paths, Access::ReadOnly).unwrap())
}

/// Fails at the first byte that differs, instead of printing all of them.
#[track_caller]
pub fn assert_same(found: &[u8], expected: &[u8], context: &str) {
    assert_eq!(found.len(), expected.len(), "{context}");
    if let Some(at) = (0..found.len()).find(|&at| found[at] != expected[at]) {
        panic!("{context}: byte {at:#x} is {:#x}, should be {:#x}", found[at], expected[at]);
    }
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Stops an operation after so many bytes; progress must not go back.
pub struct Impatient {
    limit: u64,
    seen: AtomicU64,
}

impl Impatient {
    pub fn after(limit: u64) -> Self {
        Self { limit, seen: AtomicU64::new(0) }
    }

    pub fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

impl Watch for Impatient {
    fn advanced(&self, done: u64, total: u64) {
        let before = self.seen.swap(done, Ordering::Relaxed);
        assert!(before <= done && done <= total, "{before}, {done} of {total}");
    }

    fn cancelled(&self) -> bool {
        self.seen() >= self.limit
    }
}

pub fn soak() -> u64 {
    std::env::var("IREKO_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}
