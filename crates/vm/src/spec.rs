//! What a VM is asked to be; names nothing of the program that provides it.

use crate::accel::Accel;
use crate::error::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// The longest serial a virtio block device can show its guest, in bytes.
/// Source: VIRTIO 1.2, 5.2.6 (VIRTIO_BLK_T_GET_ID).
pub const MAX_SERIAL: usize = 20;

/// The longest path a unix socket can be bound to, in bytes. Source: unix(7).
const MAX_SOCKET_PATH: usize = 107;

/// The longest name of a network device of the host's, in bytes. Source: netdevice(7), IFNAMSIZ.
const MAX_DEVICE: usize = 15;

/// One virtual machine, resolved: every path absolute, every choice made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSpec {
    /// For people looking at processes; not unique, no meaning to the VM.
    pub name: String,
    /// How the guest's CPUs are run; see [`crate::accel::verdict`].
    pub accel: Accel,
    /// Guest RAM in MiB, at least 1; taken from the host as the guest touches it.
    pub memory_mib: u64,
    /// Virtual CPUs, at least 1.
    pub vcpus: u32,
    /// What it boots.
    pub boot: Boot,
    /// Block devices in the order the guest finds them; told apart by serial.
    pub disks: Vec<DiskAttachment>,
    /// Byte channels between host and guest, by name.
    pub ports: Vec<GuestPort>,
    /// Network devices in the order the guest finds them.
    pub nics: Vec<Nic>,
    /// The unix socket on which the VM takes control commands; made by the launch, replacing what
    /// lies there.
    pub control: PathBuf,
    /// Where the guest's first serial line leads.
    pub console: Console,
    /// The folder of the host's control group (version 2), made before, that its process is in from
    /// its first instruction; `None` leaves it in the caller's.
    pub group: Option<PathBuf>,
}

/// What a VM boots, and what becomes of a guest that resets itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// A kernel of ours. A reset ends the VM.
    Kernel(KernelBoot),
    /// Nothing: it goes on from where another VM was saved. A reset ends the VM.
    ///
    /// The VM waits for [`Control::resume`](crate::Control::resume) before it goes on. All that its
    /// devices are is the saved VM's, but for what is behind them; a network device has the saved
    /// one's address until its guest changes it.
    Saved(SavedVm),
    /// Whatever its first disk holds, on a machine of its own kind. A reset boots it again.
    ///
    /// The VM waits for [`Control::resume`](crate::Control::resume) before its first instruction, or
    /// before it goes on.
    Firmware(MachineBoot),
}

/// What [`Control::save`](crate::Control::save) left of a VM that was like this one: as much memory,
/// as many CPUs, the same devices in the same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedVm {
    /// What was its [`KernelBoot::ram`]. Many VMs share it; none of them changes it.
    pub ram: PathBuf,
    /// The rest of it.
    pub state: PathBuf,
}

/// A machine that boots a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineBoot {
    /// What runs first.
    pub firmware: Firmware,
    /// Which devices it finds.
    pub hardware: Hardware,
    /// Its CPUs can run virtual machines themselves, where the host's can; see
    /// [`crate::accel::nesting`].
    pub nested: bool,
    /// The [state](crate::suspended::Suspended::state) that it goes on from in place of its first
    /// instruction.
    pub resume: Option<PathBuf>,
    /// The unix socket on which its screen is served by VNC, to those who know the password that
    /// [`Control::set_screen_password`](crate::Control::set_screen_password) set last; at first
    /// nobody does.
    pub screen: PathBuf,
}

/// What runs before the operating system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// A PC's BIOS. What it shows is on the serial line as well.
    Bios,
    /// UEFI; see [`crate::firmware::uefi`].
    Uefi(Uefi),
}

/// UEFI and what it remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uefi {
    /// The firmware itself.
    pub code: PathBuf,
    /// Its variables, this VM's own; written to.
    pub nvram: PathBuf,
    /// Only what its keys vouch for is started.
    pub secure_boot: bool,
}

/// Which devices a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// Those made for virtual machines.
    Virtio,
    /// Those of a usual PC: AHCI, VGA, USB.
    Compatible,
}

/// Where a guest's first serial line leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// The VM has no serial line at all, and the kernel's command line must not name one.
    None,
    /// What the guest writes is appended to this file. The guest decides how long it grows, so it
    /// is for looking into one VM, not for every VM.
    Log(PathBuf),
    /// The unix socket on which the host's end listens, for one client at a time. It is there when
    /// the launch returns. Nobody reading holds the guest up; nobody connected does not.
    Socket(PathBuf),
}

