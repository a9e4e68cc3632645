//! Waiting for a container to end.

use crate::container::{Container, Moment};
use crate::engine::Engine;
use crate::error::Result;
use crate::state::RunState;
use std::sync::Arc;
use tokio::sync::watch;

/// What is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitFor {
    /// That it does not run; at once where that is so. One that will be started again does not run when
    /// its run has ended.
    #[default]
    NotRunning,
    /// The end of a run that has not ended yet.
    NextExit,
    /// That it is no longer in the store.
    Removed,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Docker's exit code.
    pub exit_code: i32,
    /// What went wrong beside the process's own exit.
    pub error: Option<String>,
}

/// A wait that has begun.
pub struct Waiting {
    now: watch::Receiver<Moment>,
    condition: WaitFor,
    ended_runs: u64,
}

impl Engine {
    /// Begins to wait: what happens from here on counts. Errors where there is no such container.
    pub fn wait(&self, reference: &str, condition: WaitFor) -> Result<Waiting> {
        Ok(Waiting::new(&self.find(reference)?, condition))
    }
}

impl Waiting {
    pub(crate) fn new(container: &Arc<Container>, condition: WaitFor) -> Self {
        let now = container.watch();
        let ended_runs = now.borrow().record.ended_runs;
        Self { now, condition, ended_runs }
    }

    /// Returns when it has come true. A container may run for ever, so this has no deadline.
    pub async fn ending(mut self) -> Ending {
        let (condition, ended_runs) = (self.condition, self.ended_runs);
        let reached = self.now.wait_for(|moment| is_reached(moment, condition, ended_runs)).await;
        // The sender lives in the container; where that is gone the last moment still tells.
        let last_run = match reached {
            Ok(moment) => moment.record.last_run.clone(),
            Err(_) => None,
        };
        match last_run {
            // Why a start failed is told to whoever started; clients take an error here for one of
            // the wait itself.
            Some(run) => Ending {
                exit_code: run.exit_code,
                error: run.error.filter(|_| run.started_at.is_some()),
            },
            None => Ending { exit_code: 0, error: None },
        }
    }
}

fn is_reached(moment: &Moment, condition: WaitFor, ended_runs: u64) -> bool {
    if moment.removed {
        return true;
    }
    match condition {
        WaitFor::Removed => false,
        WaitFor::NextExit => moment.record.ended_runs > ended_runs,
        WaitFor::NotRunning => {
            let runs = matches!(
                moment.record.state,
                RunState::Starting { .. } | RunState::Running { .. } | RunState::Restarting
            );
            !runs || moment.record.ended_runs > ended_runs
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::LastRun;
    use crate::state::tests::sample;

    #[tokio::test]
    async fn each_condition_comes_true_in_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let container = Container::new(folder.path().to_owned(), sample());
        let not_running = Waiting::new(&container, WaitFor::NotRunning).ending().await;
        assert_eq!(not_running.exit_code, 0);

        container.update(|record| record.state = RunState::Restarting).await.unwrap();
        let run = tokio::spawn(Waiting::new(&container, WaitFor::NotRunning).ending());
        let next_exit = tokio::spawn(Waiting::new(&container, WaitFor::NextExit).ending());
        let removed = tokio::spawn(Waiting::new(&container, WaitFor::Removed).ending());
        let ended = LastRun {
            exit_code: 42,
            error: Some("why".into()),
            oom_killed: false,
            started_at: Some(jiff::Timestamp::UNIX_EPOCH),
            finished_at: None,
        };
        container
            .update(move |record| {
                // It will be started again, and still a run has ended.
                record.state = RunState::Restarting;
                record.last_run = Some(ended);
                record.ended_runs = 1;
            })
            .await
            .unwrap();
        let ending = Ending { exit_code: 42, error: Some("why".into()) };
        assert_eq!(run.await.unwrap(), ending);
        assert_eq!(next_exit.await.unwrap(), ending);
        container.set_removed();
        assert_eq!(removed.await.unwrap(), ending);
    }
}
