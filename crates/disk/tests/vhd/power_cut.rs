//! Power cuts: whatever a flush acknowledged is there, and every other sector is old or new.
//!
//! The cut comes after every single write of a workload, and what was not synced is kept, lost, torn and reordered.
//! `IREKO_SOAK=n` runs n times as many workloads.

use std::sync::Arc;
use std::thread;

use ireko_disk::{Access, Chain, Disk, Storage};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Damage, Image, Trace};

use crate::support::{MIB, SECTOR, changed, child_of, dynamic, fixed, formatted};

const BLOCK: u64 = 512 << 10;

/// A sector's content: zeros, or one number repeated.
type Stamp = u64;

/// What was done to a disk on storage that is about to lose power.
struct Workload {
    trace: Trace,
    /// Per sector: number of the operation, position in the trace when it began, what it wrote.
    history: Vec<Vec<(usize, usize, Stamp)>>,
    /// Per flush: number of the operation, position in the trace when it was acknowledged.
    flushes: Vec<(usize, usize)>,
    parents: Vec<Image>,
    footer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Fixed,
    Dynamic,
    Child,
}

fn filled(stamp: Stamp, length: usize) -> Vec<u8> {
    stamp.to_le_bytes().iter().copied().cycle().take(length).collect()
}

fn stamp_of(bytes: &[u8]) -> Stamp {
    Stamp::from_le_bytes(bytes[..8].try_into().unwrap())
}

fn chain(leaf: Arc<CrashStorage>, parents: &[Image], access: Access) -> ireko_disk::Result<Chain> {
    let parents = parents.iter().map(|image| Arc::new(CrashStorage::new(image.clone())) as _);
    Chain::over(std::iter::once(leaf as Arc<dyn Storage>).chain(parents).collect(), access)
}

/// The last 512 bytes. Were they the guest's at any moment, it could plant a footer there.
fn footer(image: &Image) -> Vec<u8> {
    let mut footer = vec![0; 512];
    image.read(image.length() - 512, &mut footer).unwrap();
    footer
}

/// A base with every other MiB filled, closed cleanly.
fn base(size: u64) -> (Image, Vec<Stamp>) {
    let mut images = [formatted(&dynamic(size, BLOCK as u32))];
    let mut stamps = vec![0; size as usize / SECTOR];
    changed(&mut images, |disk| {
        for (index, stamp) in stamps.iter_mut().enumerate() {
            let at = (index * SECTOR) as u64;
            if (at / MIB).is_multiple_of(2) {
                *stamp = 1 << 32 | index as u64;
                disk.write_at(at, &filled(*stamp, SECTOR)).unwrap();
            }
        }
    });
    let [image] = images;
    (image, stamps)
}

impl Workload {
    fn run(seed: u64, shape: Shape, operations: usize) -> Self {
        let mut random = Random::new(seed);
        let size = 4 * MIB + 256 * 1024;
        let empty = vec![0; size as usize / SECTOR];
        let (leaf, parents, stamps) = match shape {
            Shape::Fixed => (formatted(&fixed(size)), Vec::new(), empty),
            Shape::Dynamic => (formatted(&dynamic(size, BLOCK as u32)), Vec::new(), empty),
            Shape::Child => {
                let (image, stamps) = base(size);
                (child_of(&image, BLOCK as u32), vec![image], stamps)
            }
        };
        let footer = footer(&leaf);
        let leaf = Arc::new(CrashStorage::new(leaf));
        let disk = chain(leaf.clone(), &parents, Access::ReadWrite).unwrap();
        let mut history: Vec<_> = stamps.into_iter().map(|stamp| vec![(0, 0, stamp)]).collect();
        let mut flushes = vec![(0, 0)];
        for number in 1..=operations {
            let position = leaf.position();
            let (first, count) = target(&mut random, history.len(), BLOCK as usize / SECTOR);
            let (offset, length) = ((first * SECTOR) as u64, count * SECTOR);
            let mut written = |stamp: Stamp| {
                for sector in &mut history[first..first + count] {
                    sector.push((number, position, stamp));
                }
            };
            match random.below(10) {
                0 | 1 => {
                    disk.flush().unwrap();
                    flushes.push((number, leaf.position()));
                }
                2 => {
                    disk.write_zeroes(offset, length as u64).unwrap();
                    written(0);
                }
                3 => {
                    disk.discard(offset, length as u64).unwrap();
                    // Zeros or as before: the crash may show either, so look which it became.
                    let mut bytes = vec![0; length];
                    disk.read_at(offset, &mut bytes).unwrap();
                    for (index, bytes) in bytes.chunks(SECTOR).enumerate() {
                        let stamp = stamp_of(bytes);
                        assert!(stamp == 0 || stamp == history[first + index].last().unwrap().2);
                        history[first + index].push((number, position, stamp));
                    }
                }
                _ => {
                    let stamp = number as Stamp;
                    disk.write_at(offset, &filled(stamp, length)).unwrap();
                    written(stamp);
                }
            }
        }
        // The close is part of the trace: cutting the file's end off must not lose the footer.
        disk.close().unwrap();
        flushes.push((operations + 1, leaf.position()));
        Self { trace: leaf.trace(), history, flushes, parents, footer }
    }

