//! Coming up as the machine's first process.
//!
//! ```text
//!   initramfs ─► a root that can be pivoted ─► /dev /proc /sys /run ─► modules ─► port ─► serve
//! ```

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_bind_recursive, mount_move};

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::failure::{During, Failure, Result};
use crate::serve::{self, Role};
use crate::{kmsg, port::Port, power_off};

/// Where the initramfs keeps kernel modules, loaded in the order of their names.
const MODULES: &str = "/modules";
/// How long the virtio-serial port may take to appear after the modules are loaded.
const PORT_PATIENCE: Duration = Duration::from_secs(30);

/// Runs the machine until it is powered off. The caller is PID 1.
pub fn run() -> ! {
    // A panic must not reach the kernel as the death of init before the disk is in order.
    let ended = std::panic::catch_unwind(|| -> Result<()> {
        come_up()?;
        load_modules(Path::new(MODULES));
        let port = Port::find(PORT_PATIENCE)?;
        serve::serve(port, Role::Init)
    });
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => kmsg::warn(failure),
        Err(_) => kmsg::warn("internal error, powering off"),
    }
    power_off::power_off()
}

/// How many files one process may have open; what it may raise its own limit to.
const OPEN_FILES: u64 = 524_288;

fn come_up() -> Result<()> {
    rustix::process::umask(Mode::empty());
    leave_rootfs()?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    attach("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755")?;
    open_standard_streams();
    attach("proc", "/proc", quiet, "")?;
    attach("sysfs", "/sys", quiet, "")?;
    attach("cgroup2", "/sys/fs/cgroup", quiet, "")?;
    attach("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, "mode=0755")?;
    raise_limits();
    Ok(())
}

/// Takes away the limits the kernel derives from the size of its memory: the machine is the
/// container's own, and its cgroup is what limits it.
fn raise_limits() {
    let unlimited = Rlimit { current: None, maximum: None };
    let files = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    for (resource, limit) in
        [(Resource::Nproc, unlimited), (Resource::Sigpending, unlimited), (Resource::Nofile, files)]
    {
        if let Err(cause) = setrlimit(resource, limit) {
            kmsg::warn(format_args!("raise a limit: {cause}"));
        }
    }
}

fn attach(kind: &str, target: &str, flags: MountFlags, options: &str) -> Result<()> {
    // Missing only in the initramfs itself; sysfs brings its own folders.
    let _ = std::fs::create_dir(target);
    let options = std::ffi::CString::new(options).unwrap_or_default();
    mount(kind, target, kind, flags, options.as_c_str())
        .during(|| format!("mount {kind} on {target}"))
}

/// Puts a mount over the initramfs' own: `pivot_root`, by which the container gets a mount
/// namespace with nothing of ours in it, refuses to work from a root that is mounted on nothing.
fn leave_rootfs() -> Result<()> {
    let stage = "/.root";
    std::fs::create_dir(stage).during(|| "make a folder in the initramfs")?;
    mount_bind_recursive("/", stage).during(|| "bind the initramfs")?;
    rustix::process::chdir(stage).during(|| "enter the bound initramfs")?;
    mount_move(".", "/").during(|| "move the bound initramfs")?;
    rustix::process::chroot(".").during(|| "change to the bound initramfs")?;
    rustix::process::chdir("/").during(|| "change to the bound initramfs")
}

/// Makes 0, 1 and 2 valid, so that no file opened later takes one of these numbers.
fn open_standard_streams() {
    loop {
        match rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()) {
            Ok(null) if null.as_raw_fd() <= 2 => std::mem::forget(null),
            _ => break,
        }
    }
    if let Ok(log) = rustix::fs::open("/dev/kmsg", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
    {
        // A panic's words end in the kernel log.
        let _ = rustix::stdio::dup2_stderr(&log);
    }
}

fn load_modules(folder: &Path) {
    let mut modules: Vec<PathBuf> = match std::fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(_) => return,
    };
    modules.retain(|path| path.extension().is_some_and(|extension| extension == "ko"));
    modules.sort();
    for module in &modules {
        if let Err(failure) = load_module(module) {
            kmsg::warn(failure);
        }
    }
}

fn load_module(path: &Path) -> Result<()> {
    let what = || format!("load module {}", path.display());
    let file =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during(what)?;
    match rustix::system::finit_module(&file, c"", 0) {
        // Built into the kernel, or loaded before.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(cause) => Err(Failure::of(what(), cause)),
    }
}
