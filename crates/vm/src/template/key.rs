//! What a saved state depends on.

use crate::error::{Error, Result};
use crate::qemu::{Qemu, arguments};
use crate::spec::{Boot, Cable, DiskSource, KernelBoot, VmSpec};
use sha2::{Digest, Sha256};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Names a template: 24 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub(super) String);

impl Key {
    /// The key of the template that a VM of this spec is saved as: QEMU's arguments without what is of
    /// this one VM, and which files QEMU, the kernel and the initial root file system are.
    ///
    /// `boot` is the kernel's; the rate of the host's clock is no part of the key.
    ///
    /// # Errors
    /// `Io` where one of these files cannot be looked at.
    pub fn of(qemu: &Qemu, spec: &VmSpec, boot: &KernelBoot) -> Result<Self> {
        let mut hash = Sha256::new();
        for argument in arguments(&in_general(spec, boot), 0) {
            hash.update((argument.len() as u64).to_le_bytes());
            hash.update(argument.as_bytes());
        }
        for file in [qemu.program(), &boot.kernel, &boot.initrd] {
            let meta = file
                .metadata()
                .map_err(|error| Error::io(format!("look at {}", file.display()), error))?;
            for number in [meta.len(), meta.ino(), meta.mtime() as u64, meta.mtime_nsec() as u64] {
                hash.update(number.to_le_bytes());
            }
        }
        let digest = hash.finalize();
        Ok(Self(digest[..12].iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Reads a key; `None` where the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 24 && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The spec without names, addresses and paths of one VM.
fn in_general(spec: &VmSpec, boot: &KernelBoot) -> VmSpec {
    let mut general = spec.clone();
    general.name.clear();
    general.control = PathBuf::new();
    for port in &mut general.ports {
        port.socket = PathBuf::new();
    }
    for disk in &mut general.disks {
        disk.source = DiskSource::Empty;
    }
    for nic in &mut general.nics {
        nic.cable = Cable::Socket(PathBuf::new());
    }
    let words = boot.command_line.split(' ');
    let timeless: Vec<_> = words.filter(|word| !word.starts_with("tsc_early_khz=")).collect();
    general.boot = Boot::Kernel(KernelBoot {
        command_line: timeless.join(" "),
        ram: Some(Path::new("ram").to_owned()),
        ..boot.clone()
    });
    general
}
