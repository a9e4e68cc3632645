//! Any bytes of a VHDX file and its parent, and their lengths.

use ireko_testkit::Image;

use crate::exercise::exercise;
use crate::input::Input;
use crate::sound::{
    BAT, CHUNK_RATIO, HEADERS, KIB, LOG, METADATA, METADATA_ITEMS, REGION_TABLES, chain, seal,
};

const MAX_PATCHES: usize = 64;

/// A list of patches, after which the checksums are right.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut layers = chain();
    for _ in 0..MAX_PATCHES {
        if input.is_empty() {
            break;
        }
        let (what, layer) = (input.u8(), &mut layers);
        patch(&mut layer[usize::from(what >> 7)], what & 15, &mut input);
    }
    for layer in &mut layers {
        HEADERS.into_iter().for_each(|at| seal_if_there(layer, at, 4 * KIB));
        REGION_TABLES.into_iter().for_each(|at| seal_if_there(layer, at, 64 * KIB));
    }
    exercise(&layers, data);
}

fn patch(layer: &mut Image, what: u8, input: &mut Input<'_>) {
    let start = match what {
        0 => 0,
        1 | 2 => HEADERS[usize::from(what - 1)],
        3 | 4 => REGION_TABLES[usize::from(what - 3)],
        5 => LOG,
        6 | 7 => METADATA,
        8 | 9 => METADATA_ITEMS,
        10 | 11 => BAT,
        12 => BAT + CHUNK_RATIO * 8,
        13 => {
            let length = u64::from(input.u32()) * 512;
            return layer.set_length(length);
        }
        _ => return layer.punch(u64::from(input.u16()) * 4096, u64::from(input.u16()) * 4096),
    };
    let at = start + u64::from(input.u16() % 4096);
    let length = usize::from(input.u8() & 31) + 1;
    let bytes = input.bytes(length);
    if at + bytes.len() as u64 <= layer.length() {
        layer.write(at, bytes);
    }
}

fn seal_if_there(layer: &mut Image, at: u64, length: u64) {
    if at + length <= layer.length() {
        seal(layer, at, length as usize);
    }
}
