//! Power cuts: whatever a flush acknowledged is there, and every other sector is old or new.
//!
//! The cut comes after every single write of a workload, and what was not synced is kept, lost, torn and reordered.
//! `IREKO_SOAK=n` runs n times as many workloads.

use std::sync::Arc;
use std::thread;

use ireko_disk::check::{self, FindingKind, Severity};
use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk, Storage};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Damage, Image, Trace};

const MIB: u64 = 1 << 20;

/// A sector's content: zeros, or one number repeated.
type Stamp = u64;

/// What was done to a disk on storage that is about to lose power.
struct Workload {
    sector: usize,
    trace: Trace,
    /// Per sector: number of the operation, position in the trace when it began, what it wrote.
    history: Vec<Vec<(usize, usize, Stamp)>>,
    /// Per flush: number of the operation, position in the trace when it was acknowledged.
    flushes: Vec<(usize, usize)>,
    parents: Vec<Image>,
}

fn filled(stamp: Stamp, length: usize) -> Vec<u8> {
    stamp.to_le_bytes().iter().copied().cycle().take(length).collect()
}

fn chain(leaf: Arc<CrashStorage>, parents: &[Image], access: Access) -> ireko_disk::Result<Chain> {
    let parents = parents.iter().map(|image| Arc::new(CrashStorage::new(image.clone())) as _);
    Chain::over(std::iter::once(leaf as Arc<dyn Storage>).chain(parents).collect(), access)
}

/// A base with every other MiB filled, closed cleanly.
fn base(size: u64, sector: u32) -> (Image, Vec<Stamp>) {
    let storage = Arc::new(CrashStorage::default());
    let options =
        CreateOptions { block_size: 1 << 20, logical_sector: sector, ..CreateOptions::new(size) };
    vhdx::format(&*storage, &options).unwrap();
    let disk = Chain::over(vec![storage.clone()], Access::ReadWrite).unwrap();
    let mut stamps = vec![0; (size / u64::from(sector)) as usize];
    for (index, stamp) in stamps.iter_mut().enumerate() {
        let at = index as u64 * u64::from(sector);
        if (at / MIB).is_multiple_of(2) {
            *stamp = 1 << 32 | index as u64;
            disk.write_at(at, &filled(*stamp, sector as usize)).unwrap();
        }
    }
    disk.close().unwrap();
    (storage.image(), stamps)
}

