//! Random operations on chains, against a plain array of bytes.
//!
//! `IREKO_SOAK=n` runs n times as many cases.

use std::path::PathBuf;

use ireko_disk::vhd;
use ireko_disk::{Access, Chain, Disk, ExtentKind};
use proptest::prelude::*;

use crate::support::{MIB, blocks_of, dynamic, fixed, folder, open, set_parent_path};

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
    Child {
        block_size: u32,
    },
    /// Another path to the parent.
    Relink {
        length: usize,
    },
    Reopen,
    Extents {
        at: u64,
        limit: usize,
    },
}

/// Offsets near block borders and lengths near sector borders are the interesting ones.
fn place() -> impl Strategy<Value = u64> {
    let border = (0..20u64, -2i64..3, prop_oneof![Just(1i64), Just(512), Just(4096), Just(65536)]);
    let half = MIB / 2;
    prop_oneof![
        0..10 * MIB,
        border.prop_map(
            move |(block, steps, unit)| (block * half).saturating_add_signed(steps * unit)
        ),
    ]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![
        1..600u64,
        (1..64u64).prop_map(|n| n * 512),
        (1..64u64).prop_map(|n| n * 4096),
        1..3 * MIB,
        Just(MIB / 2),
        Just(2 * MIB),
        Just(4 * MIB),
    ]
}

fn block_size() -> impl Strategy<Value = u32> {
    (19..25u32).prop_map(|power| 1 << power)
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
        1 => block_size().prop_map(|block_size| Operation::Child { block_size }),
        1 => (1..900usize).prop_map(|length| Operation::Relink { length }),
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
}

impl Pair {
    fn new(base: &vhd::CreateOptions) -> Self {
        let folder = folder();
        let path = folder.path().join("0.vhd");
        vhd::create(&path, base).unwrap();
        let bytes = vec![0; base.virtual_size as usize];
        let mut pair = Self { folder, paths: vec![path], disk: None, bytes };
        pair.open();
        pair
    }

    fn disk(&self) -> &Chain {
        self.disk.as_ref().unwrap()
    }

    fn open(&mut self) {
        self.disk = Some(open(&self.paths, Access::ReadWrite));
    }

    fn close(&mut self) {
        self.disk.take().unwrap().close().unwrap();
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
            Operation::Child { .. } if self.paths.len() == MAX_DEPTH => {}
            Operation::Child { block_size } => {
                self.close();
                let child = self.folder.path().join(format!("{}.vhd", self.paths.len()));
                let options = blocks_of(block_size);
                vhd::create_child(&child, &self.paths[0], r".\parent.vhd", &options).unwrap();
                self.paths.insert(0, child);
                self.open();
            }
            Operation::Relink { .. } if self.paths.len() == 1 => {}
            Operation::Relink { length } => {
                self.close();
                let path = format!(r".\{}", "p".repeat(length));
                set_parent_path(&self.paths[0], &path).unwrap();
                let link = vhd::info(&self.paths[0]).unwrap().parent.unwrap();
                assert_eq!(link.relative_path, Some(path));
                self.open();
                self.compare();
            }
            Operation::Reopen => {
                self.close();
                self.disk = Some(open(&self.paths, Access::ReadOnly));
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
        sectors in 5 * 2048..10 * 2048u64,
        is_fixed in prop::bool::weighted(0.2),
        block_size in block_size(),
        operations in prop::collection::vec(operation(), 1..120),
    ) {
        let size = sectors * 512;
        let base = if is_fixed { fixed(size) } else { dynamic(size, block_size) };
        let mut pair = Pair::new(&base);
        for operation in &operations {
            pair.apply(operation);
        }
        pair.compare();
        pair.apply(&Operation::Reopen);
    }
}

#[test]
fn a_chain_of_64_layers_reads_and_writes() {
    let mut pair = Pair::new(&dynamic(8 * MIB, 512 << 10));
    for layer in 0..63u64 {
        pair.apply(&Operation::Write { at: layer * 120_000, length: 700, value: layer as u8 | 1 });
        pair.close();
        let child = pair.folder.path().join(format!("{}.vhd", pair.paths.len()));
        let options = vhd::ChildOptions::default();
        vhd::create_child(&child, &pair.paths[0], r".\parent.vhd", &options).unwrap();
        pair.paths.insert(0, child);
        pair.open();
    }
    assert_eq!(pair.disk().depth(), 64);
    pair.compare();
}
