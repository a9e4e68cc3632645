//! The container's view: its disk, with the file systems every Linux process expects mounted in it.
//!
//! ```text
//!   /run/disk          the root disk
//!   /run/view          bind mount of it, the container's /
//!     dev              tmpfs: nodes, pts (own instance), shm, mqueue
//!     sys              sysfs, read-only
//!     etc/hosts, …     the host's files, bind mounts from /run/files
//! ```
//!
//! /proc and /sys/fs/cgroup show the reader's own namespaces, so the container's first process
//! mounts them itself ([`crate::child`]).

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use ireko_protocol::agent::{DiskSerial, FailureKind, GuestFile};
use ireko_protocol::bounds::Bounds;
use rustix::fs::{FileType, Mode, OFlags, makedev, mknodat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

use crate::configure::{DISK, Machine};
use crate::disks;
use crate::failure::{During, Failure, Result};
use crate::rooted::{Root, by_descriptor};

/// Where the view is put together.
pub const VIEW: &str = "/run/view";
/// Where the host's files are kept; the agent's /run is a tmpfs.
const FILES: &str = "/run/files";

/// The size of /dev/shm where none is asked for: docker's.
const SHM_BYTES: u64 = 64 << 20;

const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Puts the view together; called once, before the container's first process.
pub fn build(machine: &Machine) -> Result<()> {
    fs::create_dir_all(VIEW).during(|| "make the view's mount point")?;
    mount_bind(DISK, VIEW).during(|| "bind the root disk")?;
    let root = Root::open(VIEW).during(|| "open the view")?;
    let bounds = &machine.configure.bounds;
    mount_devices(&root, bounds)?;
    show_disks(&root, &machine.configure.disks)?;
    let access = if bounds.privileged { MountFlags::empty() } else { MountFlags::RDONLY };
    mount_in(&root, "/sys", "sysfs", access | NOTHING_SPECIAL, "")?;
    ensure_folder(&root, "/proc")?;
    for (path, options) in &machine.configure.tmpfs {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount_in(&root, path, "tmpfs", flags, options)?;
    }
    for (index, file) in machine.configure.files.iter().enumerate() {
        show_file(&root, index, &file.path, &file.content)?;
    }
    if machine.configure.read_only {
        mount_remount(VIEW, MountFlags::BIND | MountFlags::RDONLY, c"")
            .during(|| "make the container's root read-only")?;
    }
    Ok(())
}

const NOTHING_SPECIAL: MountFlags =
    MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

fn mount_devices(root: &Root, bounds: &Bounds) -> Result<()> {
    mount_in(root, "/dev", "tmpfs", MountFlags::NOSUID, "mode=755,size=65536k")?;
    let open = OFlags::PATH | OFlags::DIRECTORY;
    let dev = root.open_at(b"/dev", open).during(|| "open the container's /dev")?;
    for (name, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(&dev, name, FileType::CharacterDevice, mode, makedev(major, minor))
            .during(|| format!("make /dev/{name}"))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, &dev, name).during(|| format!("make /dev/{name}"))?;
    }
    if bounds.privileged {
        show_devices(&dev)?;
    }
    let no_exec = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_in(root, "/dev/pts", "devpts", no_exec, "newinstance,ptmxmode=0666,mode=0620,gid=5")?;
    let shm = format!("mode=1777,size={}", bounds.shm_bytes.unwrap_or(SHM_BYTES));
    mount_in(root, "/dev/shm", "tmpfs", NOTHING_SPECIAL, &shm)?;
    mount_in(root, "/dev/mqueue", "mqueue", NOTHING_SPECIAL, "")
}

