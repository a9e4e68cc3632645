//! Putting a new file into its place: whole and durable, or not at all.
//!
//! ```text
//!   to.part     written, synced ──rename──► to     ──► folder synced
//!               removed when that fails            never replaced
//! ```

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::error::{During, Error, ErrorKind, Result};
use crate::storage::{FileStorage, Lock, Storage};

/// Makes a file at `to` with what `fill` writes; durable on return, its name too.
///
/// The file is held for writing until it has its name. `fill` has ended all its writers when it returns; whatever fails, no
/// file is left. One that a crash left behind is replaced. Refuses a path that exists.
pub(crate) fn new_file<T>(
    to: &Path,
    fill: impl FnOnce(&Arc<FileStorage>) -> Result<T>,
) -> Result<T> {
    let make = || {
        if to.symlink_metadata().is_ok() {
            return Err(Error::new(ErrorKind::OutOfRange, "the file exists already"));
        }
        let aside = beside(to, ".part");
        remove_left_over(&aside)?;
        let file = Arc::new(FileStorage::create(&aside)?);
        let filled = fill(&file).and_then(|outcome| {
            file.sync().during("sync the new file")?;
            rename_new(&aside, to)?;
            Ok(outcome)
        });
        let outcome = filled.inspect_err(|_| {
            // The file is ours and of no use.
            let _ = fs::remove_file(&aside);
        })?;
        sync_folder(to).inspect_err(|_| {
            let _ = fs::remove_file(to);
        })?;
        Ok(outcome)
    };
    make().map_err(|error: Error| error.context(format!("create {}", to.display())))
}

/// Removes what an operation that was killed left at a path; one that lives still holds it.
fn remove_left_over(aside: &Path) -> Result<()> {
    match FileStorage::open(aside, Lock::Write) {
        Ok(_held) => fs::remove_file(aside).during("remove an unfinished file"),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A path in the same folder, whose name has `ending` after it.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// Renames without replacing anything.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
        .map_err(std::io::Error::from)
        .during(format_args!("rename {} to {}", from.display(), to.display()))
}

/// Returns the folder a file lies in.
pub(crate) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Makes the names in a file's folder durable.
pub(crate) fn sync_folder(file: &Path) -> Result<()> {
    let folder = folder_of(file);
    let sync = || File::open(folder)?.sync_all();
    sync().during(format_args!("sync {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_has_its_name_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("disk");
        fs::write(beside(&to, ".part"), "left by a crash").unwrap();
        new_file(&to, |file| {
            assert!(!to.exists());
            file.write_at(0, b"all").during("write")
        })
        .unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"all");
        assert_eq!(names(folder.path()), ["disk"]);
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("disk");
        let failed = new_file(&to, |_| Err::<(), _>(Error::new(ErrorKind::Cancelled, "enough")));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn what_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("disk");
        fs::write(&to, "mine").unwrap();
        assert!(new_file(&to, |_| Ok(())).is_err());
        fs::remove_file(&to).unwrap();
        // It may also appear while the new one is written.
        assert!(new_file(&to, |_| fs::write(&to, "mine").during("write")).is_err());
        assert_eq!(fs::read(&to).unwrap(), b"mine");
        assert_eq!(names(folder.path()), ["disk"]);
    }

    #[test]
    fn two_operations_do_not_write_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("disk");
        new_file(&to, |_| {
            assert_eq!(new_file(&to, |_| Ok(())).unwrap_err().kind(), ErrorKind::InUse);
            Ok(())
        })
        .unwrap();
    }
}
