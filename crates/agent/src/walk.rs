//! Going through a tree that may be hostile: as deep and as wide as it likes, and changing meanwhile.
//!
//! Not recursive, and no folder is kept open but the one at hand: a folder is opened by its path from
//! the root, so the deepest that is reached is as deep as a path can be long.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, OFlags, Stat, fstatfs, statat};
use rustix::io::Errno;

use crate::failure::{During, Failure, Result};
use crate::removal::names_in;
use crate::rooted::{Root, split};

/// Bytes of names that may wait at the same time.
const WAITING: usize = 64 << 20;

/// The kernel's own file systems, whose files are no content of anybody's: proc, sysfs, cgroup2,
/// devpts, mqueue, securityfs, debugfs, tracefs, bpf, configfs.
const KERNELS: [u64; 10] = [
    0x9fa0,
    0x6265_6572,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
    0x7363_6673,
    0x6462_6720,
    0x7472_6163,
    0xcafe_4a11,
    0x6265_6570,
];

/// Something that is there.
pub struct Found<'a> {
    /// Its path from where the walk began, without a slash in front; empty for the beginning.
    pub path: &'a [u8],
    /// The folder it is in, or itself,
    pub folder: &'a OwnedFd,
    /// … and its name there, `.` for itself.
    pub name: &'a [u8],
    /// What it is.
    pub stat: Stat,
}

struct Frame {
    path: Vec<u8>,
    names: Vec<Vec<u8>>,
    bytes: usize,
    device: u64,
}

/// Visits `start` and all below it, names in the order of their bytes, a folder before what is in it.
///
/// What goes away meanwhile is passed over. Of the kernel's own file systems only the top is visited.
pub fn walk(
    root: &Root,
    start: &[u8],
    mut visit: impl FnMut(&Found<'_>) -> Result<()>,
) -> Result<()> {
    let looking = |path: &[u8]| format!("look at {:?}", String::from_utf8_lossy(path));
    let top = root.open_at(start, OFlags::PATH | OFlags::NOFOLLOW).during(|| looking(start))?;
    let stat = statat(&top, c"", AtFlags::EMPTY_PATH).during(|| looking(start))?;
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        let (parent, name) =
            split(start).ok_or_else(|| Failure::of(looking(start), Errno::INVAL))?;
        let open = OFlags::PATH | OFlags::DIRECTORY;
        let folder = root.open_at(parent, open).during(|| looking(parent))?;
        return visit(&Found { path: b"", folder: &folder, name, stat });
    }
    let device = stat.st_dev;
    visit(&Found { path: b"", folder: &top, name: b".", stat })?;
    let mut stack: Vec<Frame> = enter(root, start, b"", device)?.into_iter().collect();
    let mut waiting = stack.iter().map(|frame| frame.bytes).sum::<usize>();
    while let Some(frame) = stack.last_mut() {
        let Some(name) = frame.names.pop() else {
            waiting = waiting.saturating_sub(frame.bytes);
            stack.pop();
            continue;
        };
        let path = below(&frame.path, &name);
        let device = frame.device;
        let folder = match open(root, start, &frame.path) {
            Ok(folder) => folder,
            Err(cause) if is_gone(cause) => continue,
            Err(cause) => return Err(Failure::of(looking(&frame.path), cause)),
        };
        let stat = match statat(&folder, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(cause) if is_gone(cause) => continue,
            Err(cause) => return Err(Failure::of(looking(&path), cause)),
        };
        visit(&Found { path: &path, folder: &folder, name: &name, stat })?;
        if FileType::from_raw_mode(stat.st_mode).is_dir()
            && let Some(frame) = enter(root, start, &path, device)?
        {
            waiting += frame.bytes;
            if waiting > WAITING {
                return Err(Failure::of(looking(&path), Errno::NOBUFS));
            }
            stack.push(frame);
        }
    }
    Ok(())
}

/// Reads a folder; `None` where it is gone, or the kernel's own.
fn enter(root: &Root, start: &[u8], path: &[u8], above: u64) -> Result<Option<Frame>> {
    let reading = || format!("read the folder {:?}", String::from_utf8_lossy(path));
    let folder = match open(root, start, path) {
        Ok(folder) => folder,
        Err(cause) if is_gone(cause) => return Ok(None),
        Err(cause) => return Err(Failure::of(reading(), cause)),
    };
    let device = rustix::fs::fstat(&folder).during(reading)?.st_dev;
    let kind = fstatfs(&folder).during(reading)?.f_type;
    if (device != above || path.is_empty()) && KERNELS.contains(&(kind as u64 & 0xffff_ffff)) {
        return Ok(None);
    }
    let mut names = names_in(&folder).during(reading)?;
    // The last is taken first.
    names.sort_unstable_by(|one, other| other.cmp(one));
    let bytes = names.iter().map(|name| name.len() + size_of::<Vec<u8>>()).sum();
    Ok(Some(Frame { path: path.to_vec(), names, bytes, device }))
}

fn open(root: &Root, start: &[u8], path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let whole = if path.is_empty() { start.to_vec() } else { below(start, path) };
    // A link at the end is followed only where the walk begins, by a slash after it.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    root.open_at(&whole, flags)
}

fn below(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder.is_empty() {
        true => name.to_vec(),
        false => [folder, b"/", name].concat(),
    }
}

fn is_gone(cause: Errno) -> bool {
    matches!(cause, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_visited_in_the_order_of_bytes_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["a/b/c", "a-b", "z"] {
            std::fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        std::os::unix::fs::symlink("../z", folder.path().join("a/link")).unwrap();
        let root = Root::open(folder.path().to_str().unwrap()).unwrap();
        let mut seen = Vec::new();
        walk(&root, b"/", |found| {
            seen.push(String::from_utf8_lossy(found.path).into_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, ["", "a", "a/b", "a/b/c", "a/link", "a-b", "z"]);
        seen.clear();
        walk(&root, b"/a/link/", |found| {
            seen.push(String::from_utf8_lossy(found.path).into_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [""]);
    }
}
