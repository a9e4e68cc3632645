//! What a utility VM boots: the guest kernel from the cache, an initial root file system around
//! the agent, the kernel's command line.
//!
//! ```text
//!   <cache>/kernel/current                     "6.1.0-56-amd64_6.1.192-2"
//!   <cache>/kernel/<version>/vmlinux           ELF, PVH-capable          ┐ written by set-up
//!   <cache>/kernel/<version>/modules.cpio      /modules/NN-name.ko       ┘
//!   <cache>/kernel/<version>/initrd-<hash>     /init + modules.cpio        written here
//! ```

mod command_line;
mod cpio;
mod initrd;
mod tsc;

pub use command_line::{command_line, with_console};
pub use initrd::initrd;
pub use tsc::host_tsc_khz;

use crate::error::{Error, ErrorKind, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A guest kernel in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestKernel {
    /// The uncompressed, PVH-capable kernel.
    pub vmlinux: PathBuf,
    /// The modules the agent loads, as an uncompressed cpio archive.
    pub modules_cpio: PathBuf,
    /// What set-up calls it, e.g. `6.1.0-56-amd64_6.1.192-2`: the kernel and its package.
    pub version: String,
}

impl GuestKernel {
    /// Finds the kernel that set-up made current in `cache`.
    ///
    /// # Errors
    /// `Missing` with the command that provides it; `Io` where the cache cannot be read.
    pub fn find(cache: &Path) -> Result<Self> {
        let folder = cache.join("kernel");
        let pointer = folder.join("current");
        let version = match fs::read_to_string(&pointer) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(missing(format!("there is no guest kernel in {}", folder.display())));
            }
            Err(error) => return Err(Error::io(format!("read {}", pointer.display()), error)),
        };
        if version.is_empty() || version.starts_with('.') || version.contains('/') {
            return Err(missing(format!("{} names no kernel: {version:?}", pointer.display())));
        }
        let folder = folder.join(&version);
        let kernel = Self {
            vmlinux: folder.join("vmlinux"),
            modules_cpio: folder.join("modules.cpio"),
            version,
        };
        for file in [&kernel.vmlinux, &kernel.modules_cpio] {
            if !file.is_file() {
                return Err(missing(format!("the guest kernel's {} is gone", file.display())));
            }
        }
        Ok(kernel)
    }
}

fn missing(what: String) -> Error {
    Error::new(ErrorKind::Missing, what).with_hint("run: ireko setup")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_missing(cache: &Path, part: &str) {
        let error = GuestKernel::find(cache).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Missing);
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(error.hint(), Some("run: ireko setup"));
    }

    #[test]
    fn what_set_up_did_not_leave_is_told_with_the_cure() {
        let cache = tempfile::tempdir().unwrap();
        check_missing(cache.path(), "no guest kernel");
        let folder = cache.path().join("kernel");
        fs::create_dir_all(folder.join("6.1")).unwrap();
        fs::write(folder.join("current"), "../6.1").unwrap();
        check_missing(cache.path(), "names no kernel");
        fs::write(folder.join("current"), "6.1\n").unwrap();
        fs::write(folder.join("6.1/vmlinux"), "").unwrap();
        check_missing(cache.path(), "modules.cpio");
        fs::write(folder.join("6.1/modules.cpio"), "").unwrap();
        assert_eq!(GuestKernel::find(cache.path()).unwrap().version, "6.1");
    }
}
