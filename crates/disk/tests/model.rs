//! Random operations on chains, against a plain array of bytes.
//!
//! `IREKO_SOAK=n` runs n times as many cases.

use std::path::PathBuf;

use ireko_disk::check::{Severity, check_chain};
use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk, ExtentKind, FreezePlan};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const MAX_DEPTH: usize = 16;

#[derive(Clone, Debug)]
enum Operation {
    Write {
        at: u64,
        length: usize,
        value: u8,
    },
    Zero {
        at: u64,
        length: u64,
    },
    Discard {
        at: u64,
        length: u64,
    },
    Flush,
    /// A new child over a leaf that is closed.
    Child {
        block_mib: u32,
    },
    /// A new child under a disk in use.
    Freeze,
    Reopen,
    Extents {
        at: u64,
        limit: usize,
    },
}

/// Offsets near block borders and lengths near sector borders are the interesting ones.
fn place() -> impl Strategy<Value = u64> {
    let border = (0..10u64, -2i64..3, prop_oneof![Just(1i64), Just(512), Just(4096), Just(65536)]);
    prop_oneof![
        0..10 * MIB,
        border.prop_map(|(block, steps, unit)| (block * MIB).saturating_add_signed(steps * unit)),
    ]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![
        1..600u64,
        (1..64u64).prop_map(|n| n * 512),
        (1..64u64).prop_map(|n| n * 4096),
        1..3 * MIB,
        Just(MIB),
        Just(2 * MIB),
        Just(4 * MIB),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (place(), length(), 1..255u8).prop_map(|(at, length, value)| Operation::Write {
            at,
            length: length as usize,
            value,
        }),
        2 => (place(), length()).prop_map(|(at, length)| Operation::Zero { at, length }),
        2 => (place(), length()).prop_map(|(at, length)| Operation::Discard { at, length }),
        1 => Just(Operation::Flush),
        1 => (0..6u32).prop_map(|power| Operation::Child { block_mib: 1 << power }),
        1 => Just(Operation::Freeze),
        1 => Just(Operation::Reopen),
        1 => (place(), 1..8usize).prop_map(|(at, limit)| Operation::Extents { at, limit }),
    ]
}

/// A chain of files and the bytes it should hold.
struct Pair {
    folder: tempfile::TempDir,
    paths: Vec<PathBuf>,
    disk: Option<Chain>,
    bytes: Vec<u8>,
    files: usize,
}

impl Pair {
    fn new(size: u64, sector: u32, block_mib: u32) -> Self {
        // In memory where there is such a place: the test is not about the host's disk.
        let shm = std::path::Path::new("/dev/shm");
        let folder = match shm.is_dir() {
            true => tempfile::tempdir_in(shm),
            false => tempfile::tempdir(),
        };
        let folder = folder.unwrap();
        let path = folder.path().join("0.vhdx");
        let size = size / u64::from(sector) * u64::from(sector);
        let options = CreateOptions {
            block_size: block_mib << 20,
            logical_sector: sector,
            ..CreateOptions::new(size)
        };
        vhdx::create(&path, &options).unwrap();
        let bytes = vec![0; size as usize];
        let mut pair = Self { folder, paths: vec![path], disk: None, bytes, files: 1 };
        pair.open();
        pair
    }

    fn disk(&self) -> &Chain {
        self.disk.as_ref().unwrap()
    }

    fn open(&mut self) {
        self.disk = Some(Chain::open(&self.paths, Access::ReadWrite).unwrap());
    }

    fn close(&mut self) {
        self.disk.take().unwrap().close().unwrap();
    }

    fn new_file(&mut self) -> PathBuf {
        self.files += 1;
        self.folder.path().join(format!("{}.vhdx", self.files))
    }

