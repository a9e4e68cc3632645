//! `containers/<id>/config.json`: all that is known about a container, and the only copy of it.

use crate::error::{Error, Result};
use crate::networks::state::EndpointRecord;
use crate::spec::{ContainerSpec, Resources};
use crate::store::oci::{Healthcheck, MachineConfig};
use ireko_protocol::network::Published;
pub use ireko_protocol::shim::Origin;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of `config.json`; a reader refuses a newer one.
pub const VERSION: u32 = 1;

/// A container, as it is on disk and in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// 64 lower-case hex digits.
    pub id: String,
    /// Unique among containers; without docker's leading slash.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// What was asked for.
    pub spec: ContainerSpec,
    /// The id of the image it was made from, without `sha256:`; empty for one that was made by
    /// another program from no image.
    pub image_id: String,
    /// File name of the scratch disk inside the container's folder.
    pub scratch: String,
    /// Its data disks, in the order in which its guest finds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskRecord>,
    /// What `spec` and the image's configuration make together.
    pub process: ProcessRecord,
    /// What boots it, where it is a whole operating system. One that another program made has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineConfig>,
    /// Its health check; `None` where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthRecord>,
    /// The image's labels with `spec`'s on top.
    pub labels: BTreeMap<String, String>,
    /// What it is doing.
    pub state: RunState,
    /// What its VM began from, this time or the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// How its last run, or the last attempt at one, ended.
    pub last_run: Option<LastRun>,
    /// How many runs have ended, failed starts not counted.
    pub ended_runs: u64,
    /// How often the restart policy started it again in a row.
    pub restart_count: u32,
    /// Its last end was asked for by a user.
    pub stopped_by_user: bool,
    /// Its places in networks, the main one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointRecord>,
    /// Where the host listens for it, while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
    /// What its VM was made for, this time or the last.
    #[serde(default, skip_serializing_if = "Resources::is_default")]
    pub vm_resources: Resources,
}

/// A data disk of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRecord {
    /// What it is called.
    pub name: String,
    /// File name inside the container's folder.
    pub file: String,
}

/// A container's health check, resolved, and what it last said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthRecord {
    /// The container's own with the image's beneath.
    pub check: Healthcheck,
    /// What a check in shell form is given to.
    pub shell: Vec<String>,
    /// In a word.
    pub status: HealthStatus,
}

/// How a container is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No check has succeeded yet.
    Starting,
    /// Well.
    Healthy,
    /// Too many checks failed in a row, or it has ended.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A container's process, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// The entrypoint, empty where there is none.
    pub entrypoint: Vec<String>,
    /// What the entrypoint is given, or the program itself.
    pub command: Vec<String>,
    /// The image's variables with the user's on top; what every process gets is added at start.
    pub env: Vec<String>,
    /// Absolute.
    pub working_dir: String,
    /// Empty is root.
    pub user: String,
    /// Name or number.
    pub stop_signal: String,
}

impl ProcessRecord {
    /// That of a machine image's container: the system on its disk is what runs.
    pub(crate) fn of_machine() -> Self {
        Self {
            entrypoint: Vec::new(),
            command: Vec::new(),
            env: Vec::new(),
            working_dir: "/".into(),
            user: String::new(),
            stop_signal: "SIGTERM".into(),
        }
    }

    /// It names no program: the system on the disk is booted.
    pub fn is_machine(&self) -> bool {
        self.entrypoint.is_empty() && self.command.is_empty()
    }

    /// Program and arguments.
    pub fn argv(&self) -> Vec<String> {
        self.entrypoint.iter().chain(&self.command).cloned().collect()
    }
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum RunState {
    /// It never ran.
    Created,
    /// A VM is on its way.
    Starting {
        /// The VM's id.
        vm: String,
    },
    /// Its process runs.
    Running {
        /// The VM's id.
        vm: String,
        /// The VM's own process on the host.
        vm_pid: u32,
        /// When its process started.
        started_at: Timestamp,
        /// Its processes are stopped by `pause`.
        paused: bool,
    },
    /// It ran.
    Exited,
    /// Its VM is saved beside its disk, and goes on from there when it is started.
    Suspended,
    /// It ended, and its restart policy will start it again.
    Restarting,
    /// It is being removed; whoever finds this finishes it.
    Removing,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// Docker's exit code.
    pub exit_code: i32,
    /// What went wrong beside the process's own exit.
    pub error: Option<String>,
    /// The host's kernel killed its VM for memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom_killed: bool,
    /// `None` where the process never started.
    pub started_at: Option<Timestamp>,
    /// `None` where the process never started.
    pub finished_at: Option<Timestamp>,
}

impl ContainerRecord {
    /// The id of its image with `sha256:`; empty where it has none.
    pub fn image_digest(&self) -> String {
        match self.image_id.as_str() {
            "" => String::new(),
            hex => format!("sha256:{hex}"),
        }
    }