/// Shows the machine's devices, those at the top of its own /dev, that the container does not have yet.
fn show_devices(dev: &OwnedFd) -> Result<()> {
    let all = fs::read_dir("/dev").during(|| "read the machine's /dev")?;
    for entry in all.flatten() {
        let Ok(found) = entry.metadata() else { continue };
        let kind = match found.file_type() {
            kind if kind.is_char_device() => FileType::CharacterDevice,
            kind if kind.is_block_device() => FileType::BlockDevice,
            _ => continue,
        };
        let mode = Mode::from_raw_mode(found.mode() & 0o777);
        match mknodat(dev, entry.file_name(), kind, mode, found.rdev()) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(cause) => return Err(cause).during(|| format!("show {}", entry.path().display())),
        }
    }
    Ok(())
}

/// Shows the container's further disks as a Linux machine does: by the kernel's name, and by serial.
fn show_disks(root: &Root, disks: &[DiskSerial]) -> Result<()> {
    if disks.is_empty() {
        return Ok(());
    }
    let open = OFlags::PATH | OFlags::DIRECTORY;
    let dev = root.open_at(b"/dev", open).during(|| "open the container's /dev")?;
    let by_id = ensure_folder(root, "/dev/disk/by-id")?;
    for serial in disks {
        let node = disks::find(serial)?.node;
        let showing = || format!("show the container's disk \"{}\"", serial.0);
        let device = rustix::fs::stat(&node).during(showing)?.st_rdev;
        let name = node.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mode = Mode::from_raw_mode(0o660);
        match mknodat(&dev, name, FileType::BlockDevice, mode, device) {
            Ok(()) | Err(Errno::EXIST) => {}
            failed => failed.during(showing)?,
        }
        symlinkat(format!("../../{name}"), &by_id, format!("virtio-{}", serial.0))
            .during(showing)?;
    }
    Ok(())
}

fn ensure_folder(root: &Root, path: &str) -> Result<OwnedFd> {
    root.ensure_folder(path.as_bytes())
        .during(|| format!("make the mount point {path} in the container's root"))
}

fn mount_in(root: &Root, path: &str, kind: &str, flags: MountFlags, options: &str) -> Result<()> {
    let target = ensure_folder(root, path)?;
    let options = std::ffi::CString::new(options).map_err(|_| {
        Failure::new(FailureKind::BadInput, format!("mount options of {path} hold a zero byte"))
    })?;
    mount(kind, by_descriptor(&target), kind, flags, options.as_c_str())
        .during(|| format!("mount {kind} on the container's {path}"))
}

fn show_file(root: &Root, index: usize, path: &str, content: &str) -> Result<()> {
    fs::create_dir_all(FILES).during(|| "make a folder for the host's files")?;
    let source = format!("{FILES}/{index}");
    fs::write(&source, content).during(|| format!("write the container's {path}"))?;
    fs::set_permissions(&source, std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .during(|| format!("write the container's {path}"))?;
    let target = root
        .ensure_file(path.as_bytes())
        .during(|| format!("make the mount point {path} in the container's root"))?;
    mount_bind(&source, by_descriptor(&target)).during(|| format!("show the container's {path}"))
}

/// Replaces the content of files that the view shows.
pub fn rewrite(machine: &Machine, files: &[GuestFile]) -> Result<()> {
    for file in files {
        let shown = machine.configure.files.iter().position(|one| one.path == file.path);
        let Some(index) = shown else {
            let message = format!("the container's {} is not the host's", file.path);
            return Err(Failure::new(FailureKind::BadInput, message));
        };
        // The same file, since that is what is mounted.
        fs::OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(format!("{FILES}/{index}"))
            .and_then(|mut kept| kept.write_all(file.content.as_bytes()))
            .during(|| format!("write the container's {}", file.path))?;
    }
    Ok(())
}

/// Shows the first process's terminal as /dev/console, as docker does.
pub fn show_console(terminal: u32) -> Result<()> {
    let root = Root::open(VIEW).during(|| "open the view")?;
    let target = root.ensure_file(b"/dev/console").during(|| "make /dev/console")?;
    mount_bind(format!("{VIEW}/dev/pts/{terminal}"), by_descriptor(&target))
        .during(|| "show the terminal as /dev/console")
}