/// A Linux kernel started without firmware menus or a boot loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelBoot {
    /// An uncompressed, PVH-capable ELF image.
    pub kernel: PathBuf,
    /// The initial root file system, cpio.
    pub initrd: PathBuf,
    /// See [`crate::kernel::command_line`].
    pub command_line: String,
    /// The file that is the VM's RAM, of its size: a VM that is to be saved has one.
    pub ram: Option<PathBuf>,
}

/// One block device of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskAttachment {
    /// What the guest reads in /sys/block/*/serial: 1 to [`MAX_SERIAL`] ASCII letters, digits, `.`,
    /// `_` or `-`, unique in the VM.
    pub serial: String,
    /// Where its bytes are.
    pub source: DiskSource,
    /// Whether the guest may write.
    pub read_only: bool,
}

/// Where a disk's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskSource {
    /// An NBD server on a unix socket.
    Nbd {
        /// Its socket.
        socket: PathBuf,
        /// The export's name.
        export: String,
    },
    /// A file that holds exactly the disk's bytes; a last partial sector reads zero-filled.
    RawFile {
        /// The file.
        path: PathBuf,
    },
    /// Nowhere: a disk without a byte, in the place of one that a VM gets which goes on from this
    /// one's saved state.
    Empty,
}

/// One network device of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its address: six bytes, the first one even.
    pub mac: [u8; 6],
    /// Where its cable leads.
    pub cable: Cable,
}

/// Where a network device's cable leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cable {
    /// To the unix socket on which the VM listens for whoever passes its frames on, each after its
    /// length as a big-endian u32. One that hangs up may be followed by another.
    Socket(PathBuf),
    /// To the host's TAP device of this name, which the VM's user may open.
    Tap(String),
}

/// One byte channel between host and guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPort {
    /// What the guest finds in /sys/class/virtio-ports/*/name.
    pub name: String,
    /// The unix socket on which the host's end listens, for one client at a time. It is there when
    /// the launch returns.
    pub socket: PathBuf,
}

impl VmSpec {
    /// Checks what the types leave open.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidSpec`] naming the first field that no VM can be made from.
    pub fn check(&self) -> Result<()> {
        require(self.memory_mib >= 1, || "a VM needs memory".into())?;
        require(self.vcpus >= 1, || "a VM needs a CPU".into())?;
        for (index, disk) in self.disks.iter().enumerate() {
            disk.check()?;
            let twin = self.disks[..index].iter().any(|other| other.serial == disk.serial);
            require(!twin, || format!("two disks have the serial {:?}", disk.serial))?;
        }
        for port in &self.ports {
            require(!port.name.is_empty(), || "a port has no name".into())?;
            check_socket(&port.socket)?;
        }
        if let Console::Socket(socket) = &self.console {
            check_socket(socket)?;
        }
        if let Boot::Firmware(boot) = &self.boot {
            check_socket(&boot.screen)?;
        }
        for (index, nic) in self.nics.iter().enumerate() {
            nic.check()?;
            let twin = self.nics[..index].iter().any(|other| other.mac == nic.mac);
            require(!twin, || "two network devices have one MAC address".into())?;
        }
        check_socket(&self.control)
    }
}

impl Nic {
    /// Checks what the types leave open.
    pub(crate) fn check(&self) -> Result<()> {
        require(self.mac[0] & 1 == 0, || "a MAC address is that of a group".into())?;
        match &self.cable {
            Cable::Socket(socket) => check_socket(socket),
            Cable::Tap(name) => require((1..=MAX_DEVICE).contains(&name.len()), || {
                format!("a network device of the host cannot be called {name:?}")
            }),
        }
    }
}

impl DiskAttachment {
    pub(crate) fn check(&self) -> Result<()> {
        check_serial(&self.serial)?;
        match &self.source {
            DiskSource::Nbd { socket, .. } => check_socket(socket),
            DiskSource::RawFile { .. } | DiskSource::Empty => Ok(()),
        }
    }
}

fn check_serial(serial: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    require((1..=MAX_SERIAL).contains(&serial.len()) && serial.bytes().all(allowed), || {
        format!("disk serial {serial:?} is not 1 to {MAX_SERIAL} plain ASCII characters")
    })
}

fn check_socket(path: &Path) -> Result<()> {
    let length = path.as_os_str().len();
    require(length <= MAX_SOCKET_PATH, || {
        format!(
            "socket path {} has {length} bytes; the system allows {MAX_SOCKET_PATH}",
            path.display()
        )
    })
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::new(ErrorKind::InvalidSpec, otherwise())) }
}
