//! Any bytes of a VHD file and its parent, and their lengths.

use ireko_disk::vhd::Provision;
use ireko_testkit::Image;

use crate::exercise::exercise;
use crate::input::Input;
use crate::sound::vhd::{
    COPY, FOOTER_LENGTH, HEADER, NAMES, TABLES, chain, seal_footer, seal_header,
};

const MAX_PATCHES: usize = 64;

/// The first bit of the first byte says whether the base is fixed; then comes a list of patches, after which the checksums are right.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let provision = match input.u8() & 1 {
        0 => Provision::Dynamic,
        _ => Provision::Fixed { preallocate: false },
    };
    let mut layers = chain(provision);
    for _ in 0..MAX_PATCHES {
        if input.is_empty() {
            break;
        }
        let what = input.u8();
        let whose = usize::from(what >> 7);
        patch(&mut layers[whose], TABLES[whose], what & 15, &mut input);
    }
    let [leaf, base] = &mut layers;
    for layer in [&mut *leaf, &mut *base] {
        if let Some(at) = layer.length().checked_sub(FOOTER_LENGTH) {
            seal_footer(layer, at);
        }
    }
    seal_footer(leaf, COPY);
    seal_header(leaf, HEADER);
    if provision == Provision::Dynamic {
        seal_footer(base, COPY);
        seal_header(base, HEADER);
    }
    exercise(&layers, data);
}

fn patch(layer: &mut Image, table: u64, what: u8, input: &mut Input<'_>) {
    let start = match what {
        0 => COPY,
        1 | 2 => HEADER,
        3 => HEADER + 576,
        4 => NAMES,
        // An entry that names a sector within the file, or nearly.
        5..=8 => {
            let entry = table + u64::from(input.u8() % 16) * 4;
            if entry + 4 <= layer.length() {
                layer.write(entry, &u32::from(input.u16()).to_be_bytes());
            }
            return;
        }
        9 | 10 => table,
        // Where blocks begin with their bitmaps.
        11 | 12 => table + 512,
        13 => return layer.set_length(u64::from(input.u32() % (1 << 25))),
        14 => return layer.punch(u64::from(input.u16()) * 512, u64::from(input.u16()) * 512),
        _ => layer.length().saturating_sub(FOOTER_LENGTH),
    };
    let at = start + u64::from(input.u16() % 1024);
    let length = usize::from(input.u8() & 31) + 1;
    let bytes = input.bytes(length);
    if at + bytes.len() as u64 <= layer.length() {
        layer.write(at, bytes);
    }
}
