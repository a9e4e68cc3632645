//! Whether a raw disk begins with a partition table, and whether the file holds all it promises.

const SECTOR: u64 = 512;
/// Where the four entries of a master boot record are.
const ENTRIES: usize = 446;
const ENTRY: usize = 16;
/// The type of the one entry that covers a disk with a GUID partition table.
const PROTECTIVE: u8 = 0xee;
const GPT: &[u8] = b"EFI PART";

/// What the first sectors say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partitions {
    /// There is no partition table.
    None,
    /// There is one, and the file is long enough.
    Whole,
    /// There is one, and it needs a file of `end` bytes.
    CutOff { end: u64 },
    /// There is one that counts in sectors of 4096 bytes.
    LargeSectors,
}

/// Looks at a disk's first bytes; `length` is the whole file's.
///
/// Sources: UEFI specification 2.10, 5.2 and 5.3.2.
pub(super) fn look(head: &[u8], length: u64) -> Partitions {
    let Some(entries) = head.get(ENTRIES..512) else { return Partitions::None };
    if entries[64..] != [0x55, 0xaa] {
        return Partitions::None;
    }
    let entries = entries[..64].chunks_exact(ENTRY);
    let mut end = None;
    for entry in entries {
        let (status, kind) = (entry[0], entry[4]);
        let (first, count) = (word(entry, 8), word(entry, 12));
        match (status, kind, first, count) {
            // A boot sector of a file system ends with the same mark; its code is no table.
            (1..=0x7f | 0x81.., ..) => return Partitions::None,
            (_, 0, ..) => {}
            (_, _, 0, _) | (_, _, _, 0) => return Partitions::None,
            (_, PROTECTIVE, ..) => return by_gpt(head, length),
            _ => end = end.max(Some((u64::from(first) + u64::from(count)) * SECTOR)),
        }
    }
    match end {
        None => Partitions::None,
        Some(end) if end > length => Partitions::CutOff { end },
        Some(_) => Partitions::Whole,
    }
}

fn by_gpt(head: &[u8], length: u64) -> Partitions {
    if head.get(4096..4104) == Some(GPT) && head.get(512..520) != Some(GPT) {
        return Partitions::LargeSectors;
    }
    let Some(header) = head.get(512..604).filter(|header| header.starts_with(GPT)) else {
        return Partitions::None;
    };
    // The copy of the table is the disk's last sector.
    let copy = header[32..40].iter().rev().fold(0, |n: u64, byte| n << 8 | u64::from(*byte));
    let end = copy.saturating_add(1).saturating_mul(SECTOR);
    match end > length {
        true => Partitions::CutOff { end },
        false => Partitions::Whole,
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |n, byte| n << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mbr(entries: &[(u8, u8, u32, u32)]) -> Vec<u8> {
        let mut head = vec![0; 8192];
        for (index, (status, kind, first, count)) in entries.iter().enumerate() {
            let at = ENTRIES + index * ENTRY;
            head[at] = *status;
            head[at + 4] = *kind;
            head[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
            head[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
        }
        head[510..512].copy_from_slice(&[0x55, 0xaa]);
        head
    }

    #[test]
    fn a_partition_table_is_told_from_a_boot_sector() {
        let one = mbr(&[(0x80, 0x83, 2048, 2048)]);
        assert_eq!(look(&one, 4096 * 512), Partitions::Whole);
        assert_eq!(look(&one, 4095 * 512), Partitions::CutOff { end: 4096 * 512 });
        assert_eq!(look(&mbr(&[]), 1 << 30), Partitions::None);
        assert_eq!(look(&mbr(&[(0x33, 0x83, 2048, 2048)]), 1 << 30), Partitions::None);
        assert_eq!(look(&mbr(&[(0, 0x83, 0, 2048)]), 1 << 30), Partitions::None);
        assert_eq!(look(&one[..511], 1 << 30), Partitions::None);
        assert_eq!(look(&[0; 8192], 8192), Partitions::None);
    }

    #[test]
    fn a_gpt_reaches_to_its_copy() {
        let mut disk = mbr(&[(0, PROTECTIVE, 1, u32::MAX)]);
        assert_eq!(look(&disk, 1 << 30), Partitions::None);
        disk[512..520].copy_from_slice(GPT);
        disk[544..552].copy_from_slice(&99u64.to_le_bytes());
        assert_eq!(look(&disk, 100 * 512), Partitions::Whole);
        assert_eq!(look(&disk, 99 * 512), Partitions::CutOff { end: 100 * 512 });
        disk[544..552].fill(0xff);
        assert_eq!(look(&disk, 1 << 40), Partitions::CutOff { end: u64::MAX });
        disk[512..520].fill(0);
        disk[4096..4104].copy_from_slice(GPT);
        assert_eq!(look(&disk, 1 << 30), Partitions::LargeSectors);
    }
}
