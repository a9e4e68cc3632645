//! The two headers of a VHDX file.

use crate::exercise::exercise;
use crate::input::Input;
use crate::sound::{HEADERS, chain, seal};

/// The first byte says which headers keep their signature, and which get a right checksum; half of the rest is the
/// first header, the other half the second.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let control = input.u8();
    let half = input.0.len() / 2;
    let [mut leaf, base] = chain();
    for (index, at) in HEADERS.into_iter().enumerate() {
        let bytes = input.bytes(half.min(4096));
        let is_signed = control >> index & 1 == 0;
        leaf.write(at + if is_signed { 8 } else { 0 }, bytes);
        if control >> (index + 2) & 1 == 0 {
            seal(&mut leaf, at, 4096);
        }
    }
    exercise(&[leaf, base], data);
}
