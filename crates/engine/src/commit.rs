//! Turning a container's disk into an image, whether it runs or not, without copying a byte.
//!
//! ```text
//!   begin (journal) ─► shim: freeze the live leaf  ─► publish (sidecar, tag) ─► image
//!                   └► store: freeze the leaf at rest ─┘       └ on failure: abort
//! ```
//!
//! A shim that gives no answer may still freeze the disk. Such a commit is neither published nor
//! aborted: the store settles it at the container's next commit, at the end of its run, or when it
//! is removed.

use crate::blocking::{blocking, to_its_end};
use crate::changes::{apply_changes, lay_over};
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::shim_client::{AskError, COMMIT, unexpected};
use crate::state::{ContainerRecord, RunState};
use crate::store::oci::RunConfig;
use crate::store::{ImageInfo, Name, NewImage};
use crate::suspend::check_disk_is_free;
use ireko_images::{DataDisk, PendingCommit};
use ireko_protocol::agent::DiskSerial;
use ireko_protocol::shim::{Answer, CommitRequest, DiskCommit, Request};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Time for the end of a run to be known, where its VM did not do what was asked of it.
const ENDING: Duration = Duration::from_secs(5);

/// What the image of a commit is called, and what is said about it.
#[derive(Clone, Debug, Default)]
pub struct CommitOptions {
    /// Its name, `repository[:tag]`; `None` leaves it without one.
    pub name: Option<String>,
    /// What was done.
    pub comment: String,
    /// By whom.
    pub author: String,
    /// What goes over the container's own configuration, where it says anything.
    pub config: RunConfig,
    /// Lines of a Dockerfile that change the configuration.
    pub changes: Vec<String>,
    /// Hold the guest's file systems still around it; without, the image is as after a power cut.
    pub freeze_guest: bool,
    /// Its data disks become the image's too, all as they are at one moment.
    pub all_disks: bool,
}

/// What a commit made.
#[derive(Clone, Debug)]
pub struct CommitReport {
    /// The image.
    pub image: ImageInfo,
    /// Its file system was still: cleanly unmounted, or frozen by the guest.
    pub is_consistent: bool,
    /// Data disks that are not in it.
    pub left_out: Vec<String>,
    /// For how long the guest's writes were held back, in microseconds; 0 where it did not run.
    pub hold_micros: u64,
}

impl Engine {
    /// Commits a container.
    ///
    /// Errors where it is being started or removed, where a name or a change is malformed, and
    /// where the freeze fails; then the container and the store are as they were. Where the VM's
    /// shim does not answer, the image may still come to be.
    pub async fn commit(&self, reference: &str, options: CommitOptions) -> Result<CommitReport> {
        let container = self.find(reference)?;
        let engine = self.clone();
        to_its_end(async move {
            let _verb = container.verb.lock().await;
            let vm = container.record().vm().map(str::to_owned);
            let mut made = engine.commit_locked(&container, &options).await;
            if let (Err(_), Some(vm)) = (&made, vm)
                && timeout(ENDING, container.is_rid_of(&vm)).await.is_ok()
            {
                // Its run was just ending: the disk is at rest now.
                engine.settle_commits(&container).await;
                made = engine.commit_locked(&container, &options).await;
            }
            let report = made?;
            let id = ("imageID", report.image.id.to_string());
            engine.emit(&container.record(), "commit", &[id]);
            Ok(report)
        })
        .await
    }

