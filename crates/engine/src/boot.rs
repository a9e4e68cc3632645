//! Waiting until a container is up, by a sign of life that its user names. It fails loudly: when
//! the container ends first, and when the time is over.

use crate::addresses::{Attention, of_mac};
use crate::container::{Container, Moment};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::logs::LogOptions;
use crate::shim_client::GUEST;
use crate::state::{ContainerRecord, HealthStatus, RunState};
use ireko_protocol::shim::Request;
use regex_lite::Regex;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// How long after a port that was closed it is tried again.
const BETWEEN_PROBES: Duration = Duration::from_millis(200);
/// How long after a machine that had no address it is asked again.
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(1);
/// How long a shim waits for an agent at a time.
const AGENT_SLICE: Duration = Duration::from_secs(5);

/// Bytes of a line that a pattern may match.
const LONGEST_LINE: usize = 64 << 10;

/// What shows that a container is up.
#[derive(Clone, Debug)]
pub enum Sign {
    /// The agent in its guest answers: commands can be executed.
    Agent,
    /// It has an address; a whole operating system says so itself.
    Address,
    /// A line that it wrote since it was started matches.
    Log(Regex),
    /// It takes connections to this TCP port, at the address that it has in one of its networks.
    Port(u16),
    /// Its health check succeeds.
    Healthy,
}

impl Engine {
    /// Returns when the sign is there, at once where it was there before.
    ///
    /// Errors: [`ErrorKind::Conflict`] where the container does not run or ends before,
    /// [`ErrorKind::TimedOut`] after `timeout`.
    pub async fn wait_until_up(
        &self,
        reference: &str,
        sign: Sign,
        timeout: Duration,
    ) -> Result<()> {
        let container = self.find(reference)?;
        let deadline = Instant::now() + timeout;
        let too_late = |missed: &str| {
            let record = container.record();
            Error::new(
                ErrorKind::TimedOut,
                format!(
                    "container {} is not up after {} s: {missed}; it is {}",
                    record.name,
                    timeout.as_secs(),
                    record.status()
                ),
            )
            .hint(format!("ireko logs {} shows what it wrote", record.name))
        };
        let record = timeout_at(deadline, running(&container))
            .await
            .unwrap_or_else(|_| Err(too_late("it did not start")))?;
        match &sign {
            // Its shim keeps the time, and says what it missed.
            Sign::Agent if record.process.is_machine() => {
                match self.agent_answers(&container, deadline).await {
                    Err(error) if Instant::now() >= deadline && container.record().is_running() => {
                        Err(too_late(&error.chain()))
                    }
                    answered => answered,
                }
            }
            Sign::Agent => Ok(()),
            Sign::Address if record.process.is_machine() && !record.endpoints.is_empty() => {
                timeout_at(deadline, self.says_an_address(&container))
                    .await
                    .unwrap_or_else(|_| Err(too_late("no agent in it says that it has an address")))
            }
            Sign::Address => has_address(&record),
            Sign::Port(port) => {
                has_address(&record)?;
                tokio::select! {
                    () = self.port_answers(&container, *port) => Ok(()),
                    () = no_longer_running(&container) => Err(ended(&container.record())),
                    () = sleep_until(deadline) => {
                        Err(too_late(&format!("nothing takes connections to its port {port}")))
                    }
                }
            }
            Sign::Healthy => timeout_at(deadline, self.is_healthy(&container))
                .await
                .unwrap_or_else(|_| Err(too_late("its health check has not succeeded"))),
            Sign::Log(pattern) => {
                timeout_at(deadline, self.log_matches(&container, &record, pattern))
                    .await
                    .unwrap_or_else(|_| {
                        Err(too_late(&format!("no line of its log matched /{pattern}/")))
                    })
            }
        }
    }

