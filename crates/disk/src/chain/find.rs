//! Finding a disk's parents: by name where parents are expected, by identity which of them it is.
//!
//! A path inside a disk file is never followed: of it only the last component counts, looked for beside the
//! child and in the folders a caller names.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::Format;
use crate::layer::Layer;
use crate::publish;
use crate::storage::{FileStorage, Lock};

/// More layers than any tool makes; a chain in a circle ends sooner.
const MAX_DEPTH: usize = 1024;

/// Returns the files of the chain whose leaf is at `leaf`, leaf first, for [`crate::Chain::open`].
///
/// Parents are looked for beside each child and then in `folders`, by the names the child knows, letter case
/// aside where the exact name is not there. Nothing is locked or changed.
///
/// Fails with [`ErrorKind::NotFound`] when no file has a parent's name, with [`ErrorKind::ParentMismatch`] when those
/// that have it are other files or other versions.
pub fn find_chain(leaf: &Path, folders: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths = vec![leaf.to_owned()];
    let (mut child, identity) = look(leaf)?;
    let mut seen = HashSet::from([identity]);
    while child.has_parent() {
        let path = &paths[paths.len() - 1];
        let (parent_path, parent, identity) = find_parent(path, &child, folders)?;
        if !seen.insert(identity) || paths.len() == MAX_DEPTH {
            let message = format!("{} is in its own chain twice", parent_path.display());
            return Err(Error::new(ErrorKind::ParentMismatch, message));
        }
        paths.push(parent_path);
        child = parent;
    }
    Ok(paths)
}

fn find_parent(
    path: &Path,
    child: &Layer,
    folders: &[PathBuf],
) -> Result<(PathBuf, Layer, (u64, u64))> {
    let names = child.parent_names();
    let beside = publish::folder_of(path);
    let mut refused = None;
    for folder in std::iter::once(beside).chain(folders.iter().map(PathBuf::as_path)) {
        for candidate in names.iter().filter_map(|name| in_folder(folder, name)) {
            let outcome = look(&candidate).and_then(|(parent, identity)| {
                child.check_parent(&parent)?;
                Ok((candidate.clone(), parent, identity))
            });
            match outcome {
                Ok(found) => return Ok(found),
                Err(error) => refused = refused.or(Some((candidate, error))),
            }
        }
    }
    let path = path.display();
    Err(match refused {
        Some((candidate, error)) => {
            error.context(format!("find the parent of {path}: {} is not it", candidate.display()))
        }
        None => {
            let name = names.first().map_or("a name that is not recorded", String::as_str);
            let message = format!(
                "the parent of {path} is {name}: it is neither beside it nor in a folder given"
            );
            Error::new(ErrorKind::NotFound, message)
        }
    })
}

/// Returns the file of this name, else the one whose name differs in letter case only.
fn in_folder(folder: &Path, name: &str) -> Option<PathBuf> {
    let exact = folder.join(name);
    if exact.symlink_metadata().is_ok() {
        // As callers who name no folder expect to see it.
        return Some(exact.strip_prefix(".").map_or(exact.clone(), Path::to_owned));
    }
    let wanted = name.to_lowercase();
    fs::read_dir(folder)
        .ok()?
        .filter_map(std::result::Result::ok)
        .find(|entry| entry.file_name().to_str().is_some_and(|n| n.to_lowercase() == wanted))
        .map(|entry| entry.path())
}

/// Opens a file without holding it.
fn look(path: &Path) -> Result<(Layer, (u64, u64))> {
    let open = || {
        let file = FileStorage::open(path, Lock::None)?;
        let identity = file.identity()?;
        let format = Format::required(&file)?;
        Ok((Layer::open(Arc::new(file), format)?, identity))
    };
    open().map_err(|error: Error| error.context(format!("open {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vhdx::{ChildOptions, CreateOptions, create, create_child};

    /// Makes `base.vhdx` and `top.vhdx` over it, in two folders.
    fn two_folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (bases, tops) = (folder.path().join("bases"), folder.path().join("tops"));
        fs::create_dir(&bases).unwrap();
        fs::create_dir(&tops).unwrap();
        let (base, top) = (bases.join("Base.VHDX"), tops.join("top.vhdx"));
        create(&base, &CreateOptions::new(1 << 30)).unwrap();
        create_child(&top, &base, r"C:\somewhere\base.vhdx", &ChildOptions::default()).unwrap();
        (folder, base, top)
    }

    #[test]
    fn parents_are_found_in_the_folders_given_by_name_alone() {
        let (_folder, base, top) = two_folders();
        assert_eq!(find_chain(&top, &[]).unwrap_err().kind(), ErrorKind::NotFound);
        let folders = [base.parent().unwrap().to_owned()];
        assert_eq!(find_chain(&top, &folders).unwrap(), [top, base]);
    }

    #[test]
    fn a_file_with_the_right_name_and_another_content_is_refused() {
        let (_folder, base, top) = two_folders();
        create(&top.with_file_name("base.vhdx"), &CreateOptions::new(1 << 30)).unwrap();
        let error = find_chain(&top, &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ParentMismatch);
        // The right one is still found behind it.
        let folders = [base.parent().unwrap().to_owned()];
        assert_eq!(find_chain(&top, &folders).unwrap()[1], base);
    }

    #[test]
    fn a_file_that_is_its_own_parent_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (base, child) = (folder.path().join("a.vhdx"), folder.path().join("b.vhdx"));
        create(&base, &CreateOptions::new(1 << 30)).unwrap();
        create_child(&child, &base, r".\b.vhdx", &ChildOptions::default()).unwrap();
        // The child gets the very DataWriteGuid that it asks of its parent.
        let linkage = crate::vhdx::info(&child).unwrap().parent.unwrap().linkage;
        let storage: Arc<dyn crate::Storage> =
            Arc::new(FileStorage::open(&child, Lock::Write).unwrap());
        crate::vhdx::header::Current::read(&*storage)
            .unwrap()
            .update(&*storage, |header| header.data_write_guid = linkage)
            .unwrap();
        drop(storage);
        let error = find_chain(&child, &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ParentMismatch);
        assert!(error.to_string().contains("twice"), "{error}");
    }
}
