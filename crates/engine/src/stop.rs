//! Ending a container's process: asked first, then killed, then its VM switched off.
//!
//! ```text
//!   signal ──timeout──► SIGKILL ──guest answers──► wait for sync and power-off ──► PowerOff
//!                               └─guest is silent────────────────────────────────► PowerOff
//!                                                                  PowerOff ─► kill the shim
//!   still starting ─► the start is broken off: PowerOff ─► kill the shim; where the process runs by
//!                     then, it is asked
//! ```
//! Any other signal than SIGKILL waits until the start is over, and is then sent.
//!
//! A guest that still answers is given time to write back what it holds, also after a SIGKILL.

use crate::blocking::to_its_end;
use crate::container::{Container, Moment};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::shim_client::{AskError, GUEST, QUICK, ShimSocket};
use crate::signal::{KILL, TERM, parse_signal};
use crate::state::RunState;
use crate::wait::{WaitFor, Waiting};
use ireko_protocol::agent::FailureKind;
use ireko_protocol::shim::Request;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Docker's time between the polite signal and SIGKILL.
const PATIENCE: i64 = 10;
/// The same for a whole operating system, which has many processes to end and disks to unmount.
const MACHINE_PATIENCE: i64 = 120;
/// Time for a guest to take a signal, however little there is for its process to end.
const TELLING: Duration = Duration::from_secs(5);
/// Time for a guest whose process is dead to sync, unmount and power off. The shim itself switches
/// off after less.
const POWER_OFF: Duration = Duration::from_secs(150);
/// Time for QEMU and the shim to end once they were told to.
const SWITCH_OFF: Duration = Duration::from_secs(30);

/// Time for a start that is broken off to put its VM away.
const BREAK_OFF: Duration = Duration::from_secs(60);

/// The VM of a process that runs.
struct Target {
    vm: String,
    shim: ShimSocket,
}

/// What became of a signal.
enum Delivery {
    Delivered,
    /// There is no process to take it: the run is ending.
    NoProcess,
    /// The guest or its shim does not answer.
    Silent(Error),
}

impl Engine {
    /// Stops a container. `signal` is the container's own where none is given; `patience` is how
    /// many seconds it gets before it is killed, negative is for ever.
    ///
    /// Errors with `NotModified` where it does not run.
    pub async fn stop(
        &self,
        reference: &str,
        signal: Option<&str>,
        patience: Option<i64>,
    ) -> Result<()> {
        let container = self.find(reference)?;
        let signal = signal.map(parse_signal).transpose()?;
        let engine = self.clone();
        to_its_end(async move {
            engine.stop_container(&container, signal, patience).await?;
            engine.emit(&container.record(), "stop", &[]);
            Ok(())
        })
        .await
    }

    /// Sends a signal (SIGKILL where none is given) to a container's process.
    ///
    /// Errors where it does not run. After a SIGKILL it does not run any more when this returns; one that
    /// the guest does not answer switches the VM off.
    pub async fn kill(&self, reference: &str, signal: Option<&str>) -> Result<()> {
        let container = self.find(reference)?;
        let signal = signal.map(parse_signal).transpose()?.unwrap_or(KILL);
        let engine = self.clone();
        to_its_end(async move { engine.kill_container(&container, signal).await }).await
    }

    pub(crate) async fn stop_container(
        &self,
        container: &Arc<Container>,
        signal: Option<i32>,
        patience: Option<i64>,
    ) -> Result<()> {
        let record = container.record();
        if record.state == RunState::Restarting {
            container.update(settle).await?;
            return Ok(());
        }
        if let RunState::Starting { vm } = &record.state {
            stopped_by_user(container).await;
            container.break_off(vm);
            if timeout(BREAK_OFF, container.has_left_start(vm)).await.is_err() {
                return self.give_up_on(container, vm, BREAK_OFF).await;
            }
            if !container.record().is_running() {
                return Ok(());
            }
            // Its process was quicker, and is asked like any other.
        }
        let record = container.record();
        let target = self
            .target(container)
            .map_err(|_| Error::new(ErrorKind::NotModified, "the container is not running"))?;
        let own = parse_signal(&record.process.stop_signal).unwrap_or(TERM);
        let signal = signal.unwrap_or(own);
        let usual = if record.process.is_machine() { MACHINE_PATIENCE } else { PATIENCE };
        let patience = patience.or(record.spec.stop_timeout).unwrap_or(usual);
        let waiting = Waiting::new(container, WaitFor::NextExit);
        stopped_by_user(container).await;
        if record.is_paused() {
            self.unpause_container(container).await?;
        }
        self.emit(&record, "kill", &[("signal", signal.to_string())]);
        let patience = u64::try_from(patience).ok().map(Duration::from_secs);
        if end_politely(send(&target.shim, signal), waiting.ending(), patience).await {
            return Ok(());
        }
        self.emit(&record, "kill", &[("signal", KILL.to_string())]);
        self.end_by_force(container, &target).await
    }

    /// Kills a container's process, or breaks its start off, and returns when it has no VM any
    /// more; at once where it has none.
    pub(crate) async fn kill_to_the_end(&self, container: &Arc<Container>) -> Result<()> {
        if let RunState::Starting { vm } = &container.record().state {
            self.break_off(container, vm).await?;
        }
        let Ok(target) = self.target(container) else { return Ok(()) };
        stopped_by_user(container).await;
        self.emit(&container.record(), "kill", &[("signal", KILL.to_string())]);
        self.end_by_force(container, &target).await
    }

