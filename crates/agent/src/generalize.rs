//! Taking out of a Linux what tells it from its copies: what each of many systems made from one disk
//! has to have of its own, and what the first of them left behind.
//!
//! The list is virt-sysprep's in spirit. Users, passwords, users' own keys, crontabs and the file
//! systems' UUIDs stay. Host keys are not made by every distribution's own means when they are missing,
//! so a small unit of systemd's is left that does.

use std::os::fd::OwnedFd;

use ireko_protocol::agent::DiskSerial;
use rustix::fs::{FileType, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::failure::{During, Result};
use crate::removal::{names_in, remove};
use crate::rooted::{Root, split};
use crate::system_disk::{SystemDisk, name_of};
use crate::units;

/// Folders of logs are not nested deeper.
const DEEPEST_LOG: usize = 16;

/// What is removed, from the top of the root file system; `*` stands for any part of one name.
const REMOVED: &[&str] = &[
    "var/lib/dbus/machine-id",
    "etc/ssh/ssh_host_*",
    "etc/hostname",
    // Addresses, and what was remembered about networks and devices.
    "var/lib/dhcp/*",
    "var/lib/dhclient/*",
    "var/lib/dhcpcd/*",
    "var/lib/dhcpcd5/*",
    "etc/dhcpcd.duid",
    "var/lib/NetworkManager/*",
    "etc/NetworkManager/system-connections/*",
    "etc/udev/rules.d/70-persistent-net.rules",
    "etc/netplan/50-cloud-init.yaml",
    "etc/network/interfaces.d/50-cloud-init*",
    "etc/systemd/network/10-cloud-init-*",
    "etc/sysconfig/network-scripts/ifcfg-eth*",
    // Seeds and secrets of this one system.
    "var/lib/systemd/random-seed",
    "var/lib/systemd/credential.secret",
    "var/lib/urandom/random-seed",
    "var/lib/random-seed",
    "boot/loader/random-seed",
    "boot/efi/loader/random-seed",
    "etc/krb5.keytab",
    "var/lib/sss/db/*",
    "var/lib/samba/private/*",
    "etc/pki/consumer/*",
    "etc/sysconfig/rhn/systemid",
    "var/lib/rhsm/facts/*",
    // So that cloud-init begins anew.
    "var/lib/cloud/data",
    "var/lib/cloud/handlers",
    "var/lib/cloud/instance",
    "var/lib/cloud/instances",
    "var/lib/cloud/sem",
    // What was left behind.
    "var/log/journal/*",
    "var/crash/*",
    "var/lib/systemd/coredump/*",
    "var/spool/mail/*",
    "var/mail/*",
    "tmp/*",
    "tmp/.[!.]*",
    "var/tmp/*",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/cache/dnf/*",
    "var/cache/yum/*",
    "etc/passwd-",
    "etc/shadow-",
    "etc/group-",
    "etc/gshadow-",
    "etc/subuid-",
    "etc/subgid-",
    "root/.*_history",
    "root/.lesshst",
    "root/.viminfo",
    "home/*/.*_history",
    "home/*/.lesshst",
    "home/*/.viminfo",
];
/// Files that must be there, and empty.
const EMPTIED: &[&str] = &["etc/machine-id"];

const UNIT: &str = "ireko-host-keys.service";
const UNIT_TEXT: &str = "\
[Unit]
Description=Host keys of this system's own
After=local-fs.target cloud-init.service
Before=ssh.service sshd.service
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
";

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generalized {
    /// What the system calls itself; empty where it does not say.
    pub system: String,
    /// How many files and folders were removed or emptied.
    pub changed: u64,
}

/// Generalizes the system on the disk with this serial, durably.
pub fn generalize_disk(serial: &DiskSerial) -> Result<Generalized> {
    let disk = SystemDisk::mount(serial)?;
    let generalized = generalize(&disk.roots()?)?;
    disk.unmount()?;
    Ok(generalized)
}

/// Generalizes the system whose file systems these are, each with the path that it is at.
fn generalize(roots: &[(&'static str, Root)]) -> Result<Generalized> {
    let mut done = Generalized::default();
    for (place, root) in roots {
        // What is mounted over is elsewhere.
        let own = |pattern: &str| {
            let is_deeper =
                |(other, _): &(&str, Root)| other.len() > place.len() && pattern.starts_with(other);
            pattern.starts_with(place) && !roots.iter().any(is_deeper)
        };
        for pattern in REMOVED.iter().filter(|pattern| own(pattern)) {
            let pattern = &pattern[place.len()..];
            done.changed += remove_all(root, pattern).during(|| format!("remove {pattern}"))?;
        }
        for path in EMPTIED.iter().filter(|path| own(path)) {
            let path = &path[place.len()..];
            done.changed += u64::from(empty(root, path).during(|| format!("empty {path}"))?);
        }
        if own("var/log/") {
            let logs = &"var/log"[place.len()..];
            done.changed += empty_all(root, logs).during(|| "empty the logs")?;
        }
        if place.is_empty() {
            done.system = name_of(root);
            leave_unit(root).during(|| format!("leave {UNIT}"))?;
        }
        let top = root.open_at(b"", OFlags::RDONLY | OFlags::DIRECTORY);
        top.and_then(rustix::fs::syncfs).during(|| "write the disk out")?;
    }
    Ok(done)
}

/// Removes all that a pattern means; how many those were.
fn remove_all(root: &Root, pattern: &str) -> rustix::io::Result<u64> {
    let (folders, last) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let mut removed = 0;
    for folder in expand(root, folders)? {
        let Some(folder) = open_folder(root, &folder)? else { continue };
        for name in names_in(&folder)?.iter().filter(|name| matches(last, name)) {
            remove(&folder, name)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The folders that a path with patterns means.
fn expand(root: &Root, pattern: &str) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut found = vec![Vec::new()];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let mut next = Vec::new();
        for folder in found {
            if !part.contains('*') {
                next.push([folder.as_slice(), b"/", part.as_bytes()].concat());
                continue;
            }
            let Some(opened) = open_folder(root, &folder)? else { continue };
            let names = names_in(&opened)?.into_iter().filter(|name| matches(part, name));
            next.extend(names.map(|name| [folder.as_slice(), b"/", &name].concat()));
        }
        found = next;
    }
    Ok(found)
}

/// Opens a folder; `None` where there is none.
fn open_folder(root: &Root, path: &[u8]) -> rustix::io::Result<Option<OwnedFd>> {
    match root.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a name is meant by a pattern with at most one `*`, which stands for no dot at a beginning.
fn matches(pattern: &str, name: &[u8]) -> bool {
    if let Some(rest) = pattern.strip_suffix("[!.]*") {
        return name.starts_with(rest.as_bytes()) && name.len() > rest.len() && name[1] != b'.';
    }
    match pattern.split_once('*') {
        None => name == pattern.as_bytes(),
        Some((before, after)) => {
            name.len() >= before.len() + after.len()
                && name.starts_with(before.as_bytes())
                && name.ends_with(after.as_bytes())
                && (!before.is_empty() || name.first() != Some(&b'.'))
        }
    }
}

/// Empties a regular file; whether there is one that was not empty.
fn empty(root: &Root, path: &str) -> rustix::io::Result<bool> {
    let Some((folder, name)) = split(path.as_bytes()) else { return Ok(false) };
    let Some(folder) = open_folder(root, folder)? else { return Ok(false) };
    empty_in(&folder, name)
}

fn empty_in(folder: &OwnedFd, name: &[u8]) -> rustix::io::Result<bool> {
    // Non-blocking: what has the name may be a fifo.
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return Ok(false),
        Err(error) => return Err(error),
    };
    let seen = rustix::fs::fstat(&file)?;
    if !FileType::from_raw_mode(seen.st_mode).is_file() || seen.st_size == 0 {
        return Ok(false);
    }
    rustix::fs::ftruncate(&file, 0).map(|()| true)
}

/// Empties all files below a folder: who writes them may not be allowed to make them.
fn empty_all(root: &Root, path: &str) -> rustix::io::Result<u64> {
    let Some(top) = open_folder(root, path.as_bytes())? else { return Ok(0) };
    let (mut emptied, mut folders) = (0, vec![(top, 0)]);
    while let Some((folder, depth)) = folders.pop() {
        for name in names_in(&folder)? {
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            let mode = rustix::fs::statat(&folder, name.as_slice(), flags)?.st_mode;
            match FileType::from_raw_mode(mode) {
                FileType::RegularFile => emptied += u64::from(empty_in(&folder, &name)?),
                FileType::Directory if depth < DEEPEST_LOG => {
                    let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                    let open = open | OFlags::CLOEXEC;
                    folders.push((openat(&folder, name, open, Mode::empty())?, depth + 1));
                }
                _ => {}
            }
        }
    }
    Ok(emptied)
}

/// Leaves the unit that makes host keys, where there are systemd and OpenSSH.
fn leave_unit(root: &Root) -> rustix::io::Result<()> {
    match root.open_at(b"usr/bin/ssh-keygen", OFlags::PATH).is_ok() && units::are_kept(root) {
        true => units::leave(root, UNIT, UNIT_TEXT),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn write(top: &Path, path: &str, text: &str) {
        let path = top.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn root(top: &Path) -> Root {
        Root::open(top.to_str().unwrap()).unwrap()
    }

    #[test]
    fn what_tells_a_system_from_its_copies_goes_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        let goes = [
            "var/lib/dbus/machine-id",
            "etc/ssh/ssh_host_rsa_key",
            "etc/ssh/ssh_host_rsa_key.pub",
            "etc/hostname",
            "var/lib/dhcp/dhclient.leases",
            "home/me/.bash_history",
            "root/.zsh_history",
            "var/lib/cloud/instances/i-1/user-data.txt",
            "var/log/journal/abc/system.journal",
            "tmp/x/y",
            "tmp/.hidden",
            "var/lib/systemd/random-seed",
            "etc/shadow-",
        ];
        let stays = [
            "etc/ssh/sshd_config",
            "etc/shadow",
            "home/me/.ssh/authorized_keys",
            "home/me/.bashrc",
            "var/lib/cloud/seed/nocloud/meta-data",
            "var/spool/cron/crontabs/me",
            "etc/fstab",
        ];
        goes.iter().chain(&stays).for_each(|path| write(top, path, "x"));
        write(top, "etc/os-release", "NAME=x\nPRETTY_NAME=\"A Linux 1\"\n");
        write(top, "etc/machine-id", "0123\n");
        write(top, "var/log/nginx/access.log", "GET /");
        write(top, "usr/bin/ssh-keygen", "");
        fs::create_dir_all(top.join("etc/systemd/system")).unwrap();
        let done = generalize(&[("", root(top))]).unwrap();
        assert_eq!(done.system, "A Linux 1");
        for path in goes {
            assert!(!top.join(path).exists(), "{path}");
        }
        for path in stays {
            assert_eq!(fs::read_to_string(top.join(path)).unwrap(), "x", "{path}");
        }
        for path in ["etc/machine-id", "var/log/nginx/access.log"] {
            assert_eq!(fs::read_to_string(top.join(path)).unwrap(), "", "{path}");
        }
        assert!(top.join("tmp").is_dir());
        let wanted = top.join("etc/systemd/system/multi-user.target.wants").join(UNIT);
        assert_eq!(fs::read_to_string(wanted).unwrap(), UNIT_TEXT);
        assert_eq!(generalize(&[("", root(top))]).unwrap().changed, 0, "there is no more to do");
    }

    #[test]
    fn a_var_of_its_own_is_generalized_in_its_place() {
        let (system, var) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(system.path(), "etc/hostname", "x");
        write(var.path(), "lib/dhcp/leases", "x");
        write(var.path(), "log/messages", "x");
        generalize(&[("", root(system.path())), ("var/", root(var.path()))]).unwrap();
        assert!(!var.path().join("lib/dhcp/leases").exists());
        assert_eq!(fs::read_to_string(var.path().join("log/messages")).unwrap(), "");
    }

    #[test]
    fn links_lead_nowhere_outside() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let top = folder.path();
        write(outside.path(), "kept", "x");
        fs::create_dir_all(top.join("var/log")).unwrap();
        symlink(outside.path(), top.join("tmp")).unwrap();
        symlink(outside.path().join("kept"), top.join("var/log/kept")).unwrap();
        symlink(outside.path(), top.join("var/log/folder")).unwrap();
        generalize(&[("", root(top))]).unwrap();
        assert_eq!(fs::read_to_string(outside.path().join("kept")).unwrap(), "x");
    }
}
