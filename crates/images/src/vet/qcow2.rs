//! qcow2: no backing file, no external data file, no encryption, no unknown feature.
//!
//! Source: docs/interop/qcow2.txt of QEMU.

use super::Header;
use crate::error::Result;

/// The length of a version 2 header, and the least of a version 3 one.
const VERSION_2: u64 = 72;
const VERSION_3: u64 = 104;
/// Header extensions lie within the first cluster, of at most 2 MiB.
const MAX_CLUSTER_BITS: u32 = 21;
const MAX_EXTENSIONS: usize = 64;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// Entries of the first table: as many as QEMU reads.
const MAX_L1: u64 = (32 << 20) / 8;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

const END: u32 = 0;
const EXTERNAL_DATA_NAME: u32 = 0x4441_5441;

pub(super) fn check(header: &Header<'_>) -> Result<u64> {
    let bytes: [u8; VERSION_2 as usize] = header.bytes(0)?;
    let version = u32_at(&bytes, 4);
    if !bytes.starts_with(b"QFI\xfb") || !matches!(version, 2 | 3) {
        return Err(header.refused(format_args!("is no qcow2 file of version 2 or 3")));
    }
    if u64_at(&bytes, 8) != 0 || u32_at(&bytes, 16) != 0 {
        return Err(header
            .refused("has a backing file: it holds only a part of the disk")
            .hint("`qemu-img convert -O qcow2 FILE WHOLE.qcow2` makes one file of both"));
    }
    let cluster_bits = u32_at(&bytes, 20);
    if !(9..=MAX_CLUSTER_BITS).contains(&cluster_bits) {
        return Err(header.refused(format_args!("has clusters of 2^{cluster_bits} bytes")));
    }
    if u32_at(&bytes, 32) != 0 {
        return Err(header
            .refused("is encrypted")
            .hint("`qemu-img convert` with its key makes a plain file"));
    }
    let extensions = match version {
        2 => VERSION_2,
        _ => check_version_3(header)?,
    };
    check_extensions(header, extensions, 1 << cluster_bits)?;
    check_tables(header, &bytes, 1 << cluster_bits)?;
    Ok(u64_at(&bytes, 24))
}

/// Checks that every cluster of the disk begins within the file.
///
/// A reader takes what is past the end for zeros: of a file that was cut off it would make a disk
/// with holes, and say nothing.
fn check_tables(header: &Header<'_>, bytes: &[u8], cluster: u64) -> Result<()> {
    let extended = u32_at(bytes, 4) == 3 && header.bytes::<8>(72)?[7] & EXTENDED_L2 as u8 != 0;
    let entry_size = if extended { 16 } else { 8 };
    let (entries, at) = (u64::from(u32_at(bytes, 36)), u64_at(bytes, 40));
    let length = header.length()?;
    if entries > MAX_L1 || at.saturating_add(entries * 8) > length {
        return Err(header.refused("is cut off, or its table of tables is too large"));
    }
    let mut tables = 0u64;
    for entry in header.table(at, entries * 8)?.chunks_exact(8) {
        let table = u64_at(entry, 0) & OFFSET;
        if table == 0 {
            continue;
        }
        tables += 1;
        // Each is a cluster of its own, so a file has room for so many only.
        if table.saturating_add(cluster) > length || tables.saturating_mul(cluster) > length {
            return Err(header.refused("is cut off, or damaged: a table is not in the file"));
        }
        for entry in header.table(table, cluster)?.chunks_exact(entry_size) {
            let word = u64_at(entry, 0);
            let start = match (word & COMPRESSED != 0, !extended && word & ZERO != 0) {
                (true, _) => word & (COMPRESSED - 1) & compressed_offset(cluster),
                (false, true) => 0,
                (false, false) => word & OFFSET,
            };
            if start >= length {
                return Err(header.refused("is cut off: data is not in the file"));
            }
        }
    }
    Ok(())
}

/// Returns the bits of a compressed cluster's entry that say where it is: the fewer, the larger
/// clusters are.
fn compressed_offset(cluster: u64) -> u64 {
    (1 << (62 - (cluster.trailing_zeros() - 8))) - 1
}

/// Checks the features and returns where the header ends.
fn check_version_3(header: &Header<'_>) -> Result<u64> {
    let bytes: [u8; VERSION_3 as usize] = header.bytes(0)?;
    let features = u64_at(&bytes, 72);
    if features & EXTERNAL_DATA != 0 {
        return Err(external_data(header));
    }
    if features & CORRUPT != 0 {
        return Err(header
            .refused("is marked as corrupt")
            .hint("`qemu-img check -r all FILE` cures what it can"));
    }
    let unknown = features & !(DIRTY | COMPRESSION_TYPE | EXTENDED_L2);
    if unknown != 0 {
        return Err(header.refused(format_args!("needs features that are not known: {unknown:#x}")));
    }
    let length = u64::from(u32_at(&bytes, 100));
    match length >= VERSION_3 && length.is_multiple_of(8) {
        true => Ok(length),
        false => Err(header.refused(format_args!("has a header of {length} bytes"))),
    }
}

fn check_extensions(header: &Header<'_>, mut at: u64, cluster: u64) -> Result<()> {
    for _ in 0..MAX_EXTENSIONS {
        // No room for another one, or the file ends: then there is none.
        if at.saturating_add(8) > cluster.min(header.length()?) {
            return Ok(());
        }
        let extension: [u8; 8] = header.bytes(at)?;
        let (kind, length) = (u32_at(&extension, 0), u64::from(u32_at(&extension, 4)));
        match kind {
            END => return Ok(()),
            EXTERNAL_DATA_NAME => return Err(external_data(header)),
            _ => {}
        }
        at = at.saturating_add(8).saturating_add(length.next_multiple_of(8));
        if at > cluster {
            return Err(header.refused("has a header extension that leads out of its header"));
        }
    }
    Err(header.refused("has too many header extensions"))
}

fn external_data(header: &Header<'_>) -> crate::Error {
    header
        .refused("has its data in another file")
        .hint("`qemu-img convert -O qcow2 FILE WHOLE.qcow2` makes one file of both")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |n, byte| n << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
}
