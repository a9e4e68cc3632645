//! What happens when a container's run ends.
//!
//! One task for each run waits for the shim's word, then for the shim itself to be gone, so that
//! the disk is free when the container is shown exited. Then: record, `die`, and removal or
//! another start where the container asks for it.

use crate::blocking::blocking;
use crate::container::Container;
use crate::durable;
use crate::engine::Engine;
use crate::host_limits::{clear_up, group_in};
use crate::shim_client::Connection;
use crate::shim_process::OwnProcess;
use crate::spec::RestartPolicy;
use crate::start::Cause;
use crate::state::{ContainerRecord, HealthStatus, LastRun, RunState};
use ireko_protocol::plan::{self, ExitRecord};
use ireko_protocol::shim::Answer;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Time for a shim that has said how its VM ended to end itself; it waits for slow clients.
const FAREWELL: Duration = Duration::from_secs(30);
/// The exit code of a container whose VM or shim died.
const LOST: i32 = 255;
/// A run of this length makes the next restart quick again.
const LONG_RUN: Duration = Duration::from_secs(10);
/// The first pause before a restart; doubled each time, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A run that goes on.
pub(crate) struct Run {
    pub(crate) vm: String,
    pub(crate) process: OwnProcess,
    /// Where the shim will say how it ended; `None` where it can no longer be asked.
    pub(crate) wait: Option<Connection>,
}

impl Engine {
    /// Watches over a run to its end and beyond.
    pub(crate) fn monitor(&self, container: &Arc<Container>, run: Run) {
        let (engine, container) = (self.clone(), Arc::clone(container));
        let wishes = container.run_of(&run.vm);
        engine.keep_health(&container, &run.vm);
        tokio::spawn(async move {
            let vm = run.vm.clone();
            let ended = wait_for_end(&container, run, &wishes.give_up).await;
            container.end_run(&vm);
            clear_up(engine.places().vm_dir(&vm), group_in(&container.folder)).await;
            engine.run_ended(&container, ended).await;
        });
    }

    /// Records a run's end, and does what the container asks for then.
    pub(crate) async fn run_ended(&self, container: &Arc<Container>, ended: ExitRecord) {
        container.go_quiet();
        self.unwire(container).await;
        let started_at = match &container.record().state {
            RunState::Running { started_at, .. } => Some(*started_at),
            _ => ended.started_at.map(timestamp),
        };
        let last_run = LastRun {
            exit_code: ended.exit_code,
            error: ended.error,
            oom_killed: ended.oom_killed,
            started_at,
            finished_at: Some(timestamp(ended.finished_at)),
        };
        let length = last_run.length();
        let resting = Arc::clone(container);
        let saved = container
            .update_regardless(move |record| {
                if length >= LONG_RUN {
                    record.restart_count = 0;
                }
                record.last_run = Some(last_run);
                record.published.clear();
                record.set_health(HealthStatus::Unhealthy);
                record.ended_runs += 1;
                record.state = match resting.rest(RunState::Exited) {
                    // Its disk is not to be looked at: what was written last may be missing.
                    RunState::Exited if record.spec.auto_remove => RunState::Removing,
                    RunState::Exited if will_restart(record) => RunState::Restarting,
                    state => state,
                };
            })
            .await;
        if let Err(error) = saved {
            tracing::error!(error = error.chain(), "the end of a run could not be recorded");
        }
        let record = container.record();
        let attributes = [
            ("exitCode", ended.exit_code.to_string()),
            ("execDuration", length.as_secs().to_string()),
        ];
        self.emit(&record, "die", &attributes);
        let verb = container.verb.lock().await;
        self.settle_commits(container).await;
        if container.record().vm().is_none() {
            // A network that it got in its last moment.
            self.unwire(container).await;
        }
        if record.spec.auto_remove {
            if let Err(error) = self.remove_locked(container).await {
                tracing::error!(error = error.chain(), "a container could not be removed");
            }
        } else if record.state == RunState::Restarting {
            self.restart_later(container, pause_before(record.restart_count));
        }
        self.fold_soon();
        drop(verb);
    }

    /// Finishes commits that are in doubt: a former daemon began them, or the shim did not answer.
    /// The caller holds the container's verb lock, and its shim is gone.
    pub(crate) async fn settle_commits(&self, container: &Container) {
        let (store, scratch) = (Arc::clone(&self.store), container.scratch());
        let settled = blocking(move || Ok(store.settle_commits(&scratch)?)).await;
        if let Err(error) = settled {
            tracing::error!(error = error.chain(), id = container.id, "a commit is not settled");
        }
    }

