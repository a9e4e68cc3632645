//! Making the machine the one the host asked for: randomness, clock, name, root disk, limits.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use ireko_protocol::agent::{Configure, FailureKind, VERSION};
use ireko_protocol::bounds::Bounds;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount};

use crate::cgroup::Workload;
use crate::clock;
use crate::disks;
use crate::failure::{During, Failure, Result};
use crate::network;
use crate::rooted::{Root, by_descriptor};
use crate::system_disk::{self, SystemDisk};

/// Where the root disk itself is mounted; the container sees a bind mount of it, see [`crate::view`].
pub const DISK: &str = "/run/disk";
/// How ext4 is mounted: no background work on a disk whose every new block costs.
const OPTIONS: &std::ffi::CStr = c"noinit_itable,discard";

/// The configured machine.
#[derive(Debug)]
pub struct Machine {
    /// What the host asked for; the seed is forgotten.
    pub configure: Configure,
    /// The top folder of the root disk.
    pub disk: OwnedFd,
    /// Where the container's processes live.
    pub workload: Workload,
}

/// Applies the host's configuration. Order matters: no process of the user may see the randomness
/// or the clock of another machine.
pub fn configure(mut wanted: Configure) -> Result<Machine> {
    if wanted.version != VERSION {
        return Err(Failure::new(
            FailureKind::BadInput,
            format!("the agent speaks version {VERSION}, the host {}", wanted.version),
        ));
    }
    seed_random(&std::mem::take(&mut wanted.seed))?;
    clock::set(wanted.unix_nanos)?;
    rustix::system::sethostname(wanted.hostname.as_bytes()).during(|| "set the host name")?;
    network::raise_loopback()?;
    network::bring_all_up(&wanted.interfaces)?;
    set_kernel_parameters(&wanted.bounds)?;
    let disk = mount_root(&wanted)?;
    let workload = Workload::create(&wanted.shares)?;
    Ok(Machine { configure: wanted, disk, workload })
}

fn set_kernel_parameters(bounds: &Bounds) -> Result<()> {
    for (name, value) in &bounds.sysctls {
        let file = name.file();
        fs::write(Path::new("/proc/sys").join(&file), value)
            .during(|| format!("set the kernel parameter {file} to {value:?}"))?;
    }
    Ok(())
}

fn mount_root(wanted: &Configure) -> Result<OwnedFd> {
    let device = disks::find_sized(&wanted.root, wanted.root_bytes)?;
    fs::create_dir_all(DISK).during(|| "make the root disk's mount point")?;
    if wanted.system {
        mount_system(&device.node)?;
    } else {
        // A container's root that is read-only only to the container is mounted writable: missing
        // mount points are made first, the view is closed for writing after.
        let access = if device.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
        mount(&device.node, DISK, "ext4", access, OPTIONS).during(|| {
            let serial = &wanted.root.0;
            format!("mount the root disk \"{serial}\" ({}) as ext4", device.node.display())
        })?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(DISK, flags, Mode::empty()).during(|| "open the root disk's top folder")
}

/// Mounts a whole operating system's root file system, and in it that of /var where it is another one.
fn mount_system(node: &Path) -> Result<()> {
    reread_partitions(node)?;
    let devices = SystemDisk::find(node)?;
    let what = |device: &Path| format!("mount the system's disk ({})", device.display());
    mount(&devices.root, DISK, "ext4", system_disk::FLAGS, OPTIONS)
        .during(|| what(&devices.root))?;
    let Some(var) = devices.var else { return Ok(()) };
    let root = Root::open(DISK).during(|| "open the root disk's top folder")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let place = root.open_at(b"var", flags).during(|| "open the system's /var")?;
    mount(&var, by_descriptor(&place), "ext4", system_disk::FLAGS, OPTIONS).during(|| what(&var))
}

/// _IO(0x12, 95)
const BLKRRPART: libc::c_ulong = 0x125f;

/// A disk that came in the place of another one keeps that one's partitions until somebody asks.
fn reread_partitions(node: &Path) -> Result<()> {
    let disk = rustix::fs::open(node, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .during(|| format!("open {}", node.display()))?;
    // SAFETY: BLKRRPART takes no argument.
    unsafe { ioctl(&disk, BLKRRPART, std::ptr::null_mut()) }
        .during(|| format!("read the partitions of {}", node.display()))
}

/// `struct rand_pool_info` of linux/random.h, with room for the seeds we accept.
#[repr(C)]
struct RandPoolInfo {
    entropy_bits: i32,
    byte_count: i32,
    bytes: [u8; 512],
}

/// _IOW('R', 0x03, int\[2\])
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// _IO('R', 0x07)
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

fn seed_random(seed: &[u8]) -> Result<()> {
    let mut pool = RandPoolInfo { entropy_bits: 0, byte_count: 0, bytes: [0; 512] };
    if seed.len() < 32 || seed.len() > pool.bytes.len() {
        return Err(Failure::new(
            FailureKind::BadInput,
            format!("a seed has 32 to {} bytes, this one {}", pool.bytes.len(), seed.len()),
        ));
    }
    pool.bytes[..seed.len()].copy_from_slice(seed);
    pool.byte_count = seed.len() as i32;
    pool.entropy_bits = pool.byte_count * 8;
    let device = rustix::fs::open("/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .during(|| "open /dev/urandom")?;
    // SAFETY: RNDADDENTROPY reads `byte_count` bytes after the two counts; the array holds them.
    unsafe { ioctl(&device, RNDADDENTROPY, (&raw const pool).cast_mut().cast()) }
        .during(|| "credit the random seed")?;
    // SAFETY: RNDRESEEDCRNG takes no argument.
    unsafe { ioctl(&device, RNDRESEEDCRNG, std::ptr::null_mut()) }
        .during(|| "reseed the random generator")
}

/// An ioctl whose result is only success or failure.
///
/// # Safety
///
/// `argument` is what `request` asks for, valid for as long as the call.
pub(crate) unsafe fn ioctl(
    fd: &OwnedFd,
    request: libc::c_ulong,
    argument: *mut libc::c_void,
) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the caller vouches for the argument.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}
