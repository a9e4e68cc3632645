//! Where VMs get their groups.
//!
//! A group whose children have limits holds no process itself, and a service manager starts its services
//! in their own groups: so a VM's group stands beside the daemon's, not in it, and a daemon can be started
//! anew while VMs run. The slice that the unit names is nobody else's.

use crate::error::{Error, Result};
use crate::group::Group;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The slice of ours that a service manager keeps the daemon in.
pub const SLICE: &str = "ireko.slice";

/// The controllers that limit a VM.
pub const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Time for a group that was only tried to be empty again.
const TRIAL: Duration = Duration::from_secs(5);

/// A group in which groups may be made, proved by doing so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    dir: PathBuf,
    controllers: Vec<&'static str>,
}

impl Home {
    /// The slice of ours that this process runs in.
    ///
    /// Errors where it runs elsewhere, and where no groups can be made there.
    pub fn of_own_slice() -> Result<Self> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|error| Error::io(format!("read {path}"), error))
        };
        let own = own_group(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)?;
        let home = own.ancestors().skip(1).find(|dir| dir.file_name() == Some(SLICE.as_ref()));
        let home = home.ok_or_else(|| {
            Error::refused(format!("the daemon runs in no control group {SLICE}"))
        })?;
        Self::open(home)
    }

    /// The group with this folder, which is to be ours alone.
    ///
    /// Errors where it is none, where a process is in it, where no groups can be made in it, and where a process of this one's
    /// cannot enter them.
    pub fn open(dir: &Path) -> Result<Self> {
        let offered = match fs::read_to_string(dir.join("cgroup.controllers")) {
            Ok(offered) => offered,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::refused("no control group of version 2 is there"));
            }
            Err(error) => return Err(Error::io(format!("look at {}", dir.display()), error)),
        };
        refuse_processes(dir)?;
        let knob = dir.join("cgroup.subtree_control");
        for controller in CONTROLLERS.iter().filter(|name| has_word(&offered, name)) {
            // What is in force is read below: a controller may have been given away already, or not be
            // ours to give.
            let _ = fs::write(&knob, format!("+{controller}"));
        }
        let in_force = fs::read_to_string(&knob)
            .map_err(|error| Error::io(format!("read {}", knob.display()), error))?;
        let controllers =
            CONTROLLERS.into_iter().filter(|name| has_word(&in_force, name)).collect();
        let home = Self { dir: dir.to_owned(), controllers };
        home.try_out()?;
        Ok(home)
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Those of [`CONTROLLERS`] that hold for the groups in it.
    pub fn controllers(&self) -> &[&'static str] {
        &self.controllers
    }

    /// The group of the VM with this id.
    pub fn group(&self, vm: &str) -> Group {
        Group::at(self.dir.join(format!("ireko-vm-{vm}")))
    }

    /// Makes a group and has a process enter it: who may do the one may not always do the other.
    fn try_out(&self) -> Result<()> {
        let trial = Group::at(self.dir.join(format!("ireko-trial-{}", std::process::id())));
        trial.make()?;
        let entered = Command::new("/bin/sh")
            .args(["-c", "echo 0 >\"$0\"/cgroup.procs"])
            .arg(trial.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let ended = trial.end(TRIAL);
        match entered {
            Ok(status) if status.success() => ended,
            Ok(_) => {
                let dir = self.dir.display();
                Err(Error::refused(format!("processes may not enter control groups in {dir}")))
            }
            Err(error) => Err(Error::io("run /bin/sh", error)),
        }
    }
}

/// The folder of the group that this process is in. Source: cgroups(7), proc_pid_mountinfo(5).
fn own_group(cgroup: &str, mountinfo: &str) -> Result<PathBuf> {
    let none = || Error::refused("this host has no control groups of version 2");
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::")).ok_or_else(none)?;
    let (root, mounted) = mountinfo.lines().find_map(mount_of_version_2).ok_or_else(none)?;
    let within = Path::new(own).strip_prefix(root).map_err(|_| {
        Error::refused(format!("the control group of this process, {own}, is mounted nowhere"))
    })?;
    Ok(Path::new(mounted).join(within))
}

/// What is mounted, and where, if this line is about control groups of version 2.
fn mount_of_version_2(line: &str) -> Option<(&str, &str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    (file_system.split(' ').next()? == "cgroup2").then_some(())?;
    Some((fields.next()?, fields.next()?))
}

/// Refuses a group that has processes in it itself: it could give nothing, and to try would make it one of
/// threads, which no process may enter. Only the top of all has groups and processes, and has no type.
fn refuse_processes(dir: &Path) -> Result<()> {
    let inside = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    match inside.trim().is_empty() || !dir.join("cgroup.type").exists() {
        true => Ok(()),
        false => Err(Error::refused("there are processes in it, beside the groups to come")),
    }
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|one| one == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 23 0:26 / /sys rw,nosuid - sysfs sysfs rw
41 31 0:38 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn the_own_group_is_found_below_the_mount() {
        let own = "0::/user.slice/user@1000.service/ireko.slice/ireko.service\n";
        let found = own_group(own, MOUNTS).unwrap();
        let slice = "/sys/fs/cgroup/user.slice/user@1000.service/ireko.slice";
        assert_eq!(found, Path::new(slice).join("ireko.service"));
        assert_eq!(own_group("0::/\n", MOUNTS).unwrap(), Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn hosts_with_version_1_alone_and_mounts_of_other_groups_are_refused() {
        let refused = |own, mounts: &str| own_group(own, mounts).unwrap_err().to_string();
        let version_1 = MOUNTS.replace("cgroup2", "cgroup");
        assert!(refused("4:memory:/a\n0::/\n", &version_1).contains("no control groups"));
        assert!(refused("4:memory:/a\n", MOUNTS).contains("no control groups"));
        let bound = MOUNTS.replace("0:38 / ", "0:38 /other ");
        assert!(refused("0::/own\n", &bound).contains("mounted nowhere"));
    }

    #[test]
    fn a_folder_that_is_no_control_group_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = Home::open(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("no control group of version 2"), "{refused}");
    }

    #[test]
    fn a_vm_has_a_group_of_its_own_name() {
        let home = Home { dir: "/sys/fs/cgroup/ireko.slice".into(), controllers: Vec::new() };
        let group = home.group("0123456789ab");
        assert_eq!(group.dir(), Path::new("/sys/fs/cgroup/ireko.slice/ireko-vm-0123456789ab"));
    }
}