    async fn commit_locked(
        &self,
        container: &Arc<Container>,
        options: &CommitOptions,
    ) -> Result<CommitReport> {
        let record = container.record();
        if container.is_removed() || record.state == RunState::Removing {
            return Err(Error::not_found(format!("No such container: {}", record.id)));
        }
        check_disk_is_free(&record)?;
        let new = self.new_image(&record, options).await?;
        let (store, leaf) = (Arc::clone(&self.store), container.scratch());
        let (data, left_out) = match options.all_disks {
            true => (container.data_disks()?, Vec::new()),
            false => (Vec::new(), record.disks.iter().map(|disk| disk.name.clone()).collect()),
        };
        let pending = {
            let data = data.clone();
            blocking(move || Ok(store.begin_commit(&leaf, &data, new)?)).await?
        };

        let (pending, frozen) = if record.is_running() {
            let request = request(&pending, &data, options.freeze_guest);
            (pending, self.freeze_running(container, request).await)
        } else {
            let store = Arc::clone(&self.store);
            let frozen = Frozen { is_consistent: was_shut_down(&record), hold_micros: 0 };
            blocking(move || {
                let result = store.freeze_stopped(&pending);
                let freeze = match result {
                    Ok(()) => Freeze::Done(frozen),
                    Err(error) => Freeze::Failed(error.into()),
                };
                Ok((pending, freeze))
            })
            .await?
        };
        let store = Arc::clone(&self.store);
        blocking(move || match frozen {
            Freeze::Done(Frozen { is_consistent, hold_micros }) => {
                let image = store.publish_commit(pending)?;
                Ok(CommitReport { image, is_consistent, left_out, hold_micros })
            }
            Freeze::InDoubt(error) => {
                drop(pending);
                Err(error.hint(
                    "the image may still be made: that shows when the container is committed \
                     again or ends",
                ))
            }
            Freeze::Failed(error) => {
                if let Err(abort) = store.abort_commit(pending) {
                    let abort = Error::from(abort).chain();
                    tracing::error!(error = abort, "a failed commit was not undone");
                }
                Err(error)
            }
        })
        .await
    }

    async fn freeze_running(&self, container: &Container, request: CommitRequest) -> Freeze {
        match container.running_shim(self.places()) {
            Ok(shim) => {
                let answer = shim.ask(Request::Commit(request), COMMIT).await;
                freeze_of(answer, &container.record().name)
            }
            Err(error) => Freeze::Failed(error),
        }
    }

    async fn new_image(
        &self,
        record: &ContainerRecord,
        options: &CommitOptions,
    ) -> Result<NewImage> {
        let name = options.name.as_deref().map(Name::parse).transpose()?;
        let (store, image_id) = (Arc::clone(&self.store), record.image_id.clone());
        // The image may have been removed by force meanwhile.
        let image = blocking(move || Ok(store.find(&image_id).ok())).await?;
        let base = image.map(|image| image.config.document().config.clone()).unwrap_or_default();
        let mut config = merged_config(record, base);
        lay_over(&mut config, &options.config);
        apply_changes(&mut config, &options.changes)?;
        Ok(NewImage {
            config,
            machine: record.machine,
            generalized: false,
            container: Some((record.id.clone(), record.spec.image.clone())),
            name,
            comment: options.comment.clone(),
            author: options.author.clone(),
            created_by: record.process.argv().join(" "),
            created: Timestamp::now(),
        })
    }
}

/// What the shim is asked to freeze.
fn request(pending: &PendingCommit, data: &[DataDisk], freeze_guest: bool) -> CommitRequest {
    let disks = data.iter().zip(&pending.data).map(|(disk, freeze)| DiskCommit {
        serial: DiskSerial(disk.name.to_string()),
        frozen: freeze.frozen.clone(),
        frozen_parent: freeze.frozen_parent.clone(),
        next_parent: freeze.next_parent.clone(),
    });
    let own = &pending.own;
    CommitRequest {
        frozen: own.frozen.clone(),
        // A container's own disk stands on its image.
        frozen_parent: own.frozen_parent.clone().unwrap_or_default(),
        next_parent: own.next_parent.clone(),
        freeze_guest,
        disks: disks.collect(),
    }
}

/// What is known of a freeze.
#[derive(Debug)]
enum Freeze {
    Done(Frozen),
    /// Nobody is at it any more.
    Failed(Error),
    /// The shim may be at it still.
    InDoubt(Error),
}

/// What became of a leaf.
#[derive(Debug)]
struct Frozen {
    is_consistent: bool,
    hold_micros: u64,
}