impl Workload {
    fn run(seed: u64, has_parent: bool, sector: u32, operations: usize) -> Self {
        let mut random = Random::new(seed);
        let size = 4 * MIB + 256 * 1024;
        let leaf = Arc::new(CrashStorage::default());
        let (parents, stamps) = if has_parent {
            let (image, stamps) = base(size, sector);
            let parent =
                Chain::over(vec![Arc::new(CrashStorage::new(image.clone()))], Access::ReadOnly);
            let options = ChildOptions { block_size: 1 << 20, ..Default::default() };
            let identity = parent.unwrap().identity().unwrap();
            vhdx::format_child(&*leaf, &identity, r".\base.vhdx", &options).unwrap();
            (vec![image], stamps)
        } else {
            let options = CreateOptions {
                block_size: 1 << 20,
                logical_sector: sector,
                ..CreateOptions::new(size)
            };
            vhdx::format(&*leaf, &options).unwrap();
            (Vec::new(), vec![0; (size / u64::from(sector)) as usize])
        };
        // What was formatted is durable: the trace starts with the session.
        let leaf = Arc::new(CrashStorage::new(leaf.image()));
        let disk = chain(leaf.clone(), &parents, Access::ReadWrite).unwrap();
        let mut history: Vec<_> = stamps.into_iter().map(|stamp| vec![(0, 0, stamp)]).collect();
        let mut flushes = vec![(0, 0)];
        for number in 1..=operations {
            let position = leaf.position();
            let (first, count) = target(&mut random, history.len(), MIB as usize / sector as usize);
            let (offset, length) = (first as u64 * u64::from(sector), count * sector as usize);
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
                    for (index, bytes) in bytes.chunks(sector as usize).enumerate() {
                        let stamp = Stamp::from_le_bytes(bytes[..8].try_into().unwrap());
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
        let trace = leaf.trace();
        // Dropping the disk would close it; the trace ends before that.
        drop(disk);
        Self { sector: sector as usize, trace, history, flushes, parents }
    }

    /// Cuts the power after `cut` changes and looks at what is left. Returns the recovered disk.
    #[track_caller]
    fn check(&self, cut: usize, damage: Damage, random: &mut Random) -> Chain {
        let image = self.trace.cut(cut, damage, random);
        let context = format!("cut after {cut} changes, {damage:?}");
        let acknowledged = self.flushes.iter().rev().find(|flush| flush.1 <= cut).unwrap().0;

        if cut.is_multiple_of(3) {
            nothing_is_damaged(&image, &context);
        }
        let mut bytes = vec![0; self.history.len() * self.sector];
        let reader =
            chain(Arc::new(CrashStorage::new(image.clone())), &self.parents, Access::ReadOnly);
        reader.expect(&context).read_at(0, &mut bytes).expect(&context);
        for (index, (history, bytes)) in
            self.history.iter().zip(bytes.chunks(self.sector)).enumerate()
        {
            let flushed = history.iter().rev().find(|write| write.0 < acknowledged || write.0 == 0);
            let since = history.iter().filter(|write| write.0 > acknowledged && write.1 < cut);
            let mut allowed = since.chain(flushed).map(|write| write.2);
            let stamp = Stamp::from_le_bytes(bytes[..8].try_into().unwrap());
            let uniform = bytes.chunks(8).all(|chunk| chunk == stamp.to_le_bytes());
            // The medium's own sectors may tear within ours of 4096 bytes: then each of its sectors must be allowed.
            if uniform {
                assert!(allowed.any(|a| a == stamp), "{context}: sector {index} holds {stamp:#x}");
            } else {
                let allowed: Vec<Stamp> = allowed.collect();
                for part in bytes.chunks(512) {
                    let stamp = Stamp::from_le_bytes(part[..8].try_into().unwrap());
                    assert!(allowed.contains(&stamp), "{context}: sector {index} holds {stamp:#x}");
                    assert!(
                        part.chunks(8).all(|c| c == stamp.to_le_bytes()),
                        "{context}: {index} is torn"
                    );
                }
            }
        }
        let writer = chain(Arc::new(CrashStorage::new(image)), &self.parents, Access::ReadWrite);
        let disk = writer.expect(&context);
        let mut replayed = vec![0; bytes.len()];
        disk.read_at(0, &mut replayed).expect(&context);
        assert!(replayed == bytes, "{context}: replay in memory and on disk differ");
        disk
    }

    /// The recovered disk goes on working: what is written to it disturbs nothing, and its blocks do not overlap.
    fn check_usable(&self, disk: &Chain) {
        let size = (self.history.len() * self.sector) as u64;
        let mut before = vec![0; size as usize];
        disk.read_at(0, &mut before).unwrap();
        for block in 0..size.div_ceil(MIB) {
            let at = (block * MIB + 700 * 1024).min(size - 4096);
            disk.write_at(at, &[0xEE; 4096]).unwrap();
            before[at as usize..at as usize + 4096].fill(0xEE);
        }
        disk.flush().unwrap();
        let mut after = vec![0; size as usize];
        disk.read_at(0, &mut after).unwrap();
        assert!(before == after);
    }
}

/// A cut may leave the log in use, free space, and a file whose last growth was cut short; nothing else.
#[track_caller]
fn nothing_is_damaged(image: &Image, context: &str) {
    let storage: Arc<dyn Storage> = Arc::new(CrashStorage::new(image.clone()));
    let report = check::check_storage(&storage).unwrap();
    let damage = report.findings.iter().find(|finding| {
        finding.severity > Severity::Note && finding.what != FindingKind::FileLength
    });
    assert_eq!(damage, None, "{context}");
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
fn cut_everywhere(workloads: u64, has_parent: bool, sector: u32) -> usize {
    let run = |seed| {
        let workload = Workload::run(seed, has_parent, sector, 40);
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
    (0..workloads * soak()).map(|seed| run(seed * 2 + u64::from(has_parent))).sum()
}

#[test]
fn nothing_flushed_is_lost_whenever_the_power_goes() {
    let states: usize = thread::scope(|scope| {
        let shapes = [(3, true, 512), (2, false, 512), (1, true, 4096)];
        let runs = shapes.map(|(workloads, has_parent, sector)| {
            scope.spawn(move || cut_everywhere(workloads, has_parent, sector))
        });
        runs.into_iter().map(|run| run.join().unwrap()).sum()
    });
    println!("{states} states");
    assert!(states >= 2000, "only {states} states");
}

#[test]
fn changes_that_exceed_one_log_entry_survive_too() {
    const WRITES: u64 = 1000;
    const STEP: u64 = 17 * MIB;
    let base = Arc::new(CrashStorage::default());
    vhdx::format(&*base, &CreateOptions::new(WRITES * STEP)).unwrap();
    let parent = Chain::over(vec![base.clone()], Access::ReadOnly).unwrap().identity().unwrap();
    let leaf = Arc::new(CrashStorage::default());
    vhdx::format_child(&*leaf, &parent, r".\base.vhdx", &ChildOptions::default()).unwrap();
    let leaf = Arc::new(CrashStorage::new(leaf.image()));
    let parents = [base.image()];
    let disk = chain(leaf.clone(), &parents, Access::ReadWrite).unwrap();
    // Each write dirties a bitmap page of its own.
    for number in 0..WRITES {
        disk.write_at(number * STEP, &filled(number + 1, 512)).unwrap();
    }
    let written = leaf.position();
    disk.flush().unwrap();
    let flushed = leaf.position();
    let (trace, mut random) = (leaf.trace(), Random::new(1));
    for cut in (0..written).step_by(271).chain(written..=flushed) {
        for damage in Damage::ALL {
            let image = trace.cut(cut, damage, &mut random);
            nothing_is_damaged(&image, "many pages");
            let disk =
                chain(Arc::new(CrashStorage::new(image)), &parents, Access::ReadWrite).unwrap();
            for number in 0..WRITES {
                let mut bytes = [0; 512];
                disk.read_at(number * STEP, &mut bytes).unwrap();
                let new = bytes[..] == filled(number + 1, 512);
                assert!(new || (bytes == [0; 512] && cut < flushed), "write {number} at cut {cut}");
            }
        }
    }
}
