//! Finding a disk of the VM by its virtio serial.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ireko_protocol::agent::{DiskSerial, FailureKind};

use crate::failure::{Failure, Result};
use crate::{kmsg, uevent};

/// How long a disk may take to appear, or to get its size. One that is plugged in takes an emulated
/// machine half a second, and one on a busy host many.
const PATIENCE: Duration = Duration::from_secs(45);

/// A disk that is there and has a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDisk {
    /// Its device node.
    pub node: PathBuf,
    /// The host gave it read-only.
    pub read_only: bool,
}

/// Waits for the disk with this serial; a placeholder of size 0 does not count until it grows.
pub fn find(serial: &DiskSerial) -> Result<BlockDisk> {
    find_sized(serial, None)
}

/// The same; where the size in bytes is known, nothing of another size is it.
pub fn find_sized(serial: &DiskSerial, bytes: Option<u64>) -> Result<BlockDisk> {
    let folder = Path::new("/sys/block");
    let found = uevent::wait_for(PATIENCE, || find_in(folder, serial, bytes)).ok_or_else(|| {
        Failure::new(
            FailureKind::NoSuch,
            format!("the machine has no disk with serial \"{}\"", serial.0),
        )
    })?;
    if let Err(cause) = read_ahead(folder, &found) {
        kmsg::warn(format_args!("read ahead from {}: {cause}", found.node.display()));
    }
    Ok(found)
}

/// How much the kernel reads at once of a file that is mapped or read in order, in KiB. A request costs
/// an emulated machine as much as copying so many bytes.
const READ_AHEAD: u32 = 1024;

fn read_ahead(blocks: &Path, disk: &BlockDisk) -> std::io::Result<()> {
    let Some(name) = disk.node.file_name() else { return Ok(()) };
    std::fs::write(blocks.join(name).join("queue/read_ahead_kb"), READ_AHEAD.to_string())
}

/// What the kernel counts a disk's size in, in bytes, whatever its sectors.
const SECTOR: u64 = 512;

fn find_in(blocks: &Path, serial: &DiskSerial, bytes: Option<u64>) -> Option<BlockDisk> {
    std::fs::read_dir(blocks).ok()?.find_map(|entry| {
        let folder = entry.ok()?;
        let name = folder.file_name().into_string().ok().filter(|name| name.starts_with("vd"))?;
        let attribute = |name| {
            let text = std::fs::read_to_string(folder.path().join(name)).ok()?;
            Some(text.trim_end_matches(['\n', '\0']).to_owned())
        };
        let size = attribute("size")?.parse::<u64>().ok()?.checked_mul(SECTOR)?;
        if attribute("serial")? != serial.0 || size == 0 || bytes.is_some_and(|it| it != size) {
            return None;
        }
        let read_only = attribute("ro").is_some_and(|value| value == "1");
        Some(BlockDisk { node: Path::new("/dev").join(name), read_only })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_read_a_mebibyte_at_a_time() {
        let blocks = tempfile::tempdir().unwrap();
        let queue = blocks.path().join("vda/queue");
        std::fs::create_dir_all(&queue).unwrap();
        std::fs::write(queue.join("read_ahead_kb"), "128\n").unwrap();
        let disk = BlockDisk { node: "/dev/vda".into(), read_only: false };
        read_ahead(blocks.path(), &disk).unwrap();
        assert_eq!(std::fs::read_to_string(queue.join("read_ahead_kb")).unwrap(), "1024");
    }

    #[test]
    fn a_disk_is_found_by_serial_once_it_has_a_size() {
        let blocks = tempfile::tempdir().unwrap();
        let disk = |name: &str, serial: &str, size: &str| {
            let folder = blocks.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("serial"), serial).unwrap();
            std::fs::write(folder.join("size"), size).unwrap();
            std::fs::write(folder.join("ro"), "1\n").unwrap();
        };
        disk("sda", "root", "8\n");
        disk("vda", "other\n", "8\n");
        disk("vdb", "root\n", "0\n");
        let root = DiskSerial::root();
        assert_eq!(find_in(blocks.path(), &root, None), None);
        std::fs::write(blocks.path().join("vdb/size"), "2048\n").unwrap();
        let found = Some(BlockDisk { node: "/dev/vdb".into(), read_only: true });
        assert_eq!(find_in(blocks.path(), &root, None), found);
        assert_eq!(find_in(blocks.path(), &root, Some(1 << 20)), found);
        assert_eq!(find_in(blocks.path(), &root, Some(1 << 21)), None);
    }
}