/// What a shim's answer to a commit says.
fn freeze_of(answer: std::result::Result<Answer, AskError>, name: &str) -> Freeze {
    let what = || format!("commit container {name}");
    match answer {
        Ok(Answer::Committed(done)) => Freeze::Done(Frozen {
            is_consistent: done.file_system_consistent,
            hold_micros: done.hold_micros,
        }),
        Ok(other) => Freeze::InDoubt(unexpected("commit", &other)),
        Err(refused @ AskError::Refused(_)) => Freeze::Failed(refused.into_error(what)),
        Err(broken @ AskError::Broken(_)) => Freeze::InDoubt(broken.into_error(what)),
    }
}

/// The guest of the last run unmounted its disk, or there was none. A whole operating system that
/// did not power itself off had no time to.
fn was_shut_down(record: &ContainerRecord) -> bool {
    record.last_run.as_ref().is_none_or(|run| {
        let switched_off = record.process.is_machine() && run.exit_code != 0;
        run.started_at.is_none() || (run.error.is_none() && !switched_off)
    })
}

/// The configuration of the image that a container makes.
fn merged_config(record: &ContainerRecord, image: RunConfig) -> RunConfig {
    let process = &record.process;
    let mut exposed_ports = image.exposed_ports.clone();
    exposed_ports.extend(record.spec.exposed_ports.iter().cloned());
    RunConfig {
        user: process.user.clone(),
        env: process.env.clone(),
        entrypoint: process.entrypoint.clone(),
        cmd: process.command.clone(),
        working_dir: process.working_dir.clone(),
        labels: record.labels.clone(),
        stop_signal: match process.stop_signal.as_str() {
            "SIGTERM" => String::new(),
            signal => signal.to_owned(),
        },
        exposed_ports,
        healthcheck: match &record.health {
            Some(health) => Some(health.check.clone()),
            None => record.spec.healthcheck.clone().or(image.healthcheck),
        },
        ..image
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim_client::Refusal;
    use crate::state::tests::sample;
    use ireko_protocol::agent::FailureKind;

    #[test]
    fn the_new_image_runs_what_the_container_ran() {
        let image = RunConfig {
            shell: vec!["/bin/ash".into()],
            exposed_ports: ["80/tcp".to_owned()].into(),
            ..Default::default()
        };
        let mut record = sample();
        record.spec.exposed_ports = vec!["53/udp".into()];
        record.labels.insert("a".into(), "b".into());
        let config = merged_config(&record, image);
        assert_eq!(config.cmd, ["sh"]);
        assert_eq!(config.shell, ["/bin/ash"]);
        assert_eq!(config.exposed_ports.len(), 2);
        assert_eq!(config.labels["a"], "b");
        assert_eq!(config.stop_signal, "");
    }

    #[test]
    fn only_a_shim_that_says_no_has_left_the_disk_alone() {
        let refusal = Refusal { kind: FailureKind::Other, message: "no".into() };
        let refused = freeze_of(Err(AskError::Refused(refusal)), "c");
        assert!(matches!(refused, Freeze::Failed(_)));
        let broken = freeze_of(Err(AskError::Broken(Error::internal("gone"))), "c");
        assert!(matches!(broken, Freeze::InDoubt(_)));
        assert!(matches!(freeze_of(Ok(Answer::Done), "c"), Freeze::InDoubt(_)));
    }

    #[test]
    fn a_container_whose_vm_died_is_as_after_a_power_cut() {
        let mut record = sample();
        assert!(was_shut_down(&record));
        record.last_run = Some(crate::state::LastRun {
            exit_code: 255,
            error: Some("the shim died".into()),
            oom_killed: false,
            started_at: Some(Timestamp::UNIX_EPOCH),
            finished_at: Some(Timestamp::UNIX_EPOCH),
        });
        assert!(!was_shut_down(&record));
    }

    #[test]
    fn a_machine_that_was_switched_off_is_as_after_a_power_cut() {
        let mut record = sample();
        record.process = crate::state::ProcessRecord::of_machine();
        let ended = |exit_code| crate::state::LastRun {
            exit_code,
            error: None,
            oom_killed: false,
            started_at: Some(Timestamp::UNIX_EPOCH),
            finished_at: Some(Timestamp::UNIX_EPOCH),
        };
        record.last_run = Some(ended(0));
        assert!(was_shut_down(&record));
        record.last_run = Some(ended(137));
        assert!(!was_shut_down(&record));
    }
}
