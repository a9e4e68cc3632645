//! The utility VM's initial root file system: the agent as /init, then the kernel's modules.

use super::GuestKernel;
use super::cpio::Archive;
use crate::error::{Error, Result};
use crate::replace_file::replace_file;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::PathBuf;

/// Returns an uncompressed cpio with `agent` as /init in front of the kernel's modules.
///
/// Beside the kernel it is kept under a name made from its content, so that it is written once
/// however many VMs start with it. A kept file of another length than it must have is written anew.
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
    let path = kernel.modules_cpio.with_file_name(format!("initrd-{short}"));
    let length = (own.len() + modules.len()) as u64;
    if path.metadata().is_ok_and(|kept| kept.len() == length) {
        return Ok(path);
    }
    replace_file(&path, &[&own, &modules])
        .map_err(|error| Error::io(format!("write {}", path.display()), error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

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
        let written = first.metadata().unwrap().modified().unwrap();
        assert_eq!(initrd(&kernel, b"agent 1").unwrap(), first);
        assert_eq!(first.metadata().unwrap().modified().unwrap(), written);
        assert_ne!(initrd(&kernel, b"agent 2").unwrap(), first);
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
