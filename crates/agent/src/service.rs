//! The agent as a service of an operating system that is not ours.
//!
//! Here it is one process among others: it mounts nothing, has no container, may be ended and started
//! again, and ends where it has nothing to do.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::{During, Result};
use crate::port::Port;
use crate::serve::{self, Role};
use crate::{install, kmsg, thaw_guard, uevent};

/// How long the driver of a device for ports may take to be loaded, early in a slow boot. The system's own
/// service manager waits for that, and starts nothing meanwhile that comes after us.
const DRIVER_PATIENCE: Duration = Duration::from_secs(60);
/// How long our port may take once there are ports.
const PORT_PATIENCE: Duration = Duration::from_secs(5);
/// The numbers of a PCI device for ports. Source: VIRTIO 1.2, 4.1.2.
const VENDOR: &str = "0x1af4";
const DEVICES: [&str; 2] = ["0x1003", "0x1043"];

/// Does what the words say, and returns the exit status: no word is to serve, `install` to install it in
/// this system.
pub fn main(words: &[String]) -> i32 {
    let done = match words {
        [] => run(),
        [word] if word == "install" => install::install_here(),
        [word, numbers @ ..] if word == thaw_guard::WORD => thaw_guard::main(numbers),
        _ => {
            eprintln!("usage: ireko-agent [install]");
            return 2;
        }
    };
    match done {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("ireko-agent: {failure}");
            kmsg::warn(failure);
            1
        }
    }
}

fn run() -> Result<()> {
    // SAFETY: no handler is set; what a process leaves unread is an error of that write alone.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    raise_file_limit();
    let port = find_port();
    tell_service_manager()?;
    match port {
        Ok(port) => serve::serve(port, Role::Service),
        Err(failure) if failure.kind == ireko_protocol::agent::FailureKind::NoSuch => {
            // Not a machine of Ireko's: nobody is there to be served.
            eprintln!("ireko-agent: {failure}");
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}

/// Waits no longer than it takes to know that there is none.
fn find_port() -> Result<Port> {
    if !may_have_ports(Path::new("/sys/bus/pci/devices")) {
        return Port::find(Duration::ZERO);
    }
    let any = || fs::read_dir("/sys/class/virtio-ports").ok()?.next().map(drop);
    // Where no port appears at all, there is none of ours.
    let _ = uevent::wait_for(DRIVER_PATIENCE, any);
    Port::find(PORT_PATIENCE)
}

fn may_have_ports(devices: &Path) -> bool {
    let says = |folder: &Path, name: &str, numbers: &[&str]| {
        let number = fs::read_to_string(folder.join(name)).unwrap_or_default();
        numbers.contains(&number.trim())
    };
    fs::read_dir(devices).into_iter().flatten().flatten().any(|entry| {
        says(&entry.path(), "vendor", &[VENDOR]) && says(&entry.path(), "device", &DEVICES)
    })
}

/// Each process that runs takes some files of ours.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(cause) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        kmsg::warn(format_args!("raise a limit: {cause}"));
    }
}

/// Says that it is up. Source: sd_notify(3).
fn tell_service_manager() -> Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(b"READY=1", path))
        .map(drop)
        .during(|| "tell the service manager")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_device_for_ports_is_known_at_once() {
        let devices = tempfile::tempdir().unwrap();
        let add = |name: &str, vendor: &str, device: &str| {
            let folder = devices.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("vendor"), format!("{vendor}\n")).unwrap();
            fs::write(folder.join("device"), format!("{device}\n")).unwrap();
        };
        assert!(!may_have_ports(devices.path()));
        add("disk", "0x1af4", "0x1001");
        add("other", "0x8086", "0x1003");
        assert!(!may_have_ports(devices.path()));
        add("ports", "0x1af4", "0x1003");
        assert!(may_have_ports(devices.path()));
    }
}
