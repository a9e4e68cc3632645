//! The file tree of the base image: Debian's dynamic busybox with the C library it asks for.
//!
//! ```text
//!   busybox package ─► usr/bin/busybox, one link for each of its commands  ┐
//!   its libraries   ─► usr/lib/<triplet>/…, the loader                     ├─► rootfs.tar
//!   written here    ─► etc/…, empty folders, bin → usr/bin and the like    ┘
//! ```
//!
//! The static busybox is not used: it cannot resolve names. Equal packages give equal bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::apt::Unpacked;
use crate::elf;
use crate::error::{Error, Result};
use crate::tool::Tool;
use crate::tree::Tree;

const TRIPLET: &str = "x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";
/// Loaded by name when a program looks up users or hosts. Part of libc.so itself since glibc 2.34.
const LOOKUP_LIBRARIES: [&str; 3] = ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"];
const MAX_LINKS: usize = 4096;

/// Folders every Linux program may expect; those with a mode other than 0755 below.
const FOLDERS: [&str; 20] = [
    "dev",
    "etc",
    "home",
    "mnt",
    "opt",
    "proc",
    "run",
    "srv",
    "sys",
    "usr",
    "usr/bin",
    "usr/lib",
    "usr/lib64",
    "usr/local",
    "usr/local/bin",
    "usr/sbin",
    "usr/share",
    "var",
    "var/lib",
    "var/log",
];
const OTHER_FOLDERS: [(&str, u32); 3] = [("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)];
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nusers:x:100:\nnogroup:x:65534:\n";
const SHADOW: &str =
    "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n";
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Builds the tree from the busybox package and, after it, the packages it depends on.
///
/// # Errors
/// `Malformed` when a library that busybox needs is in none of the packages.
pub(crate) fn build(packages: &[Unpacked]) -> Result<Tree> {
    let busybox = packages
        .iter()
        .flat_map(|package| ["bin", "usr/bin"].map(|folder| package.root.join(folder)))
        .map(|folder| folder.join("busybox"))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::malformed("the busybox package has no busybox"))?;
    let libraries = Libraries::of(packages);
    let modified = fs::metadata(&busybox).map_err(Error::io("look at busybox"))?.mtime();
    let mut tree = Tree::new(modified.max(0).unsigned_abs());

    add_folders(&mut tree);
    add_settings(&mut tree, &packages[0].stanza.version);
    for library in needed_closure(&busybox, &libraries)? {
        let path = format!("usr/lib/{TRIPLET}/{library}");
        tree.file(&path, 0o755, read(libraries.find(&library)?)?);
    }
    tree.link(&format!("usr/lib64/{LOADER}"), &format!("../lib/{TRIPLET}/{LOADER}"));
    for command in commands(&busybox, &libraries)? {
        tree.link(
            &command,
            if command.starts_with("usr/bin/") { "busybox" } else { "../bin/busybox" },
        );
    }
    tree.file("usr/bin/busybox", 0o755, read(&busybox)?);
    add_copyrights(&mut tree, packages)?;
    Ok(tree)
}

fn add_folders(tree: &mut Tree) {
    for path in FOLDERS {
        tree.folder(path, 0o755);
    }
    tree.folder(&format!("usr/lib/{TRIPLET}"), 0o755);
    for (path, mode) in OTHER_FOLDERS {
        tree.folder(path, mode);
    }
    for path in MERGED {
        tree.link(path, &format!("usr/{path}"));
    }
}

fn add_settings(tree: &mut Tree, version: &str) {
    let release = format!(
        "PRETTY_NAME=\"Ireko base (BusyBox {version})\"\nNAME=\"Ireko base\"\nID=ireko-base\nVERSION=\"{version}\"\n"
    );
    for (path, mode, text) in [
        ("etc/group", 0o644, GROUP),
        ("etc/hosts", 0o644, HOSTS),
        ("etc/nsswitch.conf", 0o644, NSSWITCH),
        ("etc/os-release", 0o644, &release),
        ("etc/passwd", 0o644, PASSWD),
        ("etc/shadow", 0o600, SHADOW),
        ("etc/shells", 0o644, "/bin/sh\n"),
    ] {
        tree.file(path, mode, text.into());
    }
}

/// The licences of what is inside must travel with it.
fn add_copyrights(tree: &mut Tree, packages: &[Unpacked]) -> Result<()> {
    tree.folder("usr/share/doc", 0o755);
    for package in packages {
        let folder = format!("usr/share/doc/{}", package.stanza.package);
        let copyright = package.root.join(&folder).join("copyright");
        if copyright.is_file() {
            tree.folder(&folder, 0o755);
            tree.file(&format!("{folder}/copyright"), 0o644, read(&copyright)?);
        }
    }
    Ok(())
}

/// Libraries by file name, wherever the packages keep them.
struct Libraries {
    paths: BTreeMap<String, PathBuf>,
}

impl Libraries {
    fn of(packages: &[Unpacked]) -> Self {
        let mut paths = BTreeMap::new();
        for package in packages {
            for place in ["lib", "usr/lib"] {
                let folder = package.root.join(place).join(TRIPLET);
                for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                    paths.insert(entry.file_name().to_string_lossy().into_owned(), entry.path());
                }
            }
        }
        Self { paths }
    }

    fn find(&self, name: &str) -> Result<&Path> {
        self.paths
            .get(name)
            .map(PathBuf::as_path)
            .ok_or_else(|| Error::malformed(format!("no package of busybox's has {name}")))
    }
}

