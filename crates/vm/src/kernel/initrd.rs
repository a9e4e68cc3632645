//! The utility VM's initial root file system: the agent as /init, then the kernel's modules.

use super::GuestKernel;
use super::cpio::Archive;
use crate::error::{Error, Result};
use crate::replace_file::replace_file;
use sha2::{Digest, Sha256};
use std::fs::{self, File, FileTimes};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const NAME: &str = "initrd-";
/// What nothing has started with for so long is an earlier release's.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Returns an uncompressed cpio with `agent` as /init in front of the kernel's modules.
///
/// Beside the kernel it is kept under a name made from its content, so that it is written once
/// however many VMs start with it. A kept file of another length than it must have is written anew. Whenever one
/// is written, those go that nothing has started with for a month.
///
/// # Errors
/// `Io` where the modules cannot be read or the cache not be written.
pub fn initrd(kernel: &GuestKernel, agent: &[u8]) -> Result<PathBuf> {
    let modules = fs::read(&kernel.modules_cpio)
        .map_err(|error| Error::io(format!("read {}", kernel.modules_cpio.display()), error))?;
    let mut archive = Archive::default();
    archive.file("init", 0o755, agent);
    let own = archive.finish();

    let digest = Sha256::new().chain_update(&own).chain_update(&modules).finalize();
    let short: String = digest[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    let path = kernel.modules_cpio.with_file_name(format!("{NAME}{short}"));
    let length = (own.len() + modules.len()) as u64;
    if path.metadata().is_ok_and(|kept| kept.len() == length) {
        // Only for whoever looks for old ones. Its other times are part of what it is: a template's key.
        let used = FileTimes::new().set_accessed(SystemTime::now());
        let _ = File::open(&path).and_then(|kept| kept.set_times(used));
        return Ok(path);
    }
    if let Some(Err(error)) = path.parent().map(remove_old) {
        tracing::warn!(%error, "old initial file systems are not removed");
    }
    replace_file(&path, &[&own, &modules])
        .map_err(|error| Error::io(format!("write {}", path.display()), error))?;
    Ok(path)
}

fn remove_old(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let is_one = entry.file_name().to_str().is_some_and(|name| name.starts_with(NAME));
        let age = entry.metadata().and_then(|meta| meta.accessed()).map(|at| at.elapsed());
        if is_one && matches!(age, Ok(Ok(age)) if age > KEPT) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn kernel(folder: &Path) -> GuestKernel {
        let mut modules = Archive::default();
        modules.file("00-a.ko", 0o644, b"module");
        let modules_cpio = folder.join("modules.cpio");
        fs::write(&modules_cpio, modules.finish()).unwrap();
        GuestKernel { vmlinux: folder.join("vmlinux"), modules_cpio, version: "6.1".into() }
    }

    #[test]
    fn equal_contents_are_written_once_and_a_new_agent_gets_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = kernel(folder.path());
        let first = initrd(&kernel, b"agent 1").unwrap();
        let what_it_is = |path: &Path| {
            let meta = path.metadata().unwrap();
            (meta.ino(), meta.modified().unwrap())
        };
        let written = what_it_is(&first);
        assert_eq!(initrd(&kernel, b"agent 1").unwrap(), first);
        assert_eq!(what_it_is(&first), written);
        assert_ne!(initrd(&kernel, b"agent 2").unwrap(), first);
    }

    #[test]
    fn what_nothing_has_started_with_for_long_goes_when_another_comes() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = kernel(folder.path());
        let [first, second] = [b"agent 1", b"agent 2"].map(|one| initrd(&kernel, one).unwrap());
        let long_ago = SystemTime::now() - 2 * KEPT;
        for old in [&first, &second, &kernel.modules_cpio] {
            let unused = FileTimes::new().set_accessed(long_ago).set_modified(long_ago);
            File::open(old).unwrap().set_times(unused).unwrap();
        }
        // It is used again.
        initrd(&kernel, b"agent 2").unwrap();
        initrd(&kernel, b"agent 3").unwrap();
        assert!(!first.exists() && second.exists() && kernel.modules_cpio.exists());
    }

    #[test]
    fn a_shortened_file_is_made_whole_again() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = kernel(folder.path());
        let path = initrd(&kernel, b"agent").unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..100]).unwrap();
        initrd(&kernel, b"agent").unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}
