//! Which machine boots a disk: guessed from its partition table, and from nothing else.
//!
//! ```text
//!   GPT with an EFI system partition ─► UEFI          every partition a Linux one,
//!   MBR with one, and none active    ─► UEFI          or an EFI or BIOS boot one   ─► virtio
//!   anything else                    ─► BIOS          anything else                ─► compatible
//! ```
//!
//! Sectors are read, no file system is. That a partition is Linux's is taken for virtio drivers:
//! every distribution's kernel has had them since 2008. A system whose initramfs was made for one
//! other machine alone may lack them; it boots on compatible hardware. What is guessed is written
//! into the image's configuration, and whoever makes a container may say otherwise.

use crate::error::{During, Result};
use crate::store::Store;
use ireko_disk::{Access, Chain, Disk};
use ireko_oci::{Firmware, Hardware, MachineConfig};
use std::path::{Path, PathBuf};

const SECTOR: u64 = 512;
/// Where the four entries of a master boot record are.
const ENTRIES: usize = 446;
const ENTRY: usize = 16;
/// The type of the one entry that covers a disk with a GUID partition table.
const PROTECTIVE: u8 = 0xee;
/// Every partitioning program writes this size and this number of entries, or fewer.
const GPT_ENTRY: usize = 128;
const MOST_GPT_ENTRIES: usize = 128;

/// What a partition is for, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Firmware's: an EFI system partition.
    Efi,
    /// A boot loader's place on a disk of either firmware.
    Loader,
    Linux,
    Other,
}

/// What a partition table says.
#[derive(Debug, Default, PartialEq)]
struct Table {
    uses: Vec<Use>,
    /// A BIOS finds something to start.
    active: bool,
}

impl Store {
    /// Guesses which machine boots the disk at `leaf`, a container's or an image's.
    pub fn guess_machine(&self, leaf: &Path) -> Result<MachineConfig> {
        guess(&self.chain(leaf)?)
    }
}

/// Guesses which machine boots the disk that these files, leaf first, are.
pub(crate) fn guess(chain: &[PathBuf]) -> Result<MachineConfig> {
    let reading = || {
        format!(
            "read the partition table of {}",
            chain.first().unwrap_or(&PathBuf::new()).display()
        )
    };
    let disk = Chain::open(chain, Access::ReadOnly).during(reading)?;
    Ok(suits(&read_table(&disk).during(reading)?))
}

fn suits(table: &Table) -> MachineConfig {
    let uefi = table.uses.contains(&Use::Efi) && !table.active;
    let linux = table.uses.contains(&Use::Linux) && !table.uses.contains(&Use::Other);
    MachineConfig {
        firmware: if uefi { Firmware::Uefi } else { Firmware::Bios },
        hardware: if linux { Hardware::Virtio } else { Hardware::Compatible },
    }
}

/// Sources: UEFI specification 2.10, 5.2 and 5.3.
fn read_table(disk: &dyn Disk) -> ireko_disk::Result<Table> {
    let size = disk.geometry().virtual_size;
    if size < 2 * SECTOR {
        return Ok(Table::default());
    }
    let mut head = [0; 2 * SECTOR as usize];
    disk.read_at(0, &mut head)?;
    let (record, header) = head.split_at(SECTOR as usize);
    if record[510..] != [0x55, 0xaa] {
        return Ok(Table::default());
    }
    let entries = record[ENTRIES..510].chunks_exact(ENTRY);
    if entries.clone().any(|entry| !matches!(entry[0], 0 | 0x80)) {
        // The boot sector of a file system: its code is no table.
        return Ok(Table::default());
    }
    if entries.clone().any(|entry| entry[4] == PROTECTIVE) {
        return Ok(Table { uses: read_gpt(disk, header, size)?, active: false });
    }
    let active = entries.clone().any(|entry| entry[0] == 0x80);
    let uses = entries.map(|entry| entry[4]).filter(|kind| *kind != 0).map(use_of_byte).collect();
    Ok(Table { uses, active })
}

fn read_gpt(disk: &dyn Disk, header: &[u8], size: u64) -> ireko_disk::Result<Vec<Use>> {
    if !header.starts_with(b"EFI PART") || number(&header[84..88]) != GPT_ENTRY as u64 {
        return Ok(Vec::new());
    }
    let count = (number(&header[80..84]) as usize).min(MOST_GPT_ENTRIES);
    let mut table = vec![0; count * GPT_ENTRY];
    let at = number(&header[72..80]).checked_mul(SECTOR);
    let end = at.and_then(|at| at.checked_add(table.len() as u64));
    let (Some(at), Some(_)) = (at, end.filter(|end| *end <= size)) else { return Ok(Vec::new()) };
    disk.read_at(at, &mut table)?;
    let kinds = table.chunks_exact(GPT_ENTRY).map(|entry| &entry[..16]);
    Ok(kinds.filter(|kind| kind.iter().any(|byte| *byte != 0)).map(use_of_guid).collect())
}

/// What the type byte of a master boot record's partition says.
fn use_of_byte(kind: u8) -> Use {
    match kind {
        0xef => Use::Efi,
        // File system, swap, LVM, RAID; extended partitions hold what they hold.
        0x82 | 0x83 | 0x8e | 0xfd | 0x85 | 0x05 | 0x0f => Use::Linux,
        _ => Use::Other,
    }
}

