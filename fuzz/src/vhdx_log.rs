//! The log of a VHDX file that was not closed.

use ireko_testkit::Image;

use crate::exercise::exercise;
use crate::input::Input;
use crate::log::{self, Change, Entry};
use crate::sound::{HEADERS, KIB, LOG, LOG_GUID, MIB, chain, seal};

const SECTORS: u64 = 4 * MIB / 4096;
const MAX_ENTRIES: usize = 12;

/// Each entry is some numbers, changes, and what is wrong with it; the header names their session.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let [mut leaf, base] = chain();
    leaf.punch(LOG, 4 * MIB);
    for _ in 0..MAX_ENTRIES {
        if input.is_empty() {
            break;
        }
        write_entry(&mut leaf, &mut input);
    }
    for at in HEADERS {
        leaf.write(at + 48, &LOG_GUID.to_bytes());
        seal(&mut leaf, at, 4096);
    }
    exercise(&[leaf, base], data);
}

fn write_entry(leaf: &mut Image, input: &mut Input<'_>) {
    let sector = sector(input);
    let entry = Entry {
        tail: (self::sector(input) * 4096) as u32,
        number: u64::from(input.u8()),
        flushed: u64::from(input.u8() & 31) * MIB,
        last: u64::from(input.u8() & 63) * MIB,
    };
    let count = input.u8() & 7;
    let changes: Vec<Change> = (0..count).map(|_| change(input)).collect();
    let mut bytes = entry.encode(&changes);
    let wrongs = input.u8() & 3;
    for _ in 0..wrongs {
        // Headers and descriptors, above all.
        let at = usize::from(input.u16()) % (bytes.len() - 4);
        bytes[at..at + 4].copy_from_slice(&input.u32().to_le_bytes());
        log::seal(&mut bytes);
    }
    for (index, bytes) in bytes.chunks(4096).enumerate() {
        leaf.write(LOG + (sector + index as u64) % SECTORS * 4096, bytes);
    }
}

/// Near the ring's start, or its end.
fn sector(input: &mut Input<'_>) -> u64 {
    match input.u8() {
        near @ 0..128 => near.into(),
        far => SECTORS - u64::from(255 - far) - 1,
    }
}

fn change(input: &mut Input<'_>) -> Change {
    let kind = input.u8();
    let at = match kind & 3 {
        // Region tables, metadata, BAT; then anywhere near; then anywhere at all.
        0 => [192 * KIB, 5 * MIB, 5 * MIB + 64 * KIB, 6 * MIB][usize::from(kind >> 2 & 3)],
        1 | 2 => u64::from(input.u16()) * 4096,
        _ => input.u64(),
    };
    match kind >> 6 {
        0 => Change::Zeros { at, length: u64::from(input.u16()) * 4096 },
        1 => Change::Zeros { at, length: input.u64() },
        _ => {
            let length = usize::from(input.u8() & 63);
            Change::Page { at, bytes: input.bytes(length).to_vec() }
        }
    }
}
