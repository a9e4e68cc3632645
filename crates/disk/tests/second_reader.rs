//! A second reader, written from the format's description alone, finds in our files what we find.
//!
//! `witness/vhdx_reader.py` shares no line with this crate, refuses whatever the format forbids, and is the one
//! outside reader that replays the logs of children. With `IREKO_SOAK` set, more and larger disks.

mod outside;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions, Provision};
use ireko_disk::{Access, Chain, Disk, Storage};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Damage, Image};
use outside::{MIB, has, hash_of_range, sample, save, soaking, text};

fn second_reader(arguments: &[&str]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/witness/vhdx_reader.py");
    Command::new("python3").arg(script).args(arguments).output().unwrap()
}

/// What the second reader says is the sha256 of a range of the disk.
#[track_caller]
fn hash_by_second_reader(paths: &[PathBuf], range: &Range<u64>) -> String {
    let part = format!("--range={}:{}", range.start, range.end - range.start);
    let paths = paths.iter().map(|path| text(path));
    let output = second_reader(&[&[part.as_str()][..], &paths.collect::<Vec<_>>()].concat());
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// How a writer leaves its file.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Closed,
    /// Flushed, and then it loses power: what the last flush changed is in the log only.
    Dirty,
    /// It loses power at any moment.
    Cut,
}

/// Files of a chain, built layer by layer.
struct Layers {
    size: u64,
    sector: u32,
    /// How the base gets its space.
    provision: Provision,
    /// Leaf first.
    images: Vec<Image>,
    random: Random,
}

impl Layers {
    fn new(size: u64, sector: u32) -> Self {
        let random = Random::new(size ^ u64::from(sector));
        Self { size, sector, provision: Provision::Dynamic, images: Vec::new(), random }
    }

    fn storages(&self) -> Vec<Arc<dyn Storage>> {
        let storage = |image: &Image| Arc::new(CrashStorage::new(image.clone())) as _;
        self.images.iter().map(storage).collect()
    }

    /// The places worth a look: a small disk, or both ends and the border of the first chunk.
    fn windows(&self) -> Vec<Range<u64>> {
        let (chunk, reach) = (u64::from(self.sector) << 23, 24 * MIB);
        match self.size > 256 * MIB {
            true => {
                let border = chunk - reach..(chunk + reach).min(self.size);
                vec![0..reach, border, self.size - reach..self.size]
            }
            false => std::iter::once(0..self.size).collect(),
        }
    }

    /// Adds a leaf, changes the disk through it, and lets go of it.
    fn add(&mut self, block_mib: u32, ending: Ending) {
        let new = CrashStorage::default();
        let block_size = block_mib << 20;
        if self.images.is_empty() {
            let options = CreateOptions {
                block_size,
                logical_sector: self.sector,
                provision: self.provision,
                ..CreateOptions::new(self.size)
            };
            vhdx::format(&new, &options).unwrap();
        } else {
            let parent =
                Chain::over(self.storages(), Access::ReadOnly).unwrap().identity().unwrap();
            let path = format!(r".\{}", file_name(self.images.len() - 1));
            vhdx::format_child(
                &new,
                &parent,
                &path,
                &ChildOptions { block_size, ..Default::default() },
            )
            .unwrap();
        }
        let leaf = Arc::new(CrashStorage::new(new.image()));
        let storages = std::iter::once(leaf.clone() as Arc<dyn Storage>).chain(self.storages());
        let disk = Chain::over(storages.collect(), Access::ReadWrite).unwrap();
        self.change(&disk, u64::from(block_size));
        let random = &mut self.random;
        let image = match ending {
            Ending::Closed => {
                disk.close().unwrap();
                leaf.image()
            }
            Ending::Dirty => {
                disk.flush().unwrap();
                let trace = leaf.trace();
                trace.cut(trace.positions(), Damage::LosesAll, random)
            }
            Ending::Cut => {
                let trace = leaf.trace();
                let damage = Damage::ALL[random.below(Damage::ALL.len() as u64) as usize];
                trace.cut(random.below(trace.positions() as u64 + 1) as usize, damage, random)
            }
        };
        self.images.insert(0, image);
    }

    /// Writes, zeroes and discards: parts of sectors, across blocks, whole blocks.
    fn change(&mut self, disk: &Chain, block: u64) {
        let (windows, random) = (self.windows(), &mut self.random);
        for _ in 0..50 {
            let window = windows[random.below(windows.len() as u64) as usize].clone();
            let mut at = window.start + random.below(window.end - window.start);
            let mut length = match random.below(4) {
                0 => random.below(600) + 1,
                1 => (random.below(64) + 1) * 4096,
                2 => random.below(3 * MIB / 2) + 1,
                _ => block,
            };
            if length == block {
                at -= at % block;
            }
            length = length.min(self.size - at);
            match random.below(8) {
                0 => disk.flush().unwrap(),
                1 | 2 => disk.write_zeroes(at, length).unwrap(),
                3 | 4 => disk.discard(at, length).unwrap(),
                _ => {
                    let mut data = vec![0; length.min(4 * MIB) as usize];
                    random.fill(&mut data);
                    disk.write_at(at, &data).unwrap();
                }
            }
        }
    }

    /// Writes the files, leaf first.
    fn save(&self, folder: &Path) -> Vec<PathBuf> {
        let count = self.images.len();
        let path = |index: usize| folder.join(file_name(count - 1 - index));
        let paths: Vec<PathBuf> = (0..count).map(path).collect();
        self.images.iter().zip(&paths).for_each(|(image, path)| save(image, path));
        paths
    }

