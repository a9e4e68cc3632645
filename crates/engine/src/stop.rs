//! Ending a container's process: asked first, then killed, then its VM switched off.
//!
//! ```text
//!   signal ──timeout──► SIGKILL ──guest answers──► wait for sync and power-off ──► PowerOff
//!                               └─guest is silent────────────────────────────────► PowerOff
//!                                                                  PowerOff ─► kill the shim
//! ```
//!
//! A guest that still answers is given time to write back what it holds, also after a SIGKILL.

use crate::blocking::to_its_end;
use crate::container::Container;
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
use tokio::time::timeout;

/// Docker's time between the polite signal and SIGKILL.
const PATIENCE: i64 = 10;
/// Time for a guest whose process is dead to sync, unmount and power off. The shim itself switches
/// off after less.
const POWER_OFF: Duration = Duration::from_secs(150);
/// Time for QEMU and the shim to end once they were told to.
const SWITCH_OFF: Duration = Duration::from_secs(30);

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
    /// Errors where it does not run. A SIGKILL that the guest does not answer switches the VM off.
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
        let shim = container
            .running_shim(self.places())
            .map_err(|_| Error::new(ErrorKind::NotModified, "the container is not running"))?;
        let own = parse_signal(&record.process.stop_signal).unwrap_or(TERM);
        let signal = signal.unwrap_or(own);
        let patience = patience.or(record.spec.stop_timeout).unwrap_or(PATIENCE);
        let waiting = Waiting::new(container, WaitFor::NextExit);
        container.update(|record| record.stopped_by_user = true).await?;
        if record.is_paused() {
            self.unpause_container(container).await?;
        }
        self.emit(&record, "kill", &[("signal", signal.to_string())]);
        let mut ending = Box::pin(waiting.ending());
        if !matches!(send(&shim, signal).await, Delivery::Silent(_)) {
            match u64::try_from(patience) {
                Ok(seconds) => {
                    if timeout(Duration::from_secs(seconds), &mut ending).await.is_ok() {
                        return Ok(());
                    }
                }
                Err(_) => {
                    ending.await;
                    return Ok(());
                }
            }
        }
        self.emit(&record, "kill", &[("signal", KILL.to_string())]);
        self.end_by_force(container, &shim).await
    }

    /// Kills a running container's process and returns when its run has ended.
    pub(crate) async fn kill_to_the_end(&self, container: &Arc<Container>) -> Result<()> {
        let shim = container.running_shim(self.places())?;
        container.update(|record| record.stopped_by_user = true).await?;
        self.emit(&container.record(), "kill", &[("signal", KILL.to_string())]);
        self.end_by_force(container, &shim).await
    }

    async fn kill_container(&self, container: &Arc<Container>, signal: i32) -> Result<()> {
        let record = container.record();
        let shim = container.running_shim(self.places()).map_err(|error| {
            Error::conflict(format!("cannot kill container: {}: {error}", record.name))
        })?;
        let own = parse_signal(&record.process.stop_signal).unwrap_or(TERM);
        if signal == KILL || signal == own {
            container.update(|record| record.stopped_by_user = true).await?;
        }
        match send(&shim, signal).await {
            Delivery::Silent(error) if signal == KILL => {
                tracing::warn!(error = error.chain(), "the guest takes no signal");
                self.switch_off(container, &shim).await?;
            }
            Delivery::Silent(error) => return Err(error),
            Delivery::Delivered | Delivery::NoProcess => {}
        }
        self.emit(&record, "kill", &[("signal", signal.to_string())]);
        Ok(())
    }

    /// SIGKILL, and what follows where that is not enough.
    async fn end_by_force(&self, container: &Arc<Container>, shim: &ShimSocket) -> Result<()> {
        let ending = Waiting::new(container, WaitFor::NotRunning).ending();
        if let Delivery::Silent(error) = send(shim, KILL).await {
            tracing::warn!(error = error.chain(), "the guest takes no signal");
        } else if timeout(POWER_OFF, ending).await.is_ok() {
            return Ok(());
        }
        self.switch_off(container, shim).await
    }

    /// Ends the VM without the guest's help.
    async fn switch_off(&self, container: &Arc<Container>, shim: &ShimSocket) -> Result<()> {
        let ended = || Waiting::new(container, WaitFor::NotRunning).ending();
        let asked = shim.ask(Request::PowerOff, QUICK).await;
        if asked.is_ok() && timeout(SWITCH_OFF, ended()).await.is_ok() {
            return Ok(());
        }
        container.give_up.notify_one();
        timeout(SWITCH_OFF, ended()).await.map(drop).map_err(|_| {
            Error::internal(format!("the VM of container {} does not end", container.id))
        })
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
        Err(error) => Delivery::Silent(error.into_error(|| format!("send signal {signal}"))),
    }
}
