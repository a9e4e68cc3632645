//! Keeping VMs to their share of the host: where their control groups are, and what is left of one.
//!
//! The daemon finds the place once, when it starts; a VM's plan names its group, its shim makes it, sets
//! the limits and removes it. What a shim that was killed left is removed here.

use crate::blocking::blocking;
use crate::durable;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::start::plan_file;
use crate::state::ContainerRecord;
use ireko_cgroup::{CONTROLLERS, Group, Home};
use ireko_protocol::host::LimitFacts;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time for a QEMU whose shim was killed to be gone, which the kernel kills with it.
const END: Duration = Duration::from_secs(10);

/// Where VMs get their groups; why nowhere.
#[derive(Debug)]
pub(crate) struct HostLimits(std::result::Result<Home, String>);

/// What keeps one VM to its share of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmLimits {
    /// Its control group; `None` where it has none.
    pub group: Option<PathBuf>,
    /// Bytes of memory that QEMU may take; `None` is no limit.
    pub memory: Option<u64>,
    /// Thousandths of a CPU, likewise.
    pub cpu_millis: Option<u64>,
    /// Threads, likewise.
    pub tasks: Option<u64>,
    /// Why there is no group.
    pub reason: Option<String>,
}

impl HostLimits {
    /// Finds the place: the control group of this folder, or else the slice around this process.
    ///
    /// Errors where the one that was told cannot be used; without a slice there are no limits.
    pub(crate) fn find(told: Option<&Path>) -> Result<Self> {
        let home = match told {
            Some(dir) => Ok(Home::open(dir).map_err(|error| {
                Error::caused(format!("use the control group {}", dir.display()), error)
            })?),
            None => Home::of_own_slice()
                .map_err(|error| Error::caused("no control groups for VMs", error).chain()),
        };
        match &home {
            Ok(home) => tracing::info!(
                group = %home.dir().display(),
                controllers = home.controllers().join(" "),
                "VMs are kept to their share of the host"
            ),
            Err(reason) => tracing::info!(reason, "VMs have no limits of the host's"),
        }
        Ok(Self(home))
    }

    /// The folder of a VM's group.
    pub(crate) fn group(&self, vm: &str) -> Option<PathBuf> {
        let home = self.0.as_ref().ok()?;
        Some(home.group(vm).dir().to_owned())
    }

    fn facts(&self) -> LimitFacts {
        match &self.0 {
            Ok(home) => LimitFacts {
                group: Some(home.dir().to_owned()),
                controllers: home.controllers().iter().map(|&name| name.to_owned()).collect(),
                reason: missing(home.controllers())
                    .map(|names| format!("without the controllers {names} in it")),
            },
            Err(reason) => LimitFacts { reason: Some(reason.clone()), ..LimitFacts::default() },
        }
    }
}

fn missing(controllers: &[&str]) -> Option<String> {
    let names: Vec<_> =
        CONTROLLERS.into_iter().filter(|name| !controllers.contains(name)).collect();
    (!names.is_empty()).then(|| names.join(" "))
}

impl Engine {
    /// What keeps this daemon's VMs to their share of the host.
    pub fn host_limits(&self) -> LimitFacts {
        self.limits.facts()
    }

    /// What keeps a container's VM to its share of the host, as the kernel says; `None` where it has no VM.
    pub fn limits_of(&self, record: &ContainerRecord) -> Option<VmLimits> {
        record.vm()?;
        let group = group_in(&self.containers_folder().join(&record.id));
        let Some((group, in_force)) = group.and_then(|it| it.in_force().map(|now| (it, now)))
        else {
            let reason = match &self.limits.0 {
                Err(reason) => reason.clone(),
                Ok(_) => "its VM was started without a control group".to_owned(),
            };
            return Some(VmLimits { reason: Some(reason), ..VmLimits::default() });
        };
        Some(VmLimits {
            group: Some(group.dir().to_owned()),
            memory: in_force.memory,
            cpu_millis: in_force.cpu_millis,
            tasks: in_force.tasks,
            reason: None,
        })
    }
}

/// Removes what a shim that was killed leaves of its VM: its folder of sockets, and its group with
/// whatever is in it still.
pub(crate) async fn clear_up(runtime_dir: PathBuf, group: Option<Group>) {
    let cleared = blocking(move || {
        remove_sockets(&runtime_dir);
        end_group(group);
        Ok(())
    });
    if let Err(error) = cleared.await {
        tracing::error!(error = error.chain(), "a VM is not cleared up after");
    }
}

/// What is of interest here of a plan, whichever release wrote it.
#[derive(Deserialize)]
struct Grouped {
    #[serde(default)]
    group: Option<PathBuf>,
}

/// The group that the plan in this folder names.
pub(crate) fn group_in(state_dir: &Path) -> Option<Group> {
    match durable::read_json_unsynced::<Grouped>(&plan_file(state_dir)) {
        Ok(plan) => plan?.group.map(Group::at),
        Err(error) => {
            tracing::warn!(error = error.chain(), "a VM's plan cannot be read");
            None
        }
    }
}

fn remove_sockets(runtime_dir: &Path) {
    match std::fs::remove_dir_all(runtime_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, folder = %runtime_dir.display(), "sockets are left over");
        }
        _ => {}
    }
}

/// Ends what is left in a group and removes it. Blocks.
fn end_group(group: Option<Group>) {
    if let Some(group) = group
        && let Err(error) = group.end(END)
    {
        tracing::error!(error = Error::caused("a group is left over", error).chain());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_that_do_not_hold_are_named() {
        assert_eq!(missing(&["cpu", "memory", "pids"]), None);
        assert_eq!(missing(&["memory"]).as_deref(), Some("cpu pids"));
    }

    #[test]
    fn a_group_that_was_told_and_is_none_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = HostLimits::find(Some(folder.path())).unwrap_err().chain();
        assert!(error.contains("no control group of version 2"), "{error}");
    }
}
