//! VDI: dynamic or fixed, not differencing: no parent and no link.
//!
//! Source: VDICore.h of VirtualBox, block/vdi.c of QEMU.

use super::Header;
use crate::error::Result;

const LENGTH: usize = 0x200;
const MARK: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
const DYNAMIC: u32 = 1;
const FIXED: u32 = 2;
const DIFFERENCING: u32 = 4;

pub(super) fn check(header: &Header<'_>) -> Result<u64> {
    let bytes: [u8; LENGTH] = header.bytes(0)?;
    if u32_at(&bytes, 0x40) != MARK || u32_at(&bytes, 0x44) != VERSION {
        return Err(header.refused("is no VDI file of version 1.1"));
    }
    let kind = u32_at(&bytes, 0x4c);
    // The link, then the parent; a base disk has neither.
    let named = bytes[0x1a8..0x1c8].iter().any(|byte| *byte != 0);
    match (kind, named) {
        (DYNAMIC | FIXED, false) => {
            check_length(header, &bytes)?;
            Ok(size(&bytes))
        }
        (DIFFERENCING, _) | (_, true) => Err(header
            .refused("is a differencing VDI: its parent is another file")
            .hint("`VBoxManage clonemedium FILE WHOLE.vdi` makes one file of both")),
        _ => Err(header.refused(format_args!("is a VDI of the unknown type {kind}"))),
    }
}

/// Checks that the file holds all blocks that it says it has.
fn check_length(header: &Header<'_>, bytes: &[u8]) -> Result<()> {
    let data = u64::from(u32_at(bytes, 0x158));
    let blocks = u64::from(u32_at(bytes, 0x184)) * u64::from(u32_at(bytes, 0x178));
    match data.saturating_add(blocks) > header.length()? {
        true => Err(header.refused("is cut off")),
        false => Ok(()),
    }
}

fn size(bytes: &[u8]) -> u64 {
    bytes[0x170..0x178].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte))
}