    /// Compares what the two readers find; returns how many of the files have a log to replay.
    #[track_caller]
    fn check(&self, ranges: &[Range<u64>]) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let paths = self.save(folder.path());
        let disk = Chain::open(&paths, Access::ReadOnly).unwrap();
        for range in ranges {
            let what = format!("{range:x?}, {} layers, sectors of {}", paths.len(), self.sector);
            let expected = hash_of_range(&disk, range.clone());
            assert_eq!(hash_by_second_reader(&paths, range), expected, "{what}");
        }
        paths.iter().filter(|path| vhdx::info(path).unwrap().dirty_log).count()
    }
}

fn file_name(level: usize) -> String {
    format!("layer_{level}.vhdx")
}

/// Compares chains of one to four layers; `blocks` are the layers' block sizes in MiB, base first. The base is a fixed
/// disk where the size is no multiple of a MiB.
#[track_caller]
fn chains_read_alike(size: u64, sector: u32, blocks: [u32; 4], ending: Ending) {
    let mut layers = Layers::new(size, sector);
    let is_fixed = !size.is_multiple_of(MIB);
    if is_fixed {
        layers.provision = Provision::Fixed { preallocate: false };
    }
    for (level, block_mib) in blocks.into_iter().enumerate() {
        layers.add(block_mib, ending);
        let dirty = layers.check(&layers.windows());
        match ending {
            Ending::Closed => assert_eq!(dirty, 0),
            // Writing to a fixed disk changes no metadata.
            Ending::Dirty => assert_eq!(dirty, level + usize::from(!is_fixed)),
            Ending::Cut => {}
        }
    }
}

const SMALL: [(u64, u32, [u32; 4]); 4] = [
    (100 * MIB, 512, [32, 2, 1, 8]),
    (37 * MIB + 512, 512, [1, 32, 8, 2]),
    (64 * MIB, 4096, [8, 1, 2, 32]),
    (41 * MIB + 4096, 4096, [2, 8, 32, 1]),
];

#[test]
fn chains_closed_cleanly_read_alike() {
    if has("python3") {
        for (size, sector, blocks) in SMALL {
            chains_read_alike(size, sector, blocks, Ending::Closed);
        }
    }
}

#[test]
fn chains_in_which_every_layer_is_dirty_read_alike() {
    if has("python3") {
        for (size, sector, blocks) in SMALL {
            chains_read_alike(size, sector, blocks, Ending::Dirty);
        }
    }
}

#[test]
fn chains_read_alike_wherever_their_writers_lost_power() {
    if !has("python3") {
        return;
    }
    for round in 0..if soaking() { 200 } else { 12 } {
        let (sector, blocks) = if round % 3 == 0 { (4096, [1, 2]) } else { (512, [2, 1]) };
        let mut layers = Layers::new(10 * MIB + round * 4096, sector);
        blocks.iter().for_each(|&block_mib| layers.add(block_mib, Ending::Cut));
        layers.check(&layers.windows());
    }
}

#[test]
fn disks_of_several_chunks_read_alike() {
    if !has("python3") {
        return;
    }
    for (size, sector, blocks) in [
        ((4 << 30) + 40 * MIB, 512, [2, 1, 8, 32]),
        ((32 << 30) + 40 * MIB + 4096, 4096, [32, 8, 1, 2]),
    ] {
        for ending in [Ending::Closed, Ending::Dirty] {
            let mut layers = Layers::new(size, sector);
            blocks.iter().for_each(|&block_mib| layers.add(block_mib, ending));
            layers.check(&layers.windows());
            if soaking() {
                layers.check(std::slice::from_ref(&(0..size)));
            }
        }
    }
}

#[test]
fn the_samples_read_as_listed() {
    if !has("python3") {
        return;
    }
    for from in [outside::OF_HYPER_V, outside::OF_DISK2VHD, outside::DIRTY, outside::SWAP] {
        let folder = tempfile::tempdir().unwrap();
        if let Some(path) = sample(from, folder.path()) {
            let size = vhdx::info(&path).unwrap().geometry.virtual_size;
            assert_eq!(hash_by_second_reader(&[path], &(0..size)), from.hash, "{}", from.name);
        }
    }
}

/// A judge who lets everything pass is none.
#[test]
fn the_second_reader_refuses_what_is_wrong() {
    if !has("python3") {
        return;
    }
    let mut layers = Layers::new(10 * MIB, 512);
    layers.add(1, Ending::Closed);
    layers.add(1, Ending::Dirty);
    let other = Layers { images: vec![layers.images[1].clone()], ..Layers::new(10 * MIB, 512) };
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (paths, other) = (layers.save(here.path()), other.save(elsewhere.path()));
    let [leaf, base] = [0, 1].map(|index| text(&paths[index]));
    assert!(second_reader(&[leaf, base]).status.success());

    let refused = |arguments: &[&str], complaint: &str| {
        let output = second_reader(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(complaint), "{said}");
    };
    refused(&[leaf], "the parent is not given");
    refused(&[base, leaf], "has no parent");
    let written = Chain::open(&other, Access::ReadWrite).unwrap();
    written.write_at(0, b"x").unwrap();
    written.close().unwrap();
    refused(&[leaf, text(&other[0])], "another version");
    // Its log.
    let torn = here.path().join("torn.vhdx");
    let mut image = layers.images[0].clone();
    image.punch(MIB, 4 * MIB);
    save(&image, &torn);
    refused(&[text(&torn), base], "no valid sequence");
}
