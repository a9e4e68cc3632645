//! The dynamic header of a VHD file: its table, its parent's names.

use ireko_disk::vhd::Provision;

use crate::exercise::exercise;
use crate::input::Input;
use crate::sound::vhd::{HEADER, NAMES, TABLES, chain, seal_header};

/// Most of a header is the parent's name and zeros: what is before and after it come first, then the name, then what the
/// locators name.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let control = input.u8();
    let mut layers = chain(Provision::Dynamic);
    let whose = usize::from(control & 1);
    let layer = &mut layers[whose];
    layer.write(HEADER + 8, input.bytes(56));
    layer.write(HEADER + 576, input.bytes(192));
    if control & 2 != 0 {
        layer.write(HEADER + 64, input.bytes(128));
    }
    if control & 4 == 0 {
        seal_header(layer, HEADER);
    }
    if whose == 0 {
        layer.write(NAMES, input.bytes((TABLES[0] - NAMES) as usize));
    }
    exercise(&layers, data);
}