/// Every library that busybox, or a library of it, asks for; the loader and the lookup libraries.
fn needed_closure(busybox: &Path, libraries: &Libraries) -> Result<BTreeSet<String>> {
    let lookup = LOOKUP_LIBRARIES.iter().filter(|name| libraries.find(name).is_ok());
    let mut waiting: Vec<String> = lookup.chain([&LOADER]).map(|name| (*name).to_owned()).collect();
    waiting.extend(elf::needed_libraries(&read(busybox)?)?);
    let mut needed = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if needed.insert(name.clone()) {
            waiting.extend(elf::needed_libraries(&read(libraries.find(&name)?)?)?);
        }
    }
    Ok(needed)
}

/// Paths of the commands busybox provides, below `usr`, as it says itself.
fn commands(busybox: &Path, libraries: &Libraries) -> Result<BTreeSet<String>> {
    let loader = libraries.find(LOADER)?;
    let folder = loader.parent().unwrap_or(Path::new("/"));
    let list = Tool::at("busybox", loader)
        .arg("--library-path")
        .arg(folder)
        .arg(busybox)
        .arg("--list-full")
        .output()?;
    let list = String::from_utf8_lossy(&list);
    Ok(list.lines().filter_map(merged_path).take(MAX_LINKS).collect())
}

/// `bin/ls` and `usr/bin/ls` are one path where `bin` is a link; others (`linuxrc`) are left out.
fn merged_path(command: &str) -> Option<String> {
    let below = command.strip_prefix("usr/").unwrap_or(command);
    let (folder, name) = below.split_once('/')?;
    let known = ["bin", "sbin"].contains(&folder) && !name.contains('/') && name != "busybox";
    known.then(|| format!("usr/{folder}/{name}"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::io(format!("read {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_lie_below_usr_and_odd_ones_are_left_out() {
        assert_eq!(merged_path("bin/ls").as_deref(), Some("usr/bin/ls"));
        assert_eq!(merged_path("usr/sbin/chroot").as_deref(), Some("usr/sbin/chroot"));
        assert_eq!(merged_path("usr/bin/[").as_deref(), Some("usr/bin/["));
        assert_eq!(merged_path("linuxrc"), None);
        assert_eq!(merged_path("bin/busybox"), None);
        assert_eq!(merged_path("usr/bin/../../etc"), None);
    }
}
