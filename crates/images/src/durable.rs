//! Changes to folders that are whole at every instant, and there after a power cut.
//!
//! Every change the store makes to its root goes through here, so each is one step that a test can
//! stop before (see [`step`]).
//!
//! ```text
//!   replace:  write `.x.new` ─► fsync it ─► rename to `x` ─► fsync the folder
//!   rename:   rename ─► fsync both folders            remove: unlink ─► fsync the folder
//! ```

use crate::error::During;
use crate::error::{Error, ErrorKind, Result};
use crate::step;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Makes a folder and its parents; fine where they are there.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    step::allocating()
        .and_then(|()| fs::create_dir_all(path))
        .during(|| format!("create folder {}", path.display()))?;
    sync_folder_of(path)
}

/// Writes a file that is not there yet and syncs it. The folder is not synced.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        step::allocating()?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().during(|| format!("write {}", path.display()))
}

/// Writes a file, in place of the one that may be there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = aside(path)?;
    discard(&aside);
    write_new(&aside, bytes).and_then(|()| rename(&aside, path)).inspect_err(|_| discard(&aside))
}

/// Renames a file or a folder; both folders are synced.
///
/// Needs no space worth naming: what was written before can always be put in place.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    step::change()
        .and_then(|()| fs::rename(from, to))
        .during(|| format!("rename {} to {}", from.display(), to.display()))?;
    sync_folder_of(to)?;
    if from.parent() != to.parent() {
        sync_folder_of(from)?;
    }
    Ok(())
}

/// As [`rename`], to a name that nothing has; [`ErrorKind::Conflict`] where something has it.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let rename = || -> io::Result<()> {
        step::change()?;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // A file system that cannot promise it.
            Err(Errno::INVAL) => {
                fs::hard_link(from, to)?;
                fs::remove_file(from)
            }
            outcome => Ok(outcome?),
        }
    };
    match rename() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::conflict(format!("{} is there already", to.display())));
        }
        outcome => outcome.during(|| format!("rename {} to {}", from.display(), to.display()))?,
    }
    sync_folder_of(to)
}

/// Removes a file; fine where it is not there.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match step::change().and_then(|()| fs::remove_file(path)) {
        Ok(()) => sync_folder_of(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).during(|| format!("remove {}", path.display())),
    }
}

/// Removes what nothing depends on any more; a failure is left to the next sweep.
pub(crate) fn discard(path: &Path) {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "could not remove debris");
        }
        _ => {}
    }
}

/// Makes a file read-only for everyone, durably.
pub(crate) fn protect(path: &Path) -> Result<()> {
    let protect = || {
        step::change()?;
        let file = File::open(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o444))?;
        file.sync_all()
    };
    protect().during(|| format!("make {} read-only", path.display()))
}

/// Lets the owner write to a file again.
pub(crate) fn unprotect(path: &Path) -> Result<()> {
    step::change()
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)))
        .during(|| format!("make {} writable", path.display()))
}

/// Makes the entries of a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .during(|| format!("sync folder {}", folder.display()))
}

/// Tells whether something is there.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().during(|| format!("look for {}", path.display()))
}

/// Lists the base names in a folder; names that are not UTF-8 are none of ours and left out.
pub(crate) fn names_in(folder: &Path) -> Result<Vec<String>> {
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    };
    list().during(|| format!("list folder {}", folder.display()))
}

/// Where a file is written before it is renamed to `path`: hidden, in the same folder.
pub(crate) fn aside(path: &Path) -> Result<PathBuf> {
    match path.file_name().and_then(|name| name.to_str()) {
        Some(name) => Ok(path.with_file_name(format!(".{name}.new"))),
        None => {
            Err(Error::new(ErrorKind::BadInput, format!("{} is not a file's path", path.display())))
        }
    }
}

/// Tells names that [`aside`] made.
pub(crate) fn is_aside(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".new")
}

fn sync_folder_of(path: &Path) -> Result<()> {
    match path.parent() {
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}