    /// Cuts the power after `cut` changes and looks at what is left. Returns the recovered disk.
    #[track_caller]
    fn check(&self, cut: usize, damage: Damage, random: &mut Random) -> Chain {
        let image = self.trace.cut(cut, damage, random);
        let context = format!("cut after {cut} changes, {damage:?}");
        assert!(footer(&image) == self.footer, "{context}: the file ends without its footer");
        let acknowledged = self.flushes.iter().rev().find(|flush| flush.1 <= cut).unwrap().0;

        crate::support::is_readable(&image);
        let mut bytes = vec![0; self.history.len() * SECTOR];
        let reader =
            chain(Arc::new(CrashStorage::new(image.clone())), &self.parents, Access::ReadOnly);
        reader.expect(&context).read_at(0, &mut bytes).expect(&context);
        for (index, (history, bytes)) in self.history.iter().zip(bytes.chunks(SECTOR)).enumerate() {
            let flushed = history.iter().rev().find(|write| write.0 < acknowledged || write.0 == 0);
            let since = history.iter().filter(|write| write.0 > acknowledged && write.1 < cut);
            let mut allowed = since.chain(flushed).map(|write| write.2);
            let stamp = stamp_of(bytes);
            assert!(allowed.any(|a| a == stamp), "{context}: sector {index} holds {stamp:#x}");
            let uniform = bytes.chunks(8).all(|chunk| chunk == stamp.to_le_bytes());
            assert!(uniform, "{context}: sector {index} is torn");
        }
        let writer = chain(Arc::new(CrashStorage::new(image)), &self.parents, Access::ReadWrite);
        let disk = writer.expect(&context);
        let mut again = vec![0; bytes.len()];
        disk.read_at(0, &mut again).expect(&context);
        assert!(again == bytes, "{context}: opening for writing changed the disk");
        disk
    }

    /// The recovered disk goes on working: what is written to it disturbs nothing, and its blocks do not overlap.
    fn check_usable(&self, disk: &Chain) {
        let size = (self.history.len() * SECTOR) as u64;
        let mut before = vec![0; size as usize];
        disk.read_at(0, &mut before).unwrap();
        for block in 0..size.div_ceil(BLOCK) {
            let at = (block * BLOCK + 200 * 1024).min(size - 4096);
            disk.write_at(at, &[0xEE; 4096]).unwrap();
            before[at as usize..at as usize + 4096].fill(0xEE);
        }
        disk.flush().unwrap();
        let mut after = vec![0; size as usize];
        disk.read_at(0, &mut after).unwrap();
        assert!(before == after);
    }
}

