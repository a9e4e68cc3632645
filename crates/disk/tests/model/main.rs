//! Random operations on chains, against a plain array of bytes.
//!
//! Short lives are shrunk to the smallest one that fails; long ones meet what takes many steps to come about. `IREKO_SOAK=n` runs n
//! times as many of both: 50 are a million operations.

mod operation;
mod pair;

use std::thread;

use ireko_disk::Format;
use ireko_testkit::random::Random;
use operation::{MIB, Operation, operation};
use pair::{Base, Pair};
use proptest::prelude::*;

const LIVES: u64 = 8;
const OPERATIONS: u64 = 2500;

fn soak() -> u64 {
    std::env::var("IREKO_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

fn base() -> impl Strategy<Value = Base> {
    let format = prop_oneof![Just(Format::Vhdx), Just(Format::Vhd)];
    let sector = prop_oneof![3 => Just(512u32), 1 => Just(4096)];
    let shape = (0..6u32, prop::bool::weighted(0.2));
    (format, 5 * MIB..10 * MIB, sector, shape).prop_map(
        |(format, size, sector, (block_power, is_fixed))| Base {
            format,
            size,
            sector,
            block_power,
            is_fixed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24 * soak() as u32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_chain_holds_what_was_written_to_it(
        base in base(),
        operations in prop::collection::vec(operation(), 1..120),
    ) {
        let mut pair = Pair::new(&base);
        for operation in &operations {
            pair.apply(operation);
        }
        pair.compare();
        pair.apply(&Operation::Reopen);
        pair.check_files();
    }
}

#[test]
fn a_disk_holds_what_was_written_to_it_through_a_long_life() {
    let deepest = thread::scope(|scope| {
        // Two at a time, whatever the machine: their disks are in memory.
        let workers = [0, 1].map(|worker| {
            scope.spawn(move || (0..LIVES / 2 * soak()).map(|n| live(n * 2 + worker)).max())
        });
        workers.into_iter().filter_map(|worker| worker.join().unwrap()).max()
    });
    println!("{} operations, up to {} layers", LIVES * OPERATIONS * soak(), deepest.unwrap());
}

/// One disk's life. Returns how many layers it had at most.
fn live(seed: u64) -> usize {
    let mut random = Random::new(seed);
    let base = Base {
        format: if seed % 8 < 5 { Format::Vhdx } else { Format::Vhd },
        size: (6 + random.below(4)) * MIB,
        sector: if random.one_in(4) { 4096 } else { 512 },
        block_power: random.below(6) as u32,
        is_fixed: random.one_in(5),
    };
    let mut pair = Pair::new(&base);
    // Some lives merge seldom and grow deep.
    let merges = random.one_in(2);
    let (mut deepest, mut done) = (1, 0);
    while done < OPERATIONS {
        let operation = Operation::random(&mut random);
        let is_merge = matches!(
            operation,
            Operation::MergeIntoNew { .. }
                | Operation::MergeIntoParent { .. }
                | Operation::Flatten { .. }
        );
        if is_merge && !merges && !random.one_in(8) {
            continue;
        }
        pair.apply(&operation);
        deepest = deepest.max(pair.paths.len());
        done += 1;
        if done % 256 == 0 {
            pair.compare();
        }
    }
    pair.apply(&Operation::Reopen);
    pair.check_files();
    deepest
}

#[track_caller]
fn reads_and_writes(format: Format, layers: u64) {
    let base = Base { format, size: 8 * MIB, sector: 512, block_power: 0, is_fixed: false };
    let mut pair = Pair::new(&base);
    for layer in 0..layers - 1 {
        pair.apply(&Operation::Write { at: layer * 30_000, length: 700, value: layer as u8 | 1 });
        pair.close();
        pair.add_child(1);
        pair.open();
    }
    assert_eq!(pair.disk().depth() as u64, layers);
    pair.compare();
    pair.check_files();
}

#[test]
fn a_chain_of_250_layers_reads_and_writes() {
    reads_and_writes(Format::Vhdx, 250);
    reads_and_writes(Format::Vhd, 64);
}
