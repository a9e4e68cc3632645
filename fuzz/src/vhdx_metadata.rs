//! The metadata region of a VHDX file: its table and its items.

use crate::exercise::exercise;
use crate::input::Input;
use crate::sound::{METADATA, METADATA_ITEMS, chain};

/// The first byte says how many entries the table has, the second whose it is: the child's, or its parent's. Behind the
/// entries come the items, and the page of the locator.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (entries, whose) = (usize::from(input.u8() % 16), usize::from(input.u8() & 1));
    let mut layers = chain();
    layers[whose].write(METADATA + 8, input.bytes(24 + 32 * entries));
    layers[whose].write(METADATA_ITEMS, input.bytes(64));
    layers[whose].write(METADATA_ITEMS + 4096, input.bytes(4096));
    exercise(&layers, data);
}
