//! Putting files and folders into the cache whole: written aside, synced, renamed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::{Error, Result};

/// Writes a new file and makes its content durable; the name becomes so by [`sync_folder`].
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<()> {
    let write = || -> io::Result<()> {
        let mut file = File::create_new(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(Error::io(format!("write {}", path.display())))
}

/// Replaces or makes the file at `path` in one step; durable on return.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    let doing = || Error::io(format!("write {}", path.display()));
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut aside = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(readable_by_all())
        .tempfile_in(folder)
        .map_err(doing())?;
    aside.write_all(content).and_then(|()| aside.as_file().sync_all()).map_err(doing())?;
    aside.persist(path).map_err(|e| doing()(e.error))?;
    sync_folder(folder)
}

/// Moves a finished file to its place, which may be taken; durable on return.
pub(crate) fn move_file(from: &Path, to: &Path) -> Result<()> {
    let doing = || Error::io(format!("put {} in its place", to.display()));
    File::open(from).and_then(|file| file.sync_all()).map_err(doing())?;
    fs::rename(from, to).map_err(doing())?;
    sync_folder(to.parent().unwrap_or(Path::new(".")))
}

/// Moves a finished folder of synced files to its place; what was there is gone afterwards.
///
/// Where a folder is replaced, the two change places in one step, so the name is never without one.
pub(crate) fn move_folder(from: &Path, to: &Path) -> Result<()> {
    let doing = || Error::io(format!("put {} in its place", to.display()));
    sync_folder(from)?;
    if to.exists() {
        renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE).map_err(|e| doing()(e.into()))?;
        fs::remove_dir_all(from).map_err(doing())?;
    } else {
        fs::rename(from, to).map_err(doing())?;
    }
    sync_folder(to.parent().unwrap_or(Path::new(".")))
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::io(format!("sync {}", folder.display())))
}

fn readable_by_all() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_folder_holds_only_the_new_files() {
        let place = tempfile::tempdir().unwrap();
        let (old, new) = (place.path().join("old"), place.path().join("new"));
        for (folder, file) in [(&old, "a"), (&new, "b")] {
            fs::create_dir(folder).unwrap();
            write_new(&folder.join(file), b"x").unwrap();
        }
        move_folder(&new, &old).unwrap();
        assert!(old.join("b").exists() && !old.join("a").exists() && !new.exists());
    }

    #[test]
    fn a_replaced_file_leaves_nothing_beside_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("current");
        replace_file(&path, b"one").unwrap();
        replace_file(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
