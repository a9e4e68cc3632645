//! May hardware virtualisation be used on this host?
//!
//! A device node that opens proves nothing, nor does a small guest that runs: where KVM itself runs
//! on an emulation of the CPU, kernel code in a guest is some ten thousand times too slow and a real
//! kernel never boots. So a tiny guest must do kernel-mode work *at speed* under a deadline, once
//! for each boot of the host.
//!
//! ```text
//!   choice ─► can /dev/kvm be opened? ─► <cache>/accel.json of this boot? ─► probe ─► accel.json
//!                every time                       trusted                    ≤ 2 s
//! ```

mod guest;
mod probe;

use crate::error::{Error, ErrorKind, Result};
use crate::replace_file::replace_file;
use probe::Proof;
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

const DEVICE: &str = "/dev/kvm";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How a guest's CPUs are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// By the host's CPU.
    Kvm,
    /// By QEMU's translator: slower, works everywhere.
    Tcg,
}

/// What the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// KVM where it is proved to work, else TCG.
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// TCG, without looking further.
    Tcg,
}

/// How guests are run on this host, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How.
    pub accel: Accel,
    /// Why: a sentence for people.
    pub reason: String,
}

/// Decides how guests are run.
///
/// Takes up to two seconds the first time after a boot of the host, then a file's reading: the
/// proof is kept in `<cache>/accel.json`. A cache that cannot be written only costs that time.
///
/// # Errors
/// `NoAcceleration` with the reason where `choice` is [`Choice::Kvm`] and KVM does not work.
pub fn verdict(cache: &Path, choice: Choice) -> Result<Verdict> {
    let boot_id =
        fs::read_to_string(BOOT_ID).map_err(|error| Error::io(format!("read {BOOT_ID}"), error))?;
    let host = Host { device: Path::new(DEVICE), boot_id: boot_id.trim(), probe: &probe::prove };
    host.verdict(&cache.join("accel.json"), choice)
}

/// Whether a guest that KVM runs can run virtual machines itself on this host.
///
/// # Errors
/// `NoAcceleration` with the reason, and the remedy.
pub fn nesting() -> Result<()> {
    nesting_in(Path::new("/sys/module"))
}

fn nesting_in(modules: &Path) -> Result<()> {
    let found = ["kvm_intel", "kvm_amd"].iter().find_map(|module| {
        let said = fs::read_to_string(modules.join(module).join("parameters/nested")).ok()?;
        Some((module, matches!(said.trim(), "Y" | "1")))
    });
    match found {
        Some((_, true)) => Ok(()),
        Some((module, false)) => Err(Error::new(
            ErrorKind::NoAcceleration,
            format!(
                "this host's KVM does not let guests run virtual machines ({module}.nested is off)"
            ),
        )
        .with_hint(format!(
            "as root, with no VM running: modprobe -r {module}; modprobe {module} nested=1"
        ))),
        None => Err(Error::new(
            ErrorKind::NoAcceleration,
            "this host's KVM does not say that guests can run virtual machines",
        )),
    }
}

struct Host<'a> {
    device: &'a Path,
    boot_id: &'a str,
    probe: &'a dyn Fn() -> Proof,
}

/// `accel.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    boot_id: String,
    kvm_works: bool,
    reason: String,
}

const RECORD_VERSION: u32 = 1;

