//! UEFI, as the distribution packages it, and each VM's own variables.
//!
//! ```text
//!   /usr/share/OVMF/OVMF_VARS….fd ── copied at a VM's first start ──► <its folder>/nvram.fd
//!   /usr/share/OVMF/OVMF_CODE….fd ── read by every VM
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::replace_file::replace_file;
use crate::spec::Uefi;
use std::fs;
use std::path::{Path, PathBuf};

const FOLDER: &str = "/usr/share/OVMF";
const INSTALL: &str = "install it: apt-get install ovmf";

/// Returns UEFI for the VM whose variables are at `nvram`; they are made where they are missing.
///
/// With `secure_boot` they hold Microsoft's keys, as a new PC's do.
///
/// # Errors
/// `Missing` where the firmware is not installed, with the command that installs it; `Io`.
pub fn uefi(nvram: &Path, secure_boot: bool) -> Result<Uefi> {
    uefi_in(Path::new(FOLDER), nvram, secure_boot)
}

fn uefi_in(folder: &Path, nvram: &Path, secure_boot: bool) -> Result<Uefi> {
    let (code, variables) = match secure_boot {
        false => ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
        true => ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"),
    };
    let code = installed(folder, code)?;
    let variables = installed(folder, variables)?;
    if !nvram.exists() {
        fs::read(&variables)
            .and_then(|fresh| replace_file(nvram, &[&fresh]))
            .map_err(|error| Error::io(format!("make {}", nvram.display()), error))?;
    }
    Ok(Uefi { code, nvram: nvram.to_owned(), secure_boot })
}

fn installed(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    match path.is_file() {
        true => Ok(path),
        false => Err(Error::new(
            ErrorKind::Missing,
            format!("the UEFI firmware {} is not installed", path.display()),
        )
        .with_hint(INSTALL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vms_variables_are_made_once_and_then_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let nvram = folder.path().join("nvram.fd");
        let missing = uefi_in(folder.path(), &nvram, false).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Missing);
        assert!(missing.hint().unwrap().contains("ovmf") && !nvram.exists());

        fs::write(folder.path().join("OVMF_CODE_4M.fd"), "code").unwrap();
        fs::write(folder.path().join("OVMF_VARS_4M.fd"), "fresh").unwrap();
        let uefi = uefi_in(folder.path(), &nvram, false).unwrap();
        assert!(!uefi.secure_boot && fs::read_to_string(&nvram).unwrap() == "fresh");
        fs::write(&nvram, "learned").unwrap();
        uefi_in(folder.path(), &nvram, false).unwrap();
        assert_eq!(fs::read_to_string(&nvram).unwrap(), "learned");
        assert!(uefi_in(folder.path(), &nvram, true).is_err());
    }
}
