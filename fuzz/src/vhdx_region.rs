//! The region tables of a VHDX file.

use crate::exercise::exercise;
use crate::input::Input;
use crate::sound::{REGION_TABLES, chain, seal};

/// The first byte says which of the two tables becomes the rest, and whether with a right checksum.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let control = input.u8();
    let table = input.bytes(4096);
    let [mut leaf, base] = chain();
    for (index, at) in REGION_TABLES.into_iter().enumerate() {
        if control >> index & 1 == 0 {
            leaf.write(at + 8, table);
        }
        if control >> (index + 2) & 1 == 0 {
            seal(&mut leaf, at, 64 << 10);
        }
    }
    exercise(&[leaf, base], data);
}
