//! The footer of a VHD file, and its copy.

use ireko_disk::vhd::Provision;

use crate::exercise::exercise;
use crate::input::Input;
use crate::sound::vhd::{COPY, FOOTER_LENGTH, chain, seal_footer};

/// The first byte says whose footers they are, which of the two change, and what stays right; half of the rest is the
/// footer's, the other half its copy's.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let control = input.u8();
    let has = |bit: u8| control >> bit & 1 != 0;
    let fixed = Provision::Fixed { preallocate: false };
    let mut layers = chain(if has(6) { fixed } else { Provision::Dynamic });
    let layer = &mut layers[usize::from(has(7))];
    let half = input.0.len().div_ceil(2).min(500);
    for (bit, at) in [layer.length() - FOOTER_LENGTH, COPY].into_iter().enumerate() {
        let bytes = input.bytes(half);
        if has(bit as u8) {
            layer.write(at + if has(4) { 0 } else { 8 }, bytes);
        }
        if !has(bit as u8 + 2) {
            seal_footer(layer, at);
        }
    }
    if has(5) {
        // As early versions of Virtual PC wrote it.
        layer.set_length(layer.length() - 1);
    }
    exercise(&layers, data);
}
