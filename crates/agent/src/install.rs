//! Putting the agent into an operating system, as a service of its.
//!
//! ```text
//!   offline   disk ─► mount ─► /usr/local/sbin/ireko-agent, unit ─► unmount       `image prepare`
//!   by hand   `ireko-agent install` in the system itself: the same, and started
//! ```

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::Command;

use ireko_protocol::agent::{DiskSerial, FailureKind};
use rustix::fs::{Mode, OFlags, openat, renameat};
use rustix::io::Errno;

use crate::failure::{During, Failure, Result};
use crate::rooted::Root;
use crate::system_disk::{SystemDisk, name_of};
use crate::units;

const FOLDER: &str = "usr/local/sbin";
const NAME: &str = "ireko-agent";
const ASIDE: &str = ".ireko-agent.new";
const UNIT: &str = "ireko-agent.service";
/// It is there before the other agent is, so that whoever sees that one sees this one.
const UNIT_TEXT: &str = "\
[Unit]
Description=Ireko's agent
Before=qemu-guest-agent.service
ConditionVirtualization=vm

[Service]
Type=notify
ExecStart=/usr/local/sbin/ireko-agent
Restart=on-failure
RestartSec=1
# What was started by it is not its own.
KillMode=process

[Install]
WantedBy=multi-user.target
";

/// Puts the agent that runs here into the system on the disk with this serial, durably; what that calls
/// itself.
pub fn prepare_disk(serial: &DiskSerial) -> Result<String> {
    let agent = own_executable()?;
    let disk = SystemDisk::mount(serial)?;
    let system = match disk.roots()?.first() {
        Some((_, root)) => install(root, &agent).map(|()| name_of(root))?,
        None => String::new(),
    };
    disk.unmount()?;
    Ok(system)
}

/// Installs the agent that runs here in the system that it runs in, and starts it.
pub fn install_here() -> Result<()> {
    let root = Root::open("/").during(|| "open the root folder")?;
    install(&root, &own_executable()?)?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["restart", UNIT])
}

fn systemctl(words: &[&str]) -> Result<()> {
    let what = || format!("run systemctl {}", words.join(" "));
    let status = Command::new("systemctl").args(words).status().during(what)?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::new(FailureKind::Other, format!("{}: {status}", what()))),
    }
}

fn own_executable() -> Result<Vec<u8>> {
    std::fs::read("/proc/self/exe").during(|| "read the agent's own executable")
}

fn install(root: &Root, agent: &[u8]) -> Result<()> {
    if !units::are_kept(root) {
        let message = "the system has no systemd that could start the agent: have its own means start \
                       ireko-agent as root";
        return Err(Failure::new(FailureKind::BadInput, message));
    }
    put(root, agent).during(|| format!("write /{FOLDER}/{NAME}"))?;
    units::leave(root, UNIT, UNIT_TEXT).during(|| format!("leave {UNIT}"))?;
    let top = root.open_at(b"", OFlags::RDONLY | OFlags::DIRECTORY);
    top.and_then(rustix::fs::syncfs).during(|| "write the disk out")
}

/// Written aside first: one that runs cannot be written to.
fn put(root: &Root, agent: &[u8]) -> rustix::io::Result<()> {
    let folder: OwnedFd = root.ensure_folder(FOLDER.as_bytes())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
    let mode = Mode::from_raw_mode(0o755);
    let file = openat(&folder, ASIDE, flags | OFlags::CLOEXEC, mode)?;
    rustix::fs::fchmod(&file, mode)?;
    let mut file = File::from(file);
    file.write_all(agent)
        .and_then(|()| file.sync_all())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    renameat(&folder, ASIDE, &folder, NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_agent_and_its_unit_are_put_into_a_system_with_systemd_and_into_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        let root = Root::open(top.to_str().unwrap()).unwrap();
        assert!(install(&root, b"elf").unwrap_err().message.contains("no systemd"));
        fs::create_dir_all(top.join("etc/systemd/system")).unwrap();
        for agent in ["one", "another"] {
            install(&root, agent.as_bytes()).unwrap();
            let file = top.join("usr/local/sbin/ireko-agent");
            assert_eq!(fs::read_to_string(&file).unwrap(), agent);
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o755);
        }
        let unit = top.join("etc/systemd/system/multi-user.target.wants").join(UNIT);
        assert_eq!(fs::read_to_string(unit).unwrap(), UNIT_TEXT);
    }
}
