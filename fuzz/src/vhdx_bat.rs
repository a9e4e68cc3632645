//! The BAT and the sector bitmap of a differencing VHDX file, and of its parent.

use ireko_testkit::Image;

use crate::exercise::exercise;
use crate::input::Input;
use crate::sound::{BAT, CHUNK_RATIO, MIB, chain, read};

/// Per file eight entries, the last one the bitmap's; then bytes of the child's bitmap.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut layers = chain();
    for layer in &mut layers {
        for slot in [0, 1, 2, 3, 4, 5, 6, CHUNK_RATIO] {
            if let Some(entry) = entry(&mut input) {
                layer.write(BAT + slot * 8, &entry.to_le_bytes());
            }
        }
    }
    if let Some(at) = bitmap(&layers[0]) {
        layers[0].write(at, input.bytes(4096));
    }
    exercise(&layers, data);
}

/// An entry as it was, one with a small offset, or eight bytes of any kind.
fn entry(input: &mut Input<'_>) -> Option<u64> {
    let kind = input.u8();
    match kind >> 6 {
        0 => None,
        1 | 2 => Some(u64::from(input.u8() & 31) << 20 | u64::from(kind & 7)),
        _ => Some(input.u64()),
    }
}

/// Where the first chunk's bitmap lies, if it does.
fn bitmap(leaf: &Image) -> Option<u64> {
    let entry = read(leaf, BAT + CHUNK_RATIO * 8, 8);
    let at = u64::from_le_bytes(entry.try_into().ok()?) & !(MIB - 1);
    (at >= MIB && at.checked_add(MIB)? <= leaf.length()).then_some(at)
}
