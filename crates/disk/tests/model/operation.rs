//! What may happen to a disk.

use ireko_testkit::random::Random;
use proptest::prelude::*;

pub const MIB: u64 = 1 << 20;
pub const MAX_DEPTH: usize = 16;
/// Sizes of disks, in sectors of 4 KiB: 5 to 10 MiB.
const SECTORS: std::ops::Range<u64> = 1280..2560;

#[derive(Clone, Debug)]
pub enum Operation {
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
        block_power: u32,
    },
    /// A new child under a disk in use.
    Freeze,
    /// The topmost layers become a new file that takes their place.
    MergeIntoNew {
        layers: usize,
        block_power: u32,
        keep_identity: bool,
    },
    /// The parent of one of the files takes over what that file holds.
    MergeIntoParent {
        layer: usize,
    },
    /// All layers become a new base, of another format where that has such sectors.
    Flatten {
        other_format: bool,
    },
    /// The leaf remembers its parent's place by another path.
    Relink {
        length: usize,
    },
    /// One of the files gives up what it does not need.
    Compact {
        layer: usize,
    },
    /// The disk gets so many sectors of 4 KiB; fewer cut off what they hold.
    Resize {
        sectors: u64,
    },
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

pub fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (place(), length(), 1..255u8).prop_map(|(at, length, value)| Operation::Write {
            at,
            length: length as usize,
            value,
        }),
        2 => (place(), length()).prop_map(|(at, length)| Operation::Zero { at, length }),
        2 => (place(), length()).prop_map(|(at, length)| Operation::Discard { at, length }),
        1 => Just(Operation::Flush),
        1 => (0..6u32).prop_map(|block_power| Operation::Child { block_power }),
        1 => Just(Operation::Freeze),
        1 => (2..6usize, 0..4u32, any::<bool>()).prop_map(|(layers, block_power, keep_identity)| {
            Operation::MergeIntoNew { layers, block_power, keep_identity }
        }),
        1 => (0..MAX_DEPTH).prop_map(|layer| Operation::MergeIntoParent { layer }),
        1 => any::<bool>().prop_map(|other_format| Operation::Flatten { other_format }),
        1 => (1..900usize).prop_map(|length| Operation::Relink { length }),
        1 => (0..MAX_DEPTH).prop_map(|layer| Operation::Compact { layer }),
        1 => SECTORS.prop_map(|sectors| Operation::Resize { sectors }),
        1 => Just(Operation::Reopen),
        1 => (place(), 1..8usize).prop_map(|(at, limit)| Operation::Extents { at, limit }),
    ]
}

impl Operation {
    /// One of a long life: mostly small ones, so that a great many fit into it.
    pub fn random(random: &mut Random) -> Self {
        let at = match random.one_in(2) {
            true => random.below(10 * MIB),
            false => (random.below(11) * MIB).saturating_sub(random.below(4) * 512),
        };
        let length = match random.below(40) {
            0 => random.below(3 * MIB) + 1,
            1 => MIB << random.below(3),
            2..10 => (random.below(64) + 1) * 4096,
            10..25 => (random.below(64) + 1) * 512,
            _ => random.below(600) + 1,
        };
        let layer = random.below(MAX_DEPTH as u64) as usize;
        match random.below(100) {
            0 => Self::Child { block_power: random.below(6) as u32 },
            1 => Self::Freeze,
            2 => Self::MergeIntoNew {
                layers: 2 + random.below(4) as usize,
                block_power: random.below(4) as u32,
                keep_identity: random.one_in(2),
            },
            3 => Self::MergeIntoParent { layer },
            4 if random.one_in(4) => Self::Flatten { other_format: random.one_in(2) },
            5 => Self::Compact { layer },
            6 => {
                let span = SECTORS.end - SECTORS.start;
                Self::Resize { sectors: SECTORS.start + random.below(span) }
            }
            7 if random.one_in(2) => Self::Reopen,
            7 if random.one_in(2) => Self::Relink { length: random.below(900) as usize + 1 },
            8..14 => Self::Extents { at, limit: random.below(8) as usize + 1 },
            14..20 => Self::Flush,
            20..35 => Self::Zero { at, length },
            35..50 => Self::Discard { at, length },
            _ => Self::Write { at, length: length as usize, value: random.below(254) as u8 + 1 },
        }
    }
}
