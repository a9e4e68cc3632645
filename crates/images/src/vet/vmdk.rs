//! VMDK: one sparse file that is its own only extent, without a parent.
//!
//! ```text
//!   sector 0          1 …                       the header says where; QEMU always looks at sector 1
//!   │ header, KDMV │ descriptor (text) │ grains …        │ footer: the header again, with the grains' place
//! ```
//!
//! Source: Virtual Disk Format 5.0 of VMware, block/vmdk.c of QEMU.

use super::Header;
use crate::error::Result;

const SECTOR: u64 = 512;
/// How much of a descriptor QEMU reads, from sector 1 on.
const QEMU_READS: usize = 20 * SECTOR as usize;
const MAX_DESCRIPTOR: u64 = 1 << 20;
/// Sectors of a grain, and grains of a table: more than any program makes.
const MAX_GRAIN: u64 = 1 << 16;
const MAX_TABLE: u64 = 512;
/// The place of the grain directory when the header does not know it yet: see the footer.
const AT_END: u64 = u64::MAX;
/// The file's last sectors: footer's marker, footer, end-of-stream marker.
const FOOTER_FROM_END: u64 = 2 * SECTOR;

pub(super) fn check(header: &Header<'_>) -> Result<u64> {
    if &header.bytes::<4>(0)? != b"KDMV" {
        return Err(header
            .refused("is no VMDK file that holds its disk itself")
            .hint("`qemu-img convert -O vmdk FILE WHOLE.vmdk` makes one file of it"));
    }
    let bytes: [u8; SECTOR as usize] = header.bytes(0)?;
    let mut capacity = capacity(header, &bytes)?;
    let mut tables = bytes;
    if u64_at(&bytes, 0x38) == AT_END {
        let end = header.length()?;
        let at = end.checked_sub(FOOTER_FROM_END).ok_or_else(|| header.refused("is cut off"))?;
        let footer: [u8; SECTOR as usize] = header.bytes(at)?;
        if !footer.starts_with(b"KDMV") || u64_at(&footer, 0x38) == AT_END {
            return Err(header.refused("is cut off: its footer is missing"));
        }
        capacity = self::capacity(header, &footer)?;
        tables = footer;
    }
    let (start, length) = (u64_at(&bytes, 0x1c), u64_at(&bytes, 0x24));
    let (start, length) = (start.saturating_mul(SECTOR), length.saturating_mul(SECTOR));
    if start > header.length()? || length > MAX_DESCRIPTOR {
        return Err(header.refused("has a descriptor outside of the file, or too large a one"));
    }
    check_descriptor(header, &header.up_to(SECTOR, QEMU_READS)?)?;
    if start != 0 {
        check_descriptor(header, &header.up_to(start, length as usize)?)?;
    }
    let size = capacity.saturating_mul(SECTOR);
    if size <= super::MAX_DISK {
        check_tables(header, &tables, capacity)?;
    }
    Ok(size)
}

/// Checks that every grain of the disk begins within the file: a reader may take others for zeros.
fn check_tables(header: &Header<'_>, bytes: &[u8], capacity: u64) -> Result<()> {
    let grain = u64_at(bytes, 0x14);
    let grains = u64::from(u32_at(bytes, 0x2c));
    if !(1..=MAX_GRAIN).contains(&grain) || !(1..=MAX_TABLE).contains(&grains) {
        return Err(header.refused(format_args!("has grains of {grain} sectors")));
    }
    let length = header.length()?;
    let entries = capacity.div_ceil(grain * grains);
    let at = u64_at(bytes, 0x38).saturating_mul(SECTOR);
    if at.saturating_add(entries.saturating_mul(4)) > length {
        return Err(header.refused("is cut off: its grain directory is not in the file"));
    }
    let mut tables = 0u64;
    for entry in header.table(at, entries * 4)?.chunks_exact(4) {
        let table = u64::from(u32_at(entry, 0)) * SECTOR;
        if table == 0 {
            continue;
        }
        tables += 1;
        // They do not share their place, so a file has room for so many only.
        if table + grains * 4 > length || tables.saturating_mul(grains * 4) > length {
            return Err(header.refused("is cut off, or damaged: a table is not in the file"));
        }
        let data = header.table(table, grains * 4)?;
        if data.chunks_exact(4).any(|entry| u64::from(u32_at(entry, 0)) * SECTOR >= length) {
            return Err(header.refused("is cut off: data is not in the file"));
        }
    }
    Ok(())
}

/// Returns the disk's size in sectors. With none, a file is a description of others.
fn capacity(header: &Header<'_>, bytes: &[u8]) -> Result<u64> {
    match u64_at(bytes, 0x0c) {
        0 => Err(header.refused("describes a disk whose data is in other files")),
        sectors => Ok(sectors),
    }
}

/// Checks that the text names no parent and one extent at most.
fn check_descriptor(header: &Header<'_>, text: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let mut extents = 0;
    for line in text.split(['\n', '\r', '\0']).map(str::trim) {
        let (key, value) = line.split_once('=').map_or((line, ""), |(k, v)| (k.trim(), v.trim()));
        let orphan = key == "parentcid" && value.trim_matches('"') != "ffffffff";
        if orphan || line.contains("parentfilenamehint") {
            return Err(header
                .refused("is a differencing VMDK: its parent is another file")
                .hint("`qemu-img convert -O vmdk FILE WHOLE.vmdk` makes one file of both"));
        }
        let access = line.split_ascii_whitespace().next();
        if matches!(access, Some("rw" | "rdonly" | "noaccess")) && line.contains('"') {
            extents += 1;
        }
    }
    match extents {
        0 | 1 => Ok(()),
        _ => Err(header
            .refused(format_args!("has its data in {extents} files"))
            .hint("`qemu-img convert -O vmdk FILE WHOLE.vmdk` makes one file of them")),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}
