//! The sockets the daemon listens on: the user's alone.

use rustix::process::geteuid;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// Unix socket paths end at 107 bytes.
const MAX_PATH: usize = ireko_protocol::places::MAX_SOCKET_PATH;

/// A socket that goes when the daemon does.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Listens at `path`, mode 0600.
    ///
    /// A socket nobody listens on is replaced. Errors where somebody does, or where something else
    /// is at `path`.
    pub(crate) async fn listen(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() > MAX_PATH {
            return Err(io::Error::other(format!(
                "{} is too long for a socket: at most {MAX_PATH} bytes",
                path.display()
            )));
        }
        if let Ok(found) = fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(io::Error::other(format!("{} is no socket", path.display())));
            }
            if UnixStream::connect(path).await.is_ok() {
                return Err(io::Error::other(format!(
                    "somebody else listens at {}",
                    path.display()
                )));
            }
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a socket is left over");
        }
    }
}

/// Makes the folder of sockets, mode 0700.
///
/// Errors where it, or a folder of Ireko's above it, belongs to someone else or is open to others:
/// they could put sockets of theirs there.
pub(crate) fn make_runtime_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // Two of ours: …/ireko/<root>; under /tmp one more: /tmp/ireko-<uid>/run/<root>.
    let ours = folder
        .ancestors()
        .take_while(|path| path.iter().any(|part| part.to_string_lossy().starts_with("ireko")));
    for path in ours {
        let found = fs::symlink_metadata(path)?;
        if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
            return Err(io::Error::other(format!(
                "{} must be a folder of yours that nobody else can write to",
                path.display()
            )));
        }
    }
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

/// Makes `link` lead to `socket`, replacing what was there at once.
pub(crate) fn link_socket(link: &Path, socket: &Path) -> io::Result<()> {
    let aside = link.with_extension("new");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(socket, &aside)?;
    fs::rename(&aside, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_a_living_one_and_a_file_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::listen(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(Socket::listen(&path).await.is_err());
        drop(socket);
        assert!(!path.exists());
        fs::write(&path, b"").unwrap();
        assert!(Socket::listen(&path).await.is_err());
    }

    #[test]
    fn a_folder_others_can_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let ours = folder.path().join("ireko");
        make_runtime_folder(&ours.join("abcd")).unwrap();
        fs::set_permissions(&ours, Permissions::from_mode(0o777)).unwrap();
        assert!(make_runtime_folder(&ours.join("abcd")).is_err());
    }

    #[test]
    fn a_link_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("ireko.sock");
        link_socket(&link, Path::new("/a")).unwrap();
        link_socket(&link, Path::new("/b")).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/b"));
    }
}