    /// The VM it has, whether or not its process runs yet.
    pub fn vm(&self) -> Option<&str> {
        match &self.state {
            RunState::Starting { vm } | RunState::Running { vm, .. } => Some(vm),
            _ => None,
        }
    }

    /// Its process runs (or is paused).
    pub fn is_running(&self) -> bool {
        matches!(self.state, RunState::Running { .. })
    }

    /// Its processes are stopped by `pause`.
    pub fn is_paused(&self) -> bool {
        matches!(self.state, RunState::Running { paused: true, .. })
    }

    /// Its VM is saved beside its disk.
    pub fn is_suspended(&self) -> bool {
        self.state == RunState::Suspended
    }

    /// Docker's word for [`ContainerRecord::state`].
    pub fn status(&self) -> &'static str {
        match &self.state {
            RunState::Running { paused: true, .. } => "paused",
            RunState::Running { .. } => "running",
            RunState::Exited | RunState::Suspended => "exited",
            RunState::Restarting => "restarting",
            RunState::Removing => "removing",
            RunState::Created | RunState::Starting { .. } => match self.has_run() {
                true => "exited",
                false => "created",
            },
        }
    }

    /// Sets the status of its health check, where it has one.
    pub(crate) fn set_health(&mut self, status: HealthStatus) {
        if let Some(health) = &mut self.health {
            health.status = status;
        }
    }

    /// The state to go back to where a start failed.
    pub(crate) fn at_rest(&self) -> RunState {
        match self.has_run() {
            true => RunState::Exited,
            false => RunState::Created,
        }
    }

    fn has_run(&self) -> bool {
        self.ended_runs > 0
    }

    /// Refuses a record of a newer Ireko.
    pub(crate) fn check_version(self) -> Result<Self> {
        match self.version {
            VERSION => Ok(self),
            other => Err(Error::internal(format!(
                "container {} was written by a newer Ireko (config.json version {other}, this one \
                 reads {VERSION})",
                self.id
            ))),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A container that was just made.
    pub(crate) fn sample() -> ContainerRecord {
        ContainerRecord {
            version: VERSION,
            id: "ab".repeat(32),
            name: "calm_hopper".into(),
            created: Timestamp::UNIX_EPOCH,
            spec: ContainerSpec { image: "base".into(), keep_log: true, ..Default::default() },
            image_id: "cd".repeat(32),
            scratch: "base.vhdx".into(),
            disks: Vec::new(),
            process: ProcessRecord {
                entrypoint: Vec::new(),
                command: vec!["sh".into()],
                env: vec!["A=b".into()],
                working_dir: "/".into(),
                user: String::new(),
                stop_signal: "SIGTERM".into(),
            },
            machine: None,
            health: None,
            labels: BTreeMap::new(),
            state: RunState::Created,
            origin: None,
            last_run: None,
            ended_runs: 0,
            restart_count: 0,
            stopped_by_user: false,
            endpoints: Vec::new(),
            published: Vec::new(),
            vm_resources: Resources::default(),
        }
    }

    #[test]
    fn the_file_is_read_as_every_version_wrote_it() {
        let golden = include_str!("../tests/golden/config-v1.json");
        let read: ContainerRecord = serde_json::from_str(golden).unwrap();
        assert_eq!(read, sample());
        assert_eq!(serde_json::to_string_pretty(&sample()).unwrap(), golden.trim_end());
    }

    #[test]
    fn a_newer_file_is_refused() {
        let newer = ContainerRecord { version: VERSION + 1, ..sample() };
        assert!(newer.check_version().unwrap_err().to_string().contains("newer Ireko"));
    }
}
