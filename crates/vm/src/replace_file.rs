//! Replacing a file so that every reader, and a power cut, sees the old or the new one whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Makes `path` hold `parts`, one after the other: written aside, synced, renamed, folder synced.
///
/// The folder is made where it is missing. Concurrent writers do not disturb each other; the last
/// rename wins. On failure nothing is left behind.
pub fn replace_file(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let no_folder = || io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
    let (folder, name) = path.parent().zip(path.file_name()).ok_or_else(no_folder)?;
    fs::create_dir_all(folder)?;
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let aside = folder.join(format!(".{}.{}-{serial}", name.to_string_lossy(), std::process::id()));
    let written = write_and_sync(&aside, parts).and_then(|()| fs::rename(&aside, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

fn write_and_sync(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = File::create(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_holds_the_new_bytes_and_nothing_lies_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/on/demand/file");
        replace_file(&path, &[b"old"]).unwrap();
        replace_file(&path, &[b"ne", b"w"]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replacement_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"").unwrap();
        assert!(replace_file(&path, &[b"x"]).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
