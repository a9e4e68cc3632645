//! Paths inside a root that is not ours to trust.
//!
//! An image's tree may hold any symbolic link. Every path of it is therefore resolved by the kernel
//! with `RESOLVE_IN_ROOT`: absolute links and `..` stay inside, as if the root were changed.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat};
use rustix::io::{Errno, Result};

/// How many dangling links are followed while making what they point at: the kernel's own limit.
const LINK_LIMIT: u32 = 40;

/// A folder whose tree is resolved as if it were `/`.
#[derive(Debug)]
pub struct Root {
    top: OwnedFd,
}

impl Root {
    /// A root at this folder of our own view.
    pub fn open(path: &str) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { top: rustix::fs::open(path, flags, Mode::empty())? })
    }

    /// A root at this folder.
    pub fn of(top: OwnedFd) -> Self {
        Self { top }
    }

    /// The root's own folder.
    pub fn top(&self) -> &OwnedFd {
        &self.top
    }

    /// Opens a path inside the root; magic links (`/proc/*/fd`) are refused.
    pub fn open_at(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.is_empty() { b"." } else { path };
        loop {
            match openat2(&self.top, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // A rename elsewhere in the tree raced with the walk.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// Reads a file as text; `None` where it is missing or no regular file. At most `limit` bytes.
    pub fn read_text(&self, path: &str, limit: u64) -> Option<String> {
        // Non-blocking: the path may name a fifo, which nobody will ever write to.
        let file = self.open_at(path.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file).ok()?.st_mode);
        if !kind.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(limit).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Opens a folder, making it and the folders above it where they are missing (root's, 0755).
    pub fn ensure_folder(&self, path: &[u8]) -> Result<OwnedFd> {
        self.make_folder(path, LINK_LIMIT)
    }

    /// Opens a file (`O_PATH`), making it empty, and the folders above it, where it is missing.
    pub fn ensure_file(&self, path: &[u8]) -> Result<OwnedFd> {
        let mut path = path.to_vec();
        for _ in 0..LINK_LIMIT {
            match self.open_at(&path, OFlags::PATH) {
                Err(Errno::NOENT) => {}
                result => return result,
            }
            let (parent, name) = split(&path).ok_or(Errno::ISDIR)?;
            let folder = self.ensure_folder(parent)?;
            match dangling_target(&folder, parent, name)? {
                Some(target) => path = target,
                None => {
                    let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                    openat(&folder, name, create | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))?;
                }
            }
        }
        Err(Errno::LOOP)
    }

    fn make_folder(&self, path: &[u8], links: u32) -> Result<OwnedFd> {
        let open = OFlags::PATH | OFlags::DIRECTORY;
        match self.open_at(path, open) {
            Err(Errno::NOENT) => {}
            result => return result,
        }
        let Some((parent, name)) = split(path) else { return Err(Errno::NOENT) };
        let links = links.checked_sub(1).ok_or(Errno::LOOP)?;
        let folder = self.make_folder(parent, links.max(1))?;
        match mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(cause) => return Err(cause),
        }
        match dangling_target(&folder, parent, name)? {
            Some(target) => self.make_folder(&target, links),
            None => self.open_at(path, open),
        }
    }
}

/// Where the link `name` of `folder` points, as a path of the root; `None` where it is no link.
fn dangling_target(folder: &OwnedFd, parent: &[u8], name: &[u8]) -> Result<Option<Vec<u8>>> {
    match readlinkat(folder, name, Vec::new()) {
        Ok(target) => Ok(Some(join(parent, target.as_bytes()))),
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// `path` as seen from `folder`: itself where it is absolute.
pub fn join(folder: &[u8], path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") { path.to_vec() } else { [folder, b"/", path].concat() }
}

/// The folder and the last name of a path; `None` where it has no name: the root itself, `.`, `..`.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|byte| *byte != b'/')? + 1;
    let path = &path[..end];
    let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let name = &path[start..];
    (name != b"." && name != b"..").then_some((&path[..start], name))
}

/// The path by which an open file can be named to `mount`, which knows no file descriptors.
pub fn by_descriptor(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

/// Type and permission bits of an open file.
pub(crate) fn mode_of(file: &OwnedFd) -> Result<u32> {
    Ok(rustix::fs::statat(file, c"", AtFlags::EMPTY_PATH)?.st_mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path().to_str().unwrap()).unwrap();
        (folder, root)
    }

    #[test]
    fn links_that_point_outside_are_resolved_inside() {
        let (folder, root) = root();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/passwd"), "inside").unwrap();
        symlink("/etc", folder.path().join("absolute")).unwrap();
        symlink("../../../../etc", folder.path().join("relative")).unwrap();
        for path in ["/absolute/passwd", "relative/passwd", "../../etc/passwd"] {
            assert_eq!(root.read_text(path, 100).as_deref(), Some("inside"), "{path}");
        }
    }

    #[test]
    fn a_file_behind_a_dangling_link_is_made_where_the_link_points_inside() {
        let (folder, root) = root();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        symlink("../run/resolve/stub.conf", folder.path().join("etc/resolv.conf")).unwrap();
        symlink("/var/run", folder.path().join("run")).unwrap();
        root.ensure_file(b"/etc/resolv.conf").unwrap();
        assert!(folder.path().join("var/run/resolve/stub.conf").is_file());
    }

    #[test]
    fn missing_folders_are_made_and_links_in_a_circle_are_refused() {
        let (folder, root) = root();
        root.ensure_folder(b"/a/b/c").unwrap();
        assert!(folder.path().join("a/b/c").is_dir());
        symlink("two", folder.path().join("one")).unwrap();
        symlink("one", folder.path().join("two")).unwrap();
        assert_eq!(root.ensure_folder(b"one/x").unwrap_err(), Errno::LOOP);
        assert_eq!(root.ensure_file(b"one").unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn a_path_is_split_into_folder_and_name() {
        assert_eq!(split(b"/etc/hosts"), Some((&b"/etc/"[..], &b"hosts"[..])));
        assert_eq!(split(b"hosts//"), Some((&b""[..], &b"hosts"[..])));
        assert_eq!(split(b"/"), None);
        assert_eq!(split(b"a/.."), None);
    }
}