    fn apply(&mut self, operation: &Operation) {
        let size = self.bytes.len() as u64;
        let clip = |at: u64, length: u64| {
            let at = at.min(size);
            (at, length.min(size - at))
        };
        match *operation {
            Operation::Write { at, length, value } => {
                let (at, length) = clip(at, length as u64);
                // Not uniform, so that bytes of a wrong place show.
                let data: Vec<u8> = (0..length).map(|n| value ^ (n / 97) as u8).collect();
                self.disk().write_at(at, &data).unwrap();
                self.bytes[at as usize..(at + length) as usize].copy_from_slice(&data);
            }
            Operation::Zero { at, length } => {
                let (at, length) = clip(at, length);
                self.disk().write_zeroes(at, length).unwrap();
                self.bytes[at as usize..(at + length) as usize].fill(0);
            }
            Operation::Discard { at, length } => {
                let (at, length) = clip(at, length);
                self.disk().discard(at, length).unwrap();
                let mut now = vec![0; length as usize];
                self.disk().read_at(at, &mut now).unwrap();
                let before = &mut self.bytes[at as usize..(at + length) as usize];
                assert!(now.iter().zip(&*before).all(|(now, before)| *now == 0 || now == before));
                before.copy_from_slice(&now);
            }
            Operation::Flush => self.disk().flush().unwrap(),
            Operation::Child { .. } | Operation::Freeze if self.paths.len() == MAX_DEPTH => {}
            Operation::Child { block_mib } => {
                self.close();
                let (child, parent) = (self.new_file(), self.paths[0].clone());
                let options = ChildOptions { block_size: block_mib << 20, ..Default::default() };
                vhdx::create_child(&child, &parent, r".\parent.vhdx", &options).unwrap();
                self.paths.insert(0, child);
                self.open();
            }
            Operation::Freeze => {
                let frozen = self.new_file();
                let plan = FreezePlan {
                    frozen: frozen.clone(),
                    frozen_parent: (self.paths.len() > 1).then(|| r".\parent.vhdx".into()),
                    next_parent: r".\frozen.vhdx".into(),
                };
                self.disk.as_mut().unwrap().freeze(&plan).unwrap();
                self.paths.insert(1, frozen);
            }
            Operation::Reopen => {
                self.close();
                self.disk = Some(Chain::open(&self.paths, Access::ReadOnly).unwrap());
                self.compare();
                self.disk = None;
                self.open();
                self.compare();
            }
            Operation::Extents { at, limit } => {
                let (at, length) = clip(at, size);
                let extents = self.disk().extents(at, length, limit).unwrap();
                assert!(extents.len() <= limit && (length == 0 || !extents.is_empty()));
                let mut expected = at;
                for extent in extents {
                    assert!(extent.offset == expected && extent.length > 0);
                    expected += extent.length;
                    let bytes = &self.bytes[extent.offset as usize..expected as usize];
                    assert!(extent.kind == ExtentKind::Data || bytes.iter().all(|&b| b == 0));
                }
                assert!(expected <= at + length);
            }
        }
    }

    /// Closes the disk and has its files and their links checked.
    fn check_files(&mut self) {
        self.close();
        for (path, report) in check_chain(&self.paths).unwrap() {
            let name = path.display();
            assert!(report.worst() <= Some(Severity::Note), "{name}: {:#?}", report.findings);
        }
    }

    fn compare(&self) {
        let mut bytes = vec![0xEE; self.bytes.len()];
        self.disk().read_at(0, &mut bytes).unwrap();
        if let Some(at) = (0..bytes.len()).find(|&at| bytes[at] != self.bytes[at]) {
            panic!("byte {at:#x} is {:#x}, should be {:#x}", bytes[at], self.bytes[at]);
        }
    }
}

fn cases() -> u32 {
    let soak: u32 = std::env::var("IREKO_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    24 * soak
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_chain_holds_what_was_written_to_it(
        size in 5 * MIB..10 * MIB,
        sector in prop_oneof![3 => Just(512u32), 1 => Just(4096)],
        power in 0..6u32,
        operations in prop::collection::vec(operation(), 1..120),
    ) {
        let mut pair = Pair::new(size, sector, 1 << power);
        for operation in &operations {
            pair.apply(operation);
        }
        pair.compare();
        pair.apply(&Operation::Reopen);
        pair.check_files();
    }
}

#[test]
fn a_chain_of_250_layers_reads_and_writes() {
    let mut pair = Pair::new(8 * MIB, 512, 1);
    for layer in 0..249u64 {
        pair.apply(&Operation::Write { at: layer * 30_000, length: 700, value: layer as u8 | 1 });
        pair.close();
        let (child, parent) = (pair.new_file(), pair.paths[0].clone());
        vhdx::create_child(&child, &parent, r".\parent.vhdx", &ChildOptions::default()).unwrap();
        pair.paths.insert(0, child);
        pair.open();
    }
    assert_eq!(pair.disk().depth(), 250);
    pair.compare();
    pair.check_files();
}