    /// Waits for the agent in a whole operating system; an error that comes after the deadline says what
    /// was missed.
    async fn agent_answers(&self, container: &Arc<Container>, deadline: Instant) -> Result<()> {
        let shim = container.running_shim(self.places())?;
        loop {
            // Its shim does not notice when nobody waits any more, and so waits for a part of it only.
            let began = Instant::now();
            let slice = AGENT_SLICE.min(deadline.saturating_duration_since(began));
            // Whole seconds, and not one too few: what it gives up it gives up after the deadline.
            let seconds = slice.as_secs() + 1;
            let patience = Duration::from_secs(seconds) + GUEST;
            match shim.ask(Request::AwaitAgent { seconds }, patience).await {
                Ok(_) => return Ok(()),
                Err(_) if !container.record().is_running() => {
                    return Err(ended(&container.record()));
                }
                Err(_) if began.elapsed() >= slice && Instant::now() < deadline => {}
                Err(error) => {
                    let name = &container.record().name;
                    return Err(error.into_error(|| format!("wait for container {name}")));
                }
            }
        }
    }

    /// Returns when the agent in a whole operating system tells of an address that others can use.
    async fn says_an_address(&self, container: &Container) -> Result<()> {
        loop {
            let record = container.record();
            if !record.is_running() {
                return Err(ended(&record));
            }
            let said = self.ask_for_addresses(&record, Attention::Asked).await.unwrap_or_default();
            if record.endpoints.iter().any(|one| !of_mac(&said, one.mac).is_empty()) {
                return Ok(());
            }
            sleep(BETWEEN_QUESTIONS).await;
        }
    }

    /// Returns when the gateway of one of its networks could connect to a port of it.
    async fn port_answers(&self, container: &Container, port: u16) {
        loop {
            for endpoint in &container.record().endpoints {
                let Ok(network) = self.networks.get(&endpoint.network) else { continue };
                let Some(address) = endpoint.lease else { continue };
                match network.probe(&container.id, SocketAddrV4::new(address, port)).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    // Such as a switch that is being replaced.
                    Err(error) => tracing::debug!(error = error.chain(), "a port is not probed"),
                }
            }
            sleep(BETWEEN_PROBES).await;
        }
    }

    /// Waits for the first verdict of its health check.
    async fn is_healthy(&self, container: &Arc<Container>) -> Result<()> {
        let name = container.record().name.clone();
        if container.record().health.is_none() {
            return Err(Error::conflict(format!("container {name} has no health check"))
                .hint("--health-cmd gives a container one when it is made"));
        }
        let status = |record: &ContainerRecord| record.health.as_ref().map(|it| it.status);
        let is_decided = |moment: &Moment| {
            let record = &moment.record;
            moment.removed || !record.is_running() || status(record) != Some(HealthStatus::Starting)
        };
        // The sender lives in the container, which is held here.
        let _ = container.watch().wait_for(is_decided).await;
        let record = container.record();
        match (record.is_running(), status(&record)) {
            (true, Some(HealthStatus::Healthy)) => Ok(()),
            (true, _) => {
                let last = self.health(&record).and_then(|health| health.log.last().cloned());
                let said = last.map(|last| last.output.trim().to_owned()).unwrap_or_default();
                let said = if said.is_empty() { said } else { format!(": {said}") };
                Err(Error::conflict(format!("container {name} is unhealthy{said}")))
            }
            (false, _) => Err(ended(&record)),
        }
    }

    async fn log_matches(
        &self,
        container: &Container,
        record: &ContainerRecord,
        pattern: &Regex,
    ) -> Result<()> {
        let since = match record.state {
            RunState::Running { started_at, .. } => Some(started_at),
            _ => None,
        };
        let options = LogOptions { since, follow: true, ..LogOptions::default() };
        let mut lines = self.logs(&container.id, options).await?;
        // What a process writes of a line at a time is kept as it comes: a line may be in pieces.
        let mut begun = [String::new(), String::new()];
        while let Some(line) = lines.next().await {
            let piece = line?.line;
            let text = &mut begun[piece.stream as usize];
            if text.len() > LONGEST_LINE {
                text.clear();
            }
            text.push_str(&piece.log);
            if pattern.is_match(text.trim_end_matches(['\r', '\n'])) {
                return Ok(());
            }
            if text.ends_with('\n') {
                text.clear();
            }
        }
        Err(ended(&container.record()))
    }
}