/// What the type GUID of a GPT partition says. Sources: UEFI specification 2.10, table 5.7; the
/// Discoverable Partitions Specification.
fn use_of_guid(kind: &[u8]) -> Use {
    const USES: [(&str, Use); 12] = [
        ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", Use::Efi),
        ("21686148-6449-6e6f-744e-656564454649", Use::Loader),
        ("0fc63daf-8483-4772-8e79-3d69d8477de4", Use::Linux),
        ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", Use::Linux),
        ("bc13c2ff-59e6-4262-a352-b275fd6f7172", Use::Linux),
        ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", Use::Linux),
        ("e6d6d379-f507-44c2-a23c-238f2a3df928", Use::Linux),
        ("a19d880f-05fc-4d3b-a006-743f0f84911e", Use::Linux),
        ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", Use::Linux),
        ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", Use::Linux),
        ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", Use::Linux),
        ("8484680c-9521-48c6-9c11-b0720656f69e", Use::Linux),
    ];
    let text = guid_text(kind);
    USES.iter().find(|(guid, _)| *guid == text).map_or(Use::Other, |(_, known)| *known)
}

/// The first three fields of a GUID are little-endian.
fn guid_text(bytes: &[u8]) -> String {
    let field = |range: std::ops::Range<usize>, swapped: bool| {
        let mut part = bytes[range].to_vec();
        if swapped {
            part.reverse();
        }
        part.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let fields = [(0..4, true), (4..6, true), (6..8, true), (8..10, false), (10..16, false)];
    fields.map(|(range, swapped)| field(range, swapped)).join("-")
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Firmware::{Bios, Uefi};
    use Hardware::{Compatible, Virtio};
    use ireko_disk::{Format, NewDisk, convert};
    use std::os::unix::fs::FileExt;

    fn mbr(entries: &[(u8, u8)]) -> Vec<u8> {
        let mut disk = vec![0; 1 << 20];
        for (index, (status, kind)) in entries.iter().enumerate() {
            disk[ENTRIES + index * ENTRY] = *status;
            disk[ENTRIES + index * ENTRY + 4] = *kind;
        }
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        disk
    }

    fn gpt(kinds: &[&str]) -> Vec<u8> {
        let mut disk = mbr(&[(0, PROTECTIVE)]);
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[584] = 2;
        disk[592] = 128;
        disk[596] = 128;
        for (index, kind) in kinds.iter().enumerate() {
            let digits = kind.replace('-', "");
            let mut bytes: Vec<_> = (0..16)
                .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            bytes[..4].reverse();
            bytes[4..6].reverse();
            bytes[6..8].reverse();
            let at = 1024 + index * GPT_ENTRY;
            disk[at..at + 16].copy_from_slice(&bytes);
        }
        disk
    }

    #[track_caller]
    fn check(bytes: &[u8], firmware: Firmware, hardware: Hardware) {
        let folder = tempfile::tempdir().unwrap();
        let (raw, vhdx) = (folder.path().join("raw"), folder.path().join("disk.vhdx"));
        std::fs::File::create(&raw).unwrap().write_all_at(bytes, 0).unwrap();
        let disk = Chain::open_as(&raw, Format::Raw, Access::ReadOnly).unwrap();
        convert(&disk, &vhdx, &NewDisk::like(Format::Vhdx, disk.geometry()), &()).unwrap();
        assert_eq!(guess(&[vhdx]).unwrap(), MachineConfig { firmware, hardware });
    }

    const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
    const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";
    const RESERVED: &str = "e3c9e316-0b5c-4db8-817d-f92df00215ae";
    const BASIC: &str = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7";

    #[test]
    fn an_efi_system_partition_means_uefi_unless_a_bios_finds_an_active_one() {
        check(&gpt(&[ESP, LINUX]), Uefi, Virtio);
        check(&gpt(&["21686148-6449-6e6f-744e-656564454649", LINUX]), Bios, Virtio);
        check(&mbr(&[(0, 0xef), (0, 0x83)]), Uefi, Virtio);
        check(&mbr(&[(0x80, 0x83), (0, 0xef)]), Bios, Virtio);
    }

    #[test]
    fn only_a_disk_that_is_all_linux_gets_virtio() {
        check(&gpt(&[ESP, RESERVED, BASIC]), Uefi, Compatible);
        check(&gpt(&[ESP, LINUX, BASIC]), Uefi, Compatible);
        check(&mbr(&[(0x80, 0x07)]), Bios, Compatible);
        check(&mbr(&[(0x80, 0x83), (0, 0x05)]), Bios, Virtio);
        check(&mbr(&[(0, 0x83), (0, 0xa6)]), Bios, Compatible);
    }

    #[test]
    fn a_disk_that_says_nothing_or_lies_is_booted_by_the_bios_on_compatible_hardware() {
        check(&vec![0; 1 << 20], Bios, Compatible);
        check(&mbr(&[(0x33, 0x83)]), Bios, Compatible);
        check(&mbr(&[]), Bios, Compatible);
        let mut far = gpt(&[ESP, LINUX]);
        far[584..592].fill(0xff);
        check(&far, Bios, Compatible);
        let mut odd = gpt(&[ESP, LINUX]);
        odd[596] = 1;
        check(&odd, Bios, Compatible);
        let mut many = gpt(&[ESP, LINUX]);
        many[592..596].fill(0xff);
        check(&many, Uefi, Virtio);
    }
}
