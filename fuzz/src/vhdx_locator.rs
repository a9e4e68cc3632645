//! The parent locator of a differencing VHDX file.

use crate::exercise::exercise;
use crate::sound::{METADATA, METADATA_ITEMS, chain, read};

/// The item's identifier as it lies in the metadata table.
const LOCATOR: [u8; 16] = [
    0x2D, 0x5F, 0xD3, 0xA8, 0x0B, 0xB3, 0x4D, 0x45, 0xAB, 0xF7, 0xD3, 0xD8, 0x48, 0x34, 0xAB, 0x0C,
];

/// The bytes become the item, behind all others.
pub fn run(data: &[u8]) {
    const PLACE: u32 = 256 << 10;
    let data = &data[..data.len().min(32 << 10)];
    let [mut leaf, base] = chain();
    let entry = (0..16).map(|index| METADATA + 32 + 32 * index);
    let entry = entry.into_iter().find(|&at| read(&leaf, at, 16) == LOCATOR);
    let entry = entry.expect("the child has a locator");
    leaf.write(entry + 16, &PLACE.to_le_bytes());
    leaf.write(entry + 20, &(data.len() as u32).to_le_bytes());
    leaf.write(METADATA_ITEMS - (64 << 10) + u64::from(PLACE), data);
    exercise(&[leaf, base], data);
}