/// Waits until its process runs.
async fn running(container: &Arc<Container>) -> Result<Arc<ContainerRecord>> {
    let is_decided = |moment: &Moment| {
        let on_its_way =
            matches!(moment.record.state, RunState::Starting { .. } | RunState::Restarting);
        moment.removed || !on_its_way
    };
    // The sender lives in the container, which is held here.
    let _ = container.watch().wait_for(is_decided).await;
    let record = container.record();
    match record.is_running() && !container.is_removed() {
        true => Ok(record),
        false => Err(ended(&record)),
    }
}

/// Returns when its process has ended.
async fn no_longer_running(container: &Container) {
    let is_over = |moment: &Moment| moment.removed || !moment.record.is_running();
    // The sender lives in the container, which is held here.
    let _ = container.watch().wait_for(is_over).await;
}

/// A container has its addresses before its process starts; one without a network never has any.
fn has_address(record: &ContainerRecord) -> Result<()> {
    match record.endpoints.iter().any(|endpoint| endpoint.lease.is_some()) {
        true => Ok(()),
        false => Err(Error::conflict(format!(
            "container {} has no network in which Ireko gives it an address",
            record.name
        ))),
    }
}

fn ended(record: &ContainerRecord) -> Error {
    let how = match (&record.last_run, record.status()) {
        (Some(run), "exited") => match &run.error {
            Some(error) => format!("its last run ended with {}: {error}", run.exit_code),
            None => format!("its last run ended with {}", run.exit_code),
        },
        (_, status) => format!("it is {status}"),
    };
    Error::conflict(format!("container {} is not running: {how}", record.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::LastRun;
    use crate::state::tests::sample;

    #[tokio::test]
    async fn one_that_does_not_run_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let container = Container::new(folder.path().to_owned(), sample());
        let error = running(&container).await.unwrap_err();
        assert_eq!(error.to_string(), "container calm_hopper is not running: it is created");
        container
            .update(|record| {
                record.state = RunState::Exited;
                record.ended_runs = 1;
                record.last_run = Some(LastRun {
                    exit_code: 3,
                    error: None,
                    oom_killed: false,
                    started_at: None,
                    finished_at: None,
                });
            })
            .await
            .unwrap();
        let error = running(&container).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "container calm_hopper is not running: its last run ended with 3"
        );
    }

    #[tokio::test]
    async fn one_on_its_way_is_waited_for_until_it_runs_or_fails() {
        let folder = tempfile::tempdir().unwrap();
        let starting = RunState::Starting { vm: "0123456789ab".into() };
        let record = ContainerRecord { state: starting.clone(), ..sample() };
        let container = Container::new(folder.path().to_owned(), record);
        let waiting = tokio::spawn({
            let container = Arc::clone(&container);
            async move { running(&container).await.map(|record| record.is_running()) }
        });
        container
            .update(|record| {
                record.state = RunState::Running {
                    vm: "0123456789ab".into(),
                    vm_pid: 1,
                    started_at: jiff::Timestamp::UNIX_EPOCH,
                    paused: false,
                };
            })
            .await
            .unwrap();
        assert!(waiting.await.unwrap().unwrap());

        container.update(move |record| record.state = starting).await.unwrap();
        let waiting = tokio::spawn({
            let container = Arc::clone(&container);
            async move { running(&container).await.map(drop) }
        });
        container.update(|record| record.state = RunState::Created).await.unwrap();
        waiting.await.unwrap().unwrap_err();
    }
}
