//! A VM that was saved whole, beside its disks, to be gone on from once.
//!
//! ```text
//!   <folder>/state      devices and memory
//!           /vm.json    written last, removed first: while it is there the VM is suspended
//!
//!   save:   CPUs stopped ─► state, synced ─► vm.json ─► the VM ends
//!   go on:  vm.json fits? state whole? ─► load, CPUs stopped ─► vm.json removed ─► CPUs run
//! ```
//! A guest that goes on remembers its disks as they were. So what is loaded must be what was saved, to the
//! byte, into a VM of the same shape with the same disks, and never twice: each is checked, and every
//! failure leaves what was saved where it is.

use crate::accel::Accel;
use crate::error::{Error, ErrorKind, Result};
use crate::qemu::{Control, Qemu};
use crate::replace_file::replace_file;
use crate::spec::{Boot, Firmware, VmSpec};
use crate::template::sealed::Sealed;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The version of `vm.json`; what another one wrote is not gone on from.
const VERSION: u32 = 1;
/// A `vm.json` is some hundred bytes.
const MAX_RECORD: u64 = 1 << 20;
/// What a state may take beside the VM's memory, in bytes.
const MAX_DEVICES: u64 = 256 << 20;

/// What a suspended VM goes on with beside its state; the keys mean nothing here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// What tells each of its disks' contents from any other.
    pub disks: BTreeMap<String, String>,
    /// What its guest was told; may be another when it goes on.
    pub told: String,
}

/// A place for one suspended VM.
#[derive(Clone, Debug)]
pub struct Suspended {
    folder: PathBuf,
    record: PathBuf,
}

/// `vm.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    /// What the VM is made of, by words for people.
    shape: BTreeMap<String, String>,
    surroundings: Surroundings,
    state: Sealed,
}

impl Suspended {
    /// The place in this folder, whose record has this name. Nothing is opened or made.
    pub fn in_folder(folder: &Path, record: &str) -> Self {
        Self { folder: folder.to_owned(), record: folder.join(record) }
    }

    /// Stops a VM's CPUs and saves it, durably. Then it is to be ended; where this fails it can be
    /// [resumed](Control::resume), and nothing is left of what was saved.
    ///
    /// # Errors
    /// `Io`, also on a full disk; `Timeout` or `Control` with QEMU's reason.
    pub fn save(
        &self,
        qemu: &Qemu,
        control: &Control,
        spec: &VmSpec,
        surroundings: Surroundings,
    ) -> Result<()> {
        let saved = self.write(qemu, control, spec, surroundings);
        if saved.is_err() {
            // The next one to be saved removes what cannot be now.
            let _ = self.forget();
        }
        saved
    }

