//! Removing whole trees from a root disk. Not recursive: they can be nested deeper than our stack.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::{Errno, Result};

/// Removes a name and, where it is a folder, all below it.
pub fn remove(folder: &OwnedFd, name: &[u8]) -> Result<()> {
    remove_unless(folder, name, name, |_| false)
}

/// The same, but for what is to be kept and the folders that it is in. `path` is what `name` is called from the root;
/// `kept` is asked with such paths.
pub fn remove_unless(
    folder: &OwnedFd,
    name: &[u8],
    path: &[u8],
    kept: impl Fn(&[u8]) -> bool,
) -> Result<()> {
    if !remove_one(folder, name, path, &kept)? {
        return Ok(());
    }
    let mut path = path.to_vec();
    let mut levels = vec![Level::open(folder, name, 0)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            let above = levels.len().checked_sub(2).map(|above| levels[above].folder.as_fd());
            if let Some(done) = levels.last()
                && !kept(&path)
            {
                match unlinkat(above.unwrap_or(folder.as_fd()), &*done.name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOTEMPTY) => {}
                    Err(error) => return Err(error),
                }
            }
            let done = levels.pop();
            path.truncate(done.map_or(0, |done| done.path_above));
            continue;
        };
        let path_above = path.len();
        path.push(b'/');
        path.extend_from_slice(&name);
        match remove_one(&level.folder, &name, &path, &kept)? {
            true => {
                let below = Level::open(&level.folder, &name, path_above)?;
                levels.push(below);
            }
            false => path.truncate(path_above),
        }
    }
    Ok(())
}

/// Removes what is no folder and not kept; tells whether it is a folder.
fn remove_one(
    folder: &OwnedFd,
    name: &[u8],
    path: &[u8],
    kept: impl Fn(&[u8]) -> bool,
) -> Result<bool> {
    if kept(path) {
        let seen = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        return Ok(rustix::fs::FileType::from_raw_mode(seen.st_mode).is_dir());
    }
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) => Ok(false),
        Err(Errno::ISDIR) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Lists the names in a folder.
pub fn names_in(folder: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// A folder being removed, and what is still in it.
struct Level {
    name: Vec<u8>,
    /// How long the path of the folder above is.
    path_above: usize,
    folder: OwnedFd,
    names: Vec<Vec<u8>>,
}

impl Level {
    fn open(parent: &OwnedFd, name: &[u8], path_above: usize) -> Result<Self> {
        let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(parent, name, open, Mode::empty())?;
        let names = names_in(&folder)?;
        Ok(Self { name: name.to_vec(), path_above, folder, names })
    }
}