    async fn kill_container(&self, container: &Arc<Container>, signal: i32) -> Result<()> {
        if let (RunState::Starting { vm }, KILL) = (&container.record().state, signal) {
            self.break_off(container, vm).await?;
            self.emit(&container.record(), "kill", &[("signal", signal.to_string())]);
            return Ok(());
        }
        // Its process may run, and have said so, before that is written down.
        let is_settled = |moment: &Moment| {
            moment.removed || !matches!(moment.record.state, RunState::Starting { .. })
        };
        // The sender lives in `container`.
        let _ = container.watch().wait_for(is_settled).await;
        let record = container.record();
        let own = parse_signal(&record.process.stop_signal).unwrap_or(TERM);
        let is_end = signal == KILL || signal == own;
        let target = self.target(container).map_err(|error| {
            Error::conflict(format!("cannot kill container: {}: {error}", record.name))
        })?;
        if is_end {
            stopped_by_user(container).await;
        }
        if signal == KILL {
            self.emit(&record, "kill", &[("signal", signal.to_string())]);
            return self.end_by_force(container, &target).await;
        }
        if let Delivery::Silent(error) = send(&target.shim, signal).await {
            return Err(error);
        }
        self.emit(&record, "kill", &[("signal", signal.to_string())]);
        Ok(())
    }

    /// SIGKILL, and what follows where that is not enough.
    async fn end_by_force(&self, container: &Arc<Container>, target: &Target) -> Result<()> {
        if let Delivery::Silent(error) = send(&target.shim, KILL).await {
            tracing::warn!(error = error.chain(), "the guest takes no signal");
        } else if timeout(POWER_OFF, container.is_rid_of(&target.vm)).await.is_ok() {
            return Ok(());
        }
        self.switch_off(container, target).await
    }

    /// Ends the VM without the guest's help.
    async fn switch_off(&self, container: &Arc<Container>, target: &Target) -> Result<()> {
        let Target { vm, shim } = target;
        let asked = shim.ask(Request::PowerOff, QUICK).await;
        if asked.is_ok() && timeout(SWITCH_OFF, container.is_rid_of(vm)).await.is_ok() {
            return Ok(());
        }
        self.give_up_on(container, vm, SWITCH_OFF).await
    }

    /// Ends a start that is under way; whoever waits for it gets an error.
    ///
    /// The start itself puts its VM away, and it may not even have a shim yet. It holds the
    /// container's verb lock, so this must not be called with it.
    async fn break_off(&self, container: &Arc<Container>, vm: &str) -> Result<()> {
        stopped_by_user(container).await;
        self.give_up_on(container, vm, BREAK_OFF).await
    }

    /// Asks whoever watches over a VM to end it, and waits until it has.
    async fn give_up_on(
        &self,
        container: &Arc<Container>,
        vm: &str,
        patience: Duration,
    ) -> Result<()> {
        container.give_up(vm);
        timeout(patience, container.is_rid_of(vm)).await.map_err(|_| {
            Error::internal(format!("the VM of container {} does not end", container.id))
        })
    }

    fn target(&self, container: &Container) -> Result<Target> {
        match &container.record().state {
            RunState::Running { vm, .. } => {
                let shim = ShimSocket::in_folder(&self.places().vm_dir(vm));
                Ok(Target { vm: vm.clone(), shim })
            }
            _ => Err(container.not_running()),
        }
    }
}

/// Has a process told to end, and waits until it has, as long as `patience` lasts, or for ever; whether it
/// did. A guest that takes no signal at all is not waited for; the time that it takes to take one counts.
async fn end_politely(
    send: impl Future<Output = Delivery>,
    ending: impl Future,
    patience: Option<Duration>,
) -> bool {
    let Some(patience) = patience else {
        let is_told = !matches!(send.await, Delivery::Silent(_));
        if is_told {
            ending.await;
        }
        return is_told;
    };
    let deadline = Instant::now() + patience;
    match timeout(patience.max(TELLING), send).await {
        Ok(Delivery::Silent(_)) | Err(_) => false,
        Ok(Delivery::Delivered | Delivery::NoProcess) => timeout_at(deadline, ending).await.is_ok(),
    }
}

/// Notes whose wish the coming end is. A full disk must not keep a container from being stopped.
pub(crate) async fn stopped_by_user(container: &Arc<Container>) {
    if let Err(error) = container.update_regardless(|record| record.stopped_by_user = true).await {
        tracing::warn!(error = error.chain(), "that a user stops it could not be recorded");
    }
}

fn settle(record: &mut crate::state::ContainerRecord) {
    record.state = RunState::Exited;
    record.stopped_by_user = true;
}

async fn send(shim: &ShimSocket, signal: i32) -> Delivery {
    match shim.ask(Request::Signal { signal }, GUEST).await {
        Ok(_) => Delivery::Delivered,
        Err(AskError::Refused(refusal)) if refusal.kind == FailureKind::NoSuch => {
            Delivery::NoProcess
        }
        Err(AskError::Refused(refusal)) if refusal.kind == FailureKind::BadInput => {
            Delivery::Silent(Error::bad_parameter(refusal.message))
        }
        Err(error) => Delivery::Silent(error.into_error(|| format!("send signal {signal}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    const LONG: Option<Duration> = Some(Duration::from_secs(600));

    #[tokio::test]
    async fn one_that_takes_no_signal_is_not_waited_for() {
        for patience in [None, LONG] {
            let silent = ready(Delivery::Silent(Error::internal("no")));
            assert!(!end_politely(silent, pending::<()>(), patience).await);
        }
    }

    #[tokio::test]
    async fn one_that_ends_has_ended_and_one_without_time_is_not_waited_for() {
        for patience in [None, LONG] {
            assert!(end_politely(ready(Delivery::Delivered), ready(()), patience).await);
        }
        let told = ready(Delivery::Delivered);
        assert!(!end_politely(told, pending::<()>(), Some(Duration::ZERO)).await);
    }
}