    fn write(
        &self,
        qemu: &Qemu,
        control: &Control,
        spec: &VmSpec,
        surroundings: Surroundings,
    ) -> Result<()> {
        self.forget()?;
        let shape = shape(qemu, spec)?;
        let cannot = |error| Error::io(format!("write {}", self.state().display()), error);
        DirBuilder::new().mode(0o700).create(&self.folder).map_err(cannot)?;
        let mut state = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.state())
            .map_err(cannot)?;
        let sockets = spec.control.parent().unwrap_or(Path::new("."));
        let most = (spec.memory_mib << 20).saturating_add(MAX_DEVICES);
        control.save_whole(&mut state, most, sockets)?;
        drop(state);
        let state = Sealed::seal(&self.state())?;
        self.put(&Record { version: VERSION, shape, surroundings, state })
    }

    /// Checks that the disks are as they were. To be called before they are opened, which changes what
    /// tells them; [`Suspended::opened`] follows.
    ///
    /// # Errors
    /// `Missing` where none is suspended, `InvalidSpec` where they are others, `Io`.
    pub fn check_disks(&self, disks: &BTreeMap<String, String>) -> Result<()> {
        match self.read()?.surroundings.disks == *disks {
            true => Ok(()),
            false => {
                let what = "its disks were written to since it was suspended";
                Err(Error::new(ErrorKind::InvalidSpec, what))
            }
        }
    }

    /// Checks that a VM of this spec can go on; what its guest was told then.
    ///
    /// # Errors
    /// `Missing` where none is suspended, `InvalidSpec` where another VM was, `Io` where what was saved is
    /// damaged.
    pub fn check(&self, qemu: &Qemu, spec: &VmSpec) -> Result<String> {
        let record = self.read()?;
        let now = shape(qemu, spec)?;
        let differs = now.iter().find(|(word, value)| record.shape.get(*word) != Some(value));
        if let Some((word, value)) = differs {
            let then = record.shape.get(word).map_or("nothing", String::as_str);
            let what = format!("it was suspended with {word} {then:?}, and now has {value:?}");
            return Err(Error::new(ErrorKind::InvalidSpec, what));
        }
        if !record.state.has_hash(&self.state()) {
            let what = format!("{} is not as it was saved", self.state().display());
            return Err(Error::new(ErrorKind::Io, what));
        }
        Ok(record.surroundings.told)
    }

    /// Notes that the disks, which were as they were, are opened now, and nothing more: whoever cannot go
    /// on leaves them so.
    ///
    /// # Errors
    /// As of [`Suspended::check_disks`].
    pub fn opened(&self, disks: BTreeMap<String, String>) -> Result<()> {
        let mut record = self.read()?;
        record.surroundings.disks = disks;
        self.put(&record)
    }

    /// The file that a VM goes on from.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Nothing is suspended here any more, durably.
    ///
    /// # Errors
    /// `Io`; then it may still be.
    pub fn forget(&self) -> Result<()> {
        let forget = || -> io::Result<()> {
            match fs::remove_file(&self.record) {
                Ok(()) => File::open(&self.folder)?.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            match fs::remove_dir_all(&self.folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        forget().map_err(|error| Error::io(format!("remove {}", self.folder.display()), error))
    }

    fn put(&self, record: &Record) -> Result<()> {
        serde_json::to_vec_pretty(record)
            .map_err(io::Error::other)
            .and_then(|text| replace_file(&self.record, &[&text]))
            .and_then(|()| match self.folder.parent() {
                Some(above) => File::open(above)?.sync_all(),
                None => Ok(()),
            })
            .map_err(|error| Error::io(format!("write {}", self.record.display()), error))
    }

    fn read(&self) -> Result<Record> {
        let cannot = |error| Error::io(format!("read {}", self.record.display()), error);
        let mut text = Vec::new();
        match File::open(&self.record) {
            Ok(file) => file.take(MAX_RECORD).read_to_end(&mut text).map_err(cannot)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::new(ErrorKind::Missing, "it is not suspended"));
            }
            Err(error) => return Err(cannot(error)),
        };
        let record: Record =
            serde_json::from_slice(&text).map_err(|error| cannot(io::Error::other(error)))?;
        match record.version {
            VERSION => Ok(record),
            other => {
                let what = format!("it was suspended by another Ireko (version {other})");
                Err(Error::new(ErrorKind::InvalidSpec, what))
            }
        }
    }
}

/// All of a VM that a saved state depends on.
fn shape(qemu: &Qemu, spec: &VmSpec) -> Result<BTreeMap<String, String>> {
    let Boot::Firmware(boot) = &spec.boot else {
        return Err(Error::new(ErrorKind::InvalidSpec, "only a machine can be suspended"));
    };
    let list = |words: &mut dyn Iterator<Item = String>| words.collect::<Vec<_>>().join(" ");
    let mac = |mac: &[u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let access = |read_only: bool| if read_only { "ro" } else { "rw" };
    let host = match spec.accel {
        Accel::Tcg => "emulated".to_owned(),
        Accel::Kvm => host_cpu().unwrap_or_default(),
    };
    let firmware = match &boot.firmware {
        Firmware::Bios => "bios",
        Firmware::Uefi(uefi) if uefi.secure_boot => "uefi-secure",
        Firmware::Uefi(_) => "uefi",
    };
    Ok(BTreeMap::from(
        [
            ("QEMU", qemu.version()?.to_string()),
            ("CPU", host),
            ("nested virtualization", boot.nested.to_string()),
            ("CPUs", spec.vcpus.to_string()),
            ("MiB of memory", spec.memory_mib.to_string()),
            ("firmware", firmware.to_owned()),
            ("hardware", format!("{:?}", boot.hardware)),
            (
                "disks",
                list(
                    &mut spec
                        .disks
                        .iter()
                        .map(|disk| format!("{}:{}", disk.serial, access(disk.read_only))),
                ),
            ),
            ("network devices", list(&mut spec.nics.iter().map(|nic| mac(&nic.mac)))),
            ("ports", list(&mut spec.ports.iter().map(|port| port.name.clone()))),
        ]
        .map(|(word, value)| (word.to_owned(), value)),
    ))
}

/// Which CPU this host has; a guest that runs on it knows what it can.
fn host_cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    Some(format!("{} {}", field("model name")?, field("microcode").unwrap_or_default()))
}

#[cfg(test)]
#[path = "suspended/tests.rs"]
mod tests;
