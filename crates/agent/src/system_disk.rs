//! The file systems of a whole operating system's disk, mounted beside our own to be worked on, or only
//! found.

use std::path::{Path, PathBuf};

use ireko_protocol::agent::{DiskSerial, FailureKind};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::disks;
use crate::failure::{During, Failure, Result};
use crate::rooted::Root;

/// Where a system's file systems are mounted.
const MOUNTS: &str = "/run/system";
/// No disk has more partitions that matter.
const MOST_PARTITIONS: usize = 128;
/// Of somebody else's file system nothing is executed or opened as a device.
pub const FLAGS: MountFlags = MountFlags::NODEV.union(MountFlags::NOSUID).union(MountFlags::NOEXEC);

/// The file systems of a disk that can be mounted.
pub struct SystemDisk(Vec<Mounted>);

struct Mounted {
    device: PathBuf,
    folder: PathBuf,
}

/// Where the file systems of a system's own are.
#[derive(Debug, PartialEq, Eq)]
pub struct Devices {
    /// The root file system's device.
    pub root: PathBuf,
    /// That of /var, where it is another one.
    pub var: Option<PathBuf>,
}

impl SystemDisk {
    /// Mounts what can be of the disk with this serial.
    pub fn mount(serial: &DiskSerial) -> Result<Self> {
        Self::mount_node(&disks::find(serial)?.node)
    }

    /// Finds the file systems on the disk of this device; nothing is mounted on return.
    pub fn find(node: &Path) -> Result<Devices> {
        let disk = Self::mount_node(node)?;
        let found = disk.own().map(|(root, var)| Devices {
            root: root.device.clone(),
            var: var.map(|var| var.device.clone()),
        });
        disk.unmount()?;
        found
    }

    fn mount_node(node: &Path) -> Result<Self> {
        let mut mounted = Vec::new();
        for device in devices(node) {
            let folder = Path::new(MOUNTS).join(mounted.len().to_string());
            std::fs::create_dir_all(&folder).during(|| "make a mount point")?;
            // Only ext4's own words tell it from what is no file system of that kind.
            if mount(&device, &folder, "ext4", FLAGS, c"noinit_itable").is_ok() {
                mounted.push(Mounted { device, folder });
            }
        }
        Ok(Self(mounted))
    }

    /// The root file system, and that of /var where it is another one.
    pub fn roots(&self) -> Result<Vec<(&'static str, Root)>> {
        let open = |mounted: &Mounted| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let top = rustix::fs::open(&mounted.folder, flags, Mode::empty());
            top.map(Root::of).during(|| "open a file system of the disk")
        };
        let (root, var) = self.own()?;
        let mut roots = vec![("", open(root)?)];
        if let Some(var) = var {
            roots.push(("var/", open(var)?));
        }
        Ok(roots)
    }

    fn own(&self) -> Result<(&Mounted, Option<&Mounted>)> {
        let has = |one: &Mounted, name: &str| one.folder.join(name).symlink_metadata().is_ok();
        let is_root = |one: &&Mounted| has(one, "etc/fstab") || has(one, "etc/os-release");
        let Some(root) = self.0.iter().find(is_root) else {
            return Err(unsupported("no root file system of a Linux"));
        };
        if has(root, "var/lib") {
            return Ok((root, None));
        }
        let is_var =
            |one: &&Mounted| one.folder != root.folder && has(one, "lib") && has(one, "log");
        match self.0.iter().find(is_var) {
            Some(var) => Ok((root, Some(var))),
            None => Err(unsupported("no file system for the system's /var")),
        }
    }

    /// Writes all out.
    pub fn unmount(&self) -> Result<()> {
        for Mounted { folder, .. } in &self.0 {
            unmount(folder, UnmountFlags::empty()).during(|| "unmount the system's disk")?;
        }
        Ok(())
    }
}

fn unsupported(what: &str) -> Failure {
    let message = format!(
        "{what} is found on ext2, ext3 or ext4: other systems, and disks with LVM, encryption or other \
         file systems, are worked on from inside"
    );
    Failure::new(FailureKind::BadInput, message)
}

/// The disk's partitions, or itself where it has none.
fn devices(node: &Path) -> Vec<PathBuf> {
    let Some(name) = node.file_name() else { return Vec::new() };
    let folder = Path::new("/sys/block").join(name);
    let mut partitions: Vec<_> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("partition").exists())
        .filter_map(|path| Some(Path::new("/dev").join(path.file_name()?)))
        .take(MOST_PARTITIONS)
        .collect();
    partitions.sort();
    if partitions.is_empty() { vec![node.to_owned()] } else { partitions }
}

/// What a system calls itself; empty where it does not say.
pub fn name_of(root: &Root) -> String {
    let text = ["etc/os-release", "usr/lib/os-release"]
        .iter()
        .find_map(|path| root.read_text(path, 64 << 10))
        .unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or_default().trim_matches('"').chars().take(100).collect()
}