    /// Starts a container again after a pause, unless something else happened to it meanwhile.
    pub(crate) fn restart_later(&self, container: &Arc<Container>, pause: Duration) {
        let (engine, container) = (self.clone(), Arc::clone(container));
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _verb = container.verb.lock().await;
            if container.is_removed() || container.record().state != RunState::Restarting {
                return;
            }
            let counted = container.update(|record| record.restart_count += 1).await;
            let started = match counted {
                Ok(_) => engine.start_boxed(&container).await,
                Err(error) => Err(error),
            };
            if let Err(error) = started {
                tracing::warn!(error = error.chain(), id = container.id, "not restarted");
            }
        });
    }

    /// [`Engine::start_locked`], boxed because it leads back to [`Engine::monitor`].
    fn start_boxed<'a>(
        &'a self,
        container: &'a Arc<Container>,
    ) -> std::pin::Pin<Box<dyn Future<Output = crate::Result<()>> + Send + 'a>> {
        Box::pin(self.start_locked(container, Cause::RestartPolicy))
    }
}

/// A shim's nanoseconds since 1970 as a time.
pub(crate) fn timestamp(nanos: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Now, as a shim writes it.
pub(crate) fn now_nanos() -> u64 {
    u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0)
}

/// What is known of a VM whose shim left no `exit.json`.
pub(crate) fn lost(vm: &str) -> ExitRecord {
    ExitRecord {
        version: plan::VERSION,
        exit_code: LOST,
        error: Some(format!("the shim of VM {vm} died: the container's process died with it")),
        oom_killed: false,
        started_at: None,
        finished_at: now_nanos(),
    }
}

async fn wait_for_end(container: &Container, run: Run, give_up: &Notify) -> ExitRecord {
    let Run { vm, mut process, wait } = run;
    let said = async {
        match wait {
            Some(mut wait) => wait.next_answer().await.ok().flatten(),
            // It ends without a word.
            None => {
                process.ended().await;
                None
            }
        }
    };
    let ended = tokio::select! {
        answer = said => {
            process.end_within(FAREWELL).await;
            // Clients take the end for the last word: all output has to be out before.
            container.end_sessions().await;
            answer
        }
        () = give_up.notified() => {
            process.kill();
            process.ended().await;
            None
        }
    };
    match ended {
        Some(Answer::Ended(record)) => record,
        _ => match durable::read_json::<ExitRecord>(&container.folder.join("exit.json")) {
            Ok(Some(record)) => record,
            _ => lost(&vm),
        },
    }
}

impl LastRun {
    fn length(&self) -> Duration {
        match (self.started_at, self.finished_at) {
            (Some(from), Some(to)) => {
                Duration::try_from(to.duration_since(from)).unwrap_or_default()
            }
            _ => Duration::ZERO,
        }
    }
}

/// Whether a container whose run just ended by itself is started again.
fn will_restart(record: &ContainerRecord) -> bool {
    if record.stopped_by_user {
        return false;
    }
    match record.spec.restart {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure { limit } => {
            let failed = record.last_run.as_ref().is_some_and(|run| run.exit_code != 0);
            failed && (limit == 0 || record.restart_count < limit)
        }
    }
}

fn pause_before(restarts: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1_u32.checked_shl(restarts).unwrap_or(u32::MAX)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::sample;

    #[track_caller]
    fn check(restart: RestartPolicy, exit_code: i32, restarts: u32, by_user: bool, again: bool) {
        let mut record = sample();
        record.spec.restart = restart;
        record.restart_count = restarts;
        record.stopped_by_user = by_user;
        record.last_run = Some(LastRun {
            exit_code,
            error: None,
            oom_killed: false,
            started_at: None,
            finished_at: None,
        });
        assert_eq!(will_restart(&record), again);
    }

    #[test]
    fn restart_policies_keep_their_word() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        check(No, 1, 0, false, false);
        check(Always, 0, 9, false, true);
        check(Always, 0, 0, true, false);
        check(UnlessStopped, 0, 0, false, true);
        check(OnFailure { limit: 0 }, 0, 0, false, false);
        check(OnFailure { limit: 0 }, 1, 99, false, true);
        check(OnFailure { limit: 3 }, 1, 2, false, true);
        check(OnFailure { limit: 3 }, 1, 3, false, false);
    }

    #[test]
    fn pauses_between_restarts_grow_up_to_a_minute() {
        assert_eq!(pause_before(0), Duration::from_millis(100));
        assert_eq!(pause_before(3), Duration::from_millis(800));
        assert_eq!(pause_before(40), LONGEST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shim_that_cannot_be_asked_is_left_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let container = Container::new(folder.path().to_owned(), sample());
        let mut shim = tokio::process::Command::new("cat");
        let mut shim = shim.stdin(std::process::Stdio::piped()).spawn().unwrap();
        let stdin = shim.stdin.take();
        let vm = "0123456789ab".to_owned();
        let run = Run { vm, process: OwnProcess::Own(shim), wait: None };
        let give_up = Notify::new();
        let mut ended = Box::pin(wait_for_end(&container, run, &give_up));
        // Time passes as soon as nothing else happens.
        assert!(tokio::time::timeout(FAREWELL * 100, &mut ended).await.is_err());
        drop(stdin);
        assert_eq!(ended.await.exit_code, LOST);
    }
}
