//! Containers that are whole operating systems: what may be said of one, and the plan that boots it.
//!
//! ```text
//!   create's options ─► what the image's configuration says ─► a guess from the partition table
//! ```
//!
//! The first that says something decides which firmware and which devices a container has, once, at
//! its making. What cloud-init and its kin can tell the system inside is on a disk beside its own
//! ([`crate::seed`]); what nobody could tell it is refused.

use crate::blocking::blocking;
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::networks::wiring::Wire;
use crate::seed;
use crate::spec::{ContainerSpec, Resources, StartChoice};
use crate::state::ContainerRecord;
use crate::store::ImageInfo;
use crate::store::oci::{Firmware, Hardware, MachineConfig};
use crate::suspend;
use ireko_protocol::plan::{self, Work};
use std::path::PathBuf;
use std::sync::Arc;

/// UEFI's variables, in the container's folder.
const NVRAM: &str = "nvram.fd";

/// Bytes of user data: more than any cloud takes.
const MOST_USER_DATA: usize = 1 << 20;
/// Bytes of a public key.
const MOST_KEY: usize = 16 << 10;
const MOST_KEYS: usize = 64;

/// What its first boot is told, in the container's folder.
const SEED: &str = "seed.img";

/// Whether a machine gets a disk that tells it who it is. A Linux always does; another system, which
/// may think a drive more than there was is its own, where there is something to be told.
fn wants_seed(spec: &ContainerSpec, hardware: Hardware) -> bool {
    hardware == Hardware::Virtio
        || spec.hostname.is_some()
        || spec.user_data.is_some()
        || !spec.ssh_keys.is_empty()
        || !spec.env.is_empty()
}

/// Refuses what cannot be had of a whole operating system.
pub(crate) fn check(spec: &ContainerSpec) -> Result<()> {
    let is_given = |words: &Option<Vec<String>>| words.as_ref().is_some_and(|w| !w.is_empty());
    let says = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let wishes = [
        (is_given(&spec.command) || is_given(&spec.entrypoint), "takes no command"),
        (says(&spec.working_dir), "has no working directory"),
        (says(&spec.user), "runs as no user"),
        (says(&spec.stop_signal), "is stopped by its power button, not by a signal"),
        (spec.init, "has an init of its own"),
        (spec.start == StartChoice::Template, "boots its disk: there is no template of it"),
        (spec.read_only, "needs a disk that it can write to"),
        (!spec.tmpfs.is_empty(), "mounts its file systems itself"),
        (!spec.extra_hosts.is_empty(), "has an /etc/hosts of its own"),
        (!spec.dns.search.is_empty(), "has search domains of its own"),
        (!spec.dns.options.is_empty(), "resolves names its own way"),
        (spec.domain_name.is_some(), "has a domain name of its own"),
        (!spec.bounds.is_none(), "gives its processes their rights and limits itself"),
        (spec.resources.pids_max.is_some(), "counts its processes itself"),
    ];
    match wishes.iter().find(|(is_wished, _)| *is_wished) {
        None => check_cpus(&spec.image, &spec.resources).and_then(|()| check_first_boot(spec)),
        Some((_, refusal)) => Err(Error::bad_parameter(format!(
            "{} is a whole operating system: it {refusal}",
            spec.image
        ))),
    }
}

/// Refuses what the first boot's disk has no room for.
fn check_first_boot(spec: &ContainerSpec) -> Result<()> {
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    for (name, value) in spec.env.iter().filter_map(|entry| entry.split_once('=')) {
        if !is_name(name) || value.contains(['\n', '\r', '\0']) {
            return Err(Error::bad_parameter(format!(
                "environment variable {name:?} cannot be given to a whole operating system: names \
                 are letters, digits and _, values one line"
            )));
        }
    }
    if spec.user_data.as_ref().is_some_and(|text| text.len() > MOST_USER_DATA) {
        return Err(Error::bad_parameter(format!("user data are at most {MOST_USER_DATA} bytes")));
    }
    let is_key = |key: &String| {
        key.len() <= MOST_KEY && !key.contains(['\n', '\r', '\0']) && key.contains(' ')
    };
    match spec.ssh_keys.iter().find(|key| !is_key(key)) {
        Some(_) => Err(Error::bad_parameter(
            "a public ssh key is one line, such as that in ~/.ssh/id_ed25519.pub",
        )),
        None if spec.ssh_keys.len() > MOST_KEYS => {
            Err(Error::bad_parameter(format!("at most {MOST_KEYS} ssh keys are let in")))
        }
        None => Ok(()),
    }
}

/// Refuses a part of a CPU: nobody inside would keep the limit.
pub(crate) fn check_cpus(image: &str, resources: &Resources) -> Result<()> {
    match resources.cpu_millis {
        Some(millis) if millis % 1000 != 0 => Err(Error::bad_parameter(format!(
            "{image} is a whole operating system: it has whole CPUs: --cpus is a whole number"
        ))),
        _ => Ok(()),
    }
}

/// Refuses what only a whole operating system has.
pub(crate) fn check_absent(spec: &ContainerSpec) -> Result<()> {
    let options = [
        (spec.firmware.is_some(), "firmware"),
        (spec.hardware.is_some(), "hardware"),
        (spec.nested, "nested"),
        (spec.user_data.is_some(), "user-data"),
        (!spec.ssh_keys.is_empty(), "ssh-key"),
    ];
    let Some((_, option)) = options.iter().find(|(is_given, _)| *is_given) else { return Ok(()) };
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
        wires: &[Wire],
    ) -> Result<Work> {
        let machine = match record.machine {
            Some(machine) => machine,
            None => self.store.guess_machine(&container.scratch())?,
        };
        let resume = suspend::is_suspended(&container.folder);
        let seed = container.folder.join(SEED);
        let seed = match wants_seed(&record.spec, machine.hardware) {
            // A system that goes on has read it.
            true if resume => Some(seed),
            true => {
                seed::write(&seed, record, wires)?;
                Some(seed)
            }
            false => None,
        };
        if !resume {
            // What a shim that was killed had not saved whole.
            suspend::forget(&container.folder)?;
        }
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
            seed,
            log,
            nested: record.spec.nested,
            resume,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Dns;

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
        refused(ContainerSpec { working_dir: Some("/".into()), ..Default::default() }, "working");
        refused(ContainerSpec { read_only: true, ..Default::default() }, "write");
        let servers = Dns { servers: vec!["10.0.0.2".parse().unwrap()], ..Dns::default() };
        check(&ContainerSpec { dns: servers, ..Default::default() }).unwrap();
        let search = Dns { search: words(), ..Dns::default() };
        refused(ContainerSpec { dns: search, ..Default::default() }, "search domains");
        let resources = Resources { cpu_millis: Some(1500), ..Resources::default() };
        refused(ContainerSpec { resources, ..Default::default() }, "whole CPUs");
    }

    #[test]
    fn what_only_a_system_has_is_refused_for_anything_else() {
        check_absent(&ContainerSpec::default()).unwrap();
        let spec = ContainerSpec { firmware: Some(Firmware::Uefi), ..Default::default() };
        assert!(check_absent(&spec).unwrap_err().to_string().contains("--firmware"));
    }
}
