//! Writing a file so that it is whole at every instant, and there after a power cut where it matters.

use crate::error::{Attempt, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Writes `value` as JSON: aside, synced, renamed over `path`, folder synced.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(value).attempt(|| format!("write {}", path.display()))?;
    write(path, &bytes).attempt(|| format!("write {}", path.display()))
}

/// Reads a JSON file; `None` where it is not there.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).attempt(|| format!("read {}", path.display()))
}

/// Writes `value` as JSON for a process of ours: whole at every instant, but not synced. A power cut
/// ends whom it is for, and may leave a file with anything in it.
pub(crate) fn write_json_unsynced<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let what = || format!("write {}", path.display());
    let bytes = serde_json::to_vec_pretty(value).attempt(what)?;
    let aside = path.with_extension("new");
    fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, path)).attempt(what)
}

/// Reads a JSON file that was not synced; `None` where it is not there, or not what it was.
pub(crate) fn read_json_unsynced<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            tracing::warn!(%error, "{} was lost in a power cut", path.display());
            Ok(None)
        }
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).attempt(|| format!("read {}", path.display())),
    }
}

/// Removes a file; fine where it is not there.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).attempt(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .attempt(|| format!("sync {}", path.display()))
}

/// Writes a file: aside, synced, renamed over `path`, folder synced.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        assert_eq!(read_json::<u32>(&path).unwrap(), None);
        write_json(&path, &1).unwrap();
        write_json(&path, &2).unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), Some(2));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
    }

    #[test]
    fn an_unsynced_file_may_be_lost_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        assert_eq!(read_json_unsynced::<u32>(&path).unwrap(), None);
        write_json_unsynced(&path, &1).unwrap();
        write_json_unsynced(&path, &2).unwrap();
        assert_eq!(read_json_unsynced::<u32>(&path).unwrap(), Some(2));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        for left in [&b""[..], b"\0\0\0\0", b"{\"pid\": "] {
            fs::write(&path, left).unwrap();
            assert_eq!(read_json_unsynced::<u32>(&path).unwrap(), None);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(read_json_unsynced::<u32>(&path).is_err());
    }
}
