//! Containers that are whole operating systems: what may be said of one, and the plan that boots it.
//!
//! ```text
//!   create's options ─► what the image's configuration says ─► a guess from the partition table
//! ```
//!
//! The first that says something decides which firmware and which devices a container has, once, at
//! its making. Nothing is told to the system inside, so what would have to be is refused.

use crate::blocking::blocking;
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::spec::{ContainerSpec, StartChoice};
use crate::state::ContainerRecord;
use crate::store::ImageInfo;
use crate::store::oci::{Firmware, Hardware, MachineConfig};
use ireko_protocol::plan::{self, Work};
use std::path::PathBuf;
use std::sync::Arc;

/// UEFI's variables, in the container's folder.
const NVRAM: &str = "nvram.fd";

/// Refuses what cannot be had of a whole operating system.
pub(crate) fn check(spec: &ContainerSpec) -> Result<()> {
    let is_given = |words: &Option<Vec<String>>| words.as_ref().is_some_and(|w| !w.is_empty());
    let says = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let wishes = [
        (is_given(&spec.command) || is_given(&spec.entrypoint), "takes no command"),
        (!spec.env.is_empty(), "takes no environment variables"),
        (says(&spec.working_dir), "has no working directory"),
        (says(&spec.user), "runs as no user"),
        (says(&spec.hostname), "has a host name of its own"),
        (says(&spec.stop_signal), "is stopped by its power button, not by a signal"),
        (spec.init, "has an init of its own"),
        (spec.start == StartChoice::Template, "boots its disk: there is no template of it"),
        (spec.read_only, "needs a disk that it can write to"),
        (!spec.tmpfs.is_empty(), "mounts its file systems itself"),
        (!spec.extra_hosts.is_empty(), "has an /etc/hosts of its own"),
        (spec.dns != Default::default(), "has name servers of its own"),
        (
            spec.resources.cpu_millis.is_some_and(|millis| millis % 1000 != 0),
            "has whole CPUs: --cpus is a whole number",
        ),
    ];
    match wishes.iter().find(|(is_wished, _)| *is_wished) {
        None => Ok(()),
        Some((_, refusal)) => Err(Error::bad_parameter(format!(
            "{} is a whole operating system: it {refusal}",
            spec.image
        ))),
    }
}

/// Refuses what only a whole operating system has.
pub(crate) fn check_absent(spec: &ContainerSpec) -> Result<()> {
    let option = match (spec.firmware, spec.hardware) {
        (None, None) => return Ok(()),
        (Some(_), _) => "firmware",
        (None, Some(_)) => "hardware",
    };
    Err(Error::bad_parameter(format!(
        "{} is no whole operating system: --{option} is for those",
        spec.image
    )))
}

impl Engine {
    /// Finds what boots a container of `image`.
    pub(crate) async fn machine_for(
        &self,
        spec: &ContainerSpec,
        image: &ImageInfo,
    ) -> Result<MachineConfig> {
        let known = match image.config.document().machine {
            Some(known) => known,
            None => {
                let (store, file) = (Arc::clone(&self.store), image.file.clone());
                blocking(move || Ok(store.guess_machine(&file)?)).await?
            }
        };
        Ok(MachineConfig {
            firmware: spec.firmware.unwrap_or(known.firmware),
            hardware: spec.hardware.unwrap_or(known.hardware),
        })
    }

    /// What the shim of a machine is to do. Reads the disk of one that nobody made here.
    pub(crate) fn machine_work(
        &self,
        container: &Container,
        record: &ContainerRecord,
        log: Option<PathBuf>,
    ) -> Result<Work> {
        let machine = match record.machine {
            Some(machine) => machine,
            None => self.store.guess_machine(&container.scratch())?,
        };
        Ok(Work::Machine {
            firmware: match machine.firmware {
                Firmware::Bios => plan::Firmware::Bios,
                Firmware::Uefi => plan::Firmware::Uefi,
                Firmware::UefiSecure => plan::Firmware::UefiSecure,
            },
            hardware: match machine.hardware {
                Hardware::Virtio => plan::Hardware::Virtio,
                Hardware::Compatible => plan::Hardware::Compatible,
            },
            nvram: container.folder.join(NVRAM),
            log,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Resources;

    #[track_caller]
    fn refused(spec: ContainerSpec, words: &str) {
        let error = check(&spec).unwrap_err().to_string();
        assert!(error.contains("a whole operating system") && error.contains(words), "{error}");
    }

    #[test]
    fn what_cannot_be_told_to_a_system_is_refused() {
        check(&ContainerSpec { command: Some(Vec::new()), ..Default::default() }).unwrap();
        let words = || vec!["sh".to_owned()];
        refused(ContainerSpec { command: Some(words()), ..Default::default() }, "no command");
        refused(ContainerSpec { env: words(), ..Default::default() }, "environment");
        refused(ContainerSpec { read_only: true, ..Default::default() }, "write");
        let resources = Resources { memory: None, cpu_millis: Some(1500) };
        refused(ContainerSpec { resources, ..Default::default() }, "whole CPUs");
    }

    #[test]
    fn what_only_a_system_has_is_refused_for_anything_else() {
        check_absent(&ContainerSpec::default()).unwrap();
        let spec = ContainerSpec { firmware: Some(Firmware::Uefi), ..Default::default() };
        assert!(check_absent(&spec).unwrap_err().to_string().contains("--firmware"));
    }
}