impl Host<'_> {
    fn verdict(&self, record: &Path, choice: Choice) -> Result<Verdict> {
        if choice == Choice::Tcg {
            let reason = "software emulation was asked for".into();
            return Ok(Verdict { accel: Accel::Tcg, reason });
        }
        let proof = self.proof(record);
        match (proof.works, choice) {
            (true, _) => Ok(Verdict { accel: Accel::Kvm, reason: proof.reason }),
            (false, Choice::Kvm) => Err(Error::new(
                ErrorKind::NoAcceleration,
                format!("KVM does not work here: {}", proof.reason),
            )
            .with_hint("leave the choice to Ireko (auto), or choose tcg")),
            (false, _) => Ok(Verdict { accel: Accel::Tcg, reason: proof.reason }),
        }
    }

    /// Returns what is known about KVM. Whether the device opens is never taken from the record:
    /// a permission may have been given, a module loaded since.
    fn proof(&self, path: &Path) -> Proof {
        if let Err(error) = OpenOptions::new().read(true).write(true).open(self.device) {
            return Proof { works: false, reason: self.why_not_opened(&error) };
        }
        if let Some(record) = self.recorded(path) {
            return Proof { works: record.kvm_works, reason: record.reason };
        }
        let proof = (self.probe)();
        tracing::info!(works = proof.works, reason = proof.reason, "KVM was tried");
        if let Err(error) = self.keep(path, &proof) {
            tracing::warn!(path = %path.display(), %error, "the KVM verdict cannot be kept");
        }
        proof
    }

    fn why_not_opened(&self, error: &io::Error) -> String {
        let device = self.device.display();
        match error.kind() {
            io::ErrorKind::NotFound => {
                format!("this host has no {device}: no virtualisation, or its module is not loaded")
            }
            io::ErrorKind::PermissionDenied => {
                format!("no permission to use {device}: usually a matter of joining group kvm")
            }
            _ => format!("{device} cannot be opened: {error}"),
        }
    }

    fn recorded(&self, path: &Path) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let of_this_boot = record.version == RECORD_VERSION && record.boot_id == self.boot_id;
        of_this_boot.then_some(record)
    }

    fn keep(&self, path: &Path, proof: &Proof) -> io::Result<()> {
        let record = Record {
            version: RECORD_VERSION,
            boot_id: self.boot_id.to_owned(),
            kvm_works: proof.works,
            reason: proof.reason.clone(),
        };
        replace_file(path, &[&serde_json::to_vec_pretty(&record)?, b"\n"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::path::PathBuf;

    /// A host whose probe counts how often it is run.
    struct Fixture {
        folder: tempfile::TempDir,
        probed: Cell<u32>,
        works: bool,
    }

    impl Fixture {
        fn new(works: bool) -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("kvm"), b"").unwrap();
            Self { folder, probed: Cell::new(0), works }
        }

        fn record(&self) -> PathBuf {
            self.folder.path().join("cache/accel.json")
        }

        fn ask(&self, boot_id: &str, choice: Choice) -> Result<Verdict> {
            let probe = || {
                self.probed.set(self.probed.get() + 1);
                Proof { works: self.works, reason: "tried".into() }
            };
            let device = self.folder.path().join("kvm");
            Host { device: &device, boot_id, probe: &probe }.verdict(&self.record(), choice)
        }
    }

    #[test]
    fn nesting_is_what_the_hosts_module_says() {
        let modules = tempfile::tempdir().unwrap();
        assert!(nesting_in(modules.path()).is_err());
        let folder = modules.path().join("kvm_amd/parameters");
        fs::create_dir_all(&folder).unwrap();
        for (said, works) in [("0\n", false), ("1\n", true), ("N\n", false), ("Y\n", true)] {
            fs::write(folder.join("nested"), said).unwrap();
            assert_eq!(nesting_in(modules.path()).is_ok(), works, "{said:?}");
        }
    }

    #[test]
    fn kvm_is_proved_once_per_boot() {
        let host = Fixture::new(true);
        for boot_id in ["one", "one", "two", "two"] {
            assert_eq!(host.ask(boot_id, Choice::Auto).unwrap().accel, Accel::Kvm);
        }
        assert_eq!(host.probed.get(), 2);
    }

    #[test]
    fn a_kvm_that_does_not_work_gives_tcg_or_the_error_that_was_asked_for() {
        let host = Fixture::new(false);
        let verdict = host.ask("boot", Choice::Auto).unwrap();
        assert_eq!(verdict, Verdict { accel: Accel::Tcg, reason: "tried".into() });
        let error = host.ask("boot", Choice::Kvm).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoAcceleration);
        assert!(error.to_string().contains("tried"));
    }

    #[test]
    fn a_device_that_cannot_be_opened_is_looked_at_anew_each_time() {
        let host = Fixture::new(true);
        let device = host.folder.path().join("kvm");
        fs::remove_file(&device).unwrap();
        let verdict = host.ask("boot", Choice::Auto).unwrap();
        assert_eq!(verdict.accel, Accel::Tcg);
        assert!(verdict.reason.contains("no virtualisation"), "{}", verdict.reason);
        fs::write(&device, b"").unwrap();
        assert_eq!(host.ask("boot", Choice::Auto).unwrap().accel, Accel::Kvm);
    }

    #[test]
    fn a_damaged_record_is_made_anew() {
        let host = Fixture::new(true);
        host.ask("boot", Choice::Auto).unwrap();
        fs::write(host.record(), b"{\"version\": 1").unwrap();
        assert_eq!(host.ask("boot", Choice::Auto).unwrap().accel, Accel::Kvm);
        assert_eq!(host.probed.get(), 2);
    }

    #[test]
    fn asking_for_emulation_tries_nothing() {
        let host = Fixture::new(true);
        assert_eq!(host.ask("boot", Choice::Tcg).unwrap().accel, Accel::Tcg);
        assert_eq!(host.probed.get(), 0);
    }
}