/// Chooses sectors: mostly few and often the same ones, sometimes a whole block.
fn target(random: &mut Random, sectors: usize, per_block: usize) -> (usize, usize) {
    let block = random.below(sectors.div_ceil(per_block) as u64) as usize * per_block;
    if random.one_in(4) {
        return (block, per_block.min(sectors - block));
    }
    let within = random.below(per_block.min(sectors - block) as u64 / 8) as usize * 8;
    let first = block + if random.one_in(2) { within } else { random.below(32) as usize };
    (first, (random.below(16) as usize + 1).min(sectors - first))
}

fn soak() -> u64 {
    std::env::var("IREKO_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Cuts workloads at every position, with every damage. Returns the number of states looked at.
fn cut_everywhere(workloads: u64, shape: Shape) -> usize {
    let run = |seed| {
        let workload = Workload::run(seed, shape, 40);
        let mut random = Random::new(seed);
        let mut states = 0;
        for cut in 0..=workload.trace.positions() {
            for damage in Damage::ALL {
                let disk = workload.check(cut, damage, &mut random);
                states += 1;
                if random.one_in(16) {
                    workload.check_usable(&disk);
                }
            }
        }
        states
    };
    (0..workloads * soak()).map(|seed| run(seed * 3 + shape as u64)).sum()
}

#[test]
fn nothing_flushed_is_lost_whenever_the_power_goes() {
    let states: usize = thread::scope(|scope| {
        let runs = [(6, Shape::Child), (4, Shape::Dynamic), (1, Shape::Fixed)]
            .map(|(workloads, shape)| scope.spawn(move || cut_everywhere(workloads, shape)));
        runs.into_iter().map(|run| run.join().unwrap()).sum()
    });
    println!("{states} states");
    assert!(states >= 2000, "only {states} states");
}

#[test]
fn a_parent_s_path_is_the_old_or_the_new_one_whenever_the_power_goes() {
    let folder = crate::support::folder();
    let (base, _) = base(4 * MIB);
    let mut images = [child_of(&base, BLOCK as u32), base.clone()];
    changed(&mut images, |disk| disk.write_at(0, &filled(77, 3 << 20)).unwrap());
    let expected = {
        let mut bytes = vec![0; 4 << 20];
        crate::support::over(&images, Access::ReadOnly).read_at(0, &mut bytes).unwrap();
        bytes
    };
    let child = folder.path().join("child.vhd");
    let mut trace = Relinks { image: images[0].clone(), seen: Default::default() };
    for (round, path) in [r"..\a\base.vhd", r".\x.vhd", r"..\..\images\base.vhd"].iter().enumerate()
    {
        trace.relink(path, &child, &base, &expected, round as u64);
    }
    assert!(trace.seen.len() == 4, "{:?}", trace.seen);
}

/// One relink after another, each cut everywhere.
struct Relinks {
    image: Image,
    seen: std::collections::BTreeSet<String>,
}

impl Relinks {
    fn relink(
        &mut self,
        path: &str,
        child: &std::path::Path,
        base: &Image,
        expected: &[u8],
        seed: u64,
    ) {
        let storage = Arc::new(CrashStorage::new(self.image.clone()));
        ireko_disk::vhd::set_parent_path(storage.clone(), path).unwrap();
        let (trace, mut random) = (storage.trace(), Random::new(seed));
        for cut in 0..=trace.positions() {
            for damage in Damage::ALL.into_iter().cycle().take(24) {
                let image = trace.cut(cut, damage, &mut random);
                std::fs::write(child, crate::support::bytes_of(&image)).unwrap();
                let link = ireko_disk::vhd::info(child).unwrap().parent.unwrap();
                self.seen.insert(link.relative_path.unwrap());
                for access in [Access::ReadOnly, Access::ReadWrite] {
                    let disk = crate::support::over(&[image.clone(), base.clone()], access);
                    let mut bytes = vec![0; expected.len()];
                    disk.read_at(0, &mut bytes).unwrap();
                    assert!(bytes == expected, "cut after {cut}, {damage:?}");
                }
            }
        }
        self.image = storage.image();
    }
}
