//! Starting a container: plan, shim, attaches, process.
//!
//! ```text
//!   config.json: Starting ─► plan.json ─► shim process ─► its socket
//!     ─► Wait (so that no end is missed) ─► attaches that waited ─► Start ─► Started
//!     ─► config.json: Running ─► the client is answered
//! ```
//!
//! The networks' switches learn of the VM while its shim launches it; `Start` waits for them.
//! Where any step fails the shim is ended and the container is at rest again, with docker's exit
//! code and the reason in its record.

use crate::attach;
use crate::blocking::{blocking, to_its_end};
use crate::container::{Container, failed_start};
use crate::durable;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::host_limits::{clear_up, group_in};
use crate::monitor::{Run, timestamp};
use crate::names::random_hex;
use crate::networks::wiring::{Attaching, Wire};
use crate::pool::Spare;
use crate::shim_client::{AskError, BOOT, Connection, QUICK, Refusal, ShimSocket, unexpected};
use crate::shim_process::{LISTEN, OwnProcess, early_end};
use crate::state::{HealthStatus, Origin, RunState};
use ireko_protocol::agent::FailureKind;
use ireko_protocol::plan::{ExitRecord, VmPlan};
use ireko_protocol::shim::{Answer, Request};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Time for a shim whose start failed to put its VM away.
const CLEAR_UP: Duration = Duration::from_secs(30);

/// Docker's exit code of a start that failed for another reason than its command.
const NOT_STARTED: i32 = 128;

/// Who starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    User,
    RestartPolicy,
}

/// What a started process is known by.
struct Started {
    at: Timestamp,
    vm_pid: u32,
    origin: Option<Origin>,
    wait: Connection,
}

impl Engine {
    /// Starts a container's process; returns when it runs, and that is durable.
    ///
    /// Errors: `NotModified` where it runs already, `StartFailed` where its process or its VM
    /// could not be started (its record then says why).
    pub async fn start(&self, reference: &str) -> Result<()> {
        let container = self.find(reference)?;
        let engine = self.clone();
        to_its_end(async move {
            let _verb = container.verb.lock().await;
            engine.start_locked(&container, Cause::User).await
        })
        .await
    }

    /// Starts; the caller holds the container's verb lock.
    pub(crate) async fn start_locked(
        &self,
        container: &Arc<Container>,
        cause: Cause,
    ) -> Result<()> {
        check_startable(container)?;
        let starting = self.pool.starting();
        let mut spare = self.spare_for(container)?;
        let vm = spare.as_ref().map_or_else(|| random_hex(12), |spare| spare.vm.clone());
        // Before anybody can see the VM and want its end.
        container.run_of(&vm);
        let state = RunState::Starting { vm: vm.clone() };
        let begun = self.change_and_address(container, move |record| {
            record.state = state;
            record.vm_resources = record.spec.resources.clone();
            record.stopped_by_user = false;
            record.set_health(HealthStatus::Starting);
            if cause == Cause::User {
                record.restart_count = 0;
            }
        });
        let launched = match begun.await {
            Ok(()) => self.launch(container, &vm, &mut spare).await,
            Err(error) => Err(error),
        };
        match launched {
            Ok((started, process)) => {
                drop(starting);
                self.now_runs(container, vm, started, process).await
            }
            Err(error) => {
                if let Some(spare) = spare {
                    self.keep(spare).await;
                }
                container.end_run(&vm);
                self.did_not_start(container, &error).await;
                Err(error)
            }
        }
    }

    async fn now_runs(
        &self,
        container: &Arc<Container>,
        vm: String,
        started: Started,
        process: OwnProcess,
    ) -> Result<()> {
        let running = RunState::Running {
            vm: vm.clone(),
            vm_pid: started.vm_pid,
            started_at: started.at,
            paused: false,
        };
        let origin = started.origin;
        if let (Some(Origin::Template | Origin::Pool), Some(shape)) =
            (origin, self.shape_of(&container.record()))
        {
            self.keep_warm(shape);
        }
        let saved = container
            .update_regardless(move |record| {
                record.state = running;
                record.origin = origin;
            })
            .await;
        self.emit(&container.record(), "start", &[]);
        self.monitor(container, Run { vm, process, wait: Some(started.wait) });
        saved
    }

    async fn did_not_start(&self, container: &Arc<Container>, error: &Error) {
        container.go_quiet();
        self.unwire(container).await;
        let exit_code = match error.kind() {
            ErrorKind::StartFailed { exit_code } => exit_code,
            _ => NOT_STARTED,
        };
        let last_run = failed_start(exit_code, error.chain());
        let resting = Arc::clone(container);
        let saved = container
            .update_regardless(move |record| {
                record.state = resting.rest(record.at_rest());
                record.published.clear();
                record.last_run = Some(last_run);
            })
            .await;
        if let Err(error) = saved {
            tracing::error!(error = error.chain(), "a failed start could not be recorded");
        }
        let record = container.record();
        let code = ("exitCode", exit_code.to_string());
        self.emit(&record, "die", &[code]);
        if record.spec.auto_remove
            && let Err(error) = self.remove_locked(container).await
        {
            tracing::error!(error = error.chain(), "a container could not be removed");
        }
    }

    /// From plan to running process; where that fails the shim is gone on return, but for a spare that
    /// was not claimed yet, and nothing is being attached.
    async fn launch(
        &self,
        container: &Arc<Container>,
        vm: &str,
        spare: &mut Option<Spare>,
    ) -> Result<(Started, OwnProcess)> {
        let (wires, mut attaching) = self.wire(container, vm)?;
        let launched = self.launch_wired(container, vm, spare, wires, &mut attaching).await;
        if launched.is_err()
            && let Err(error) = attaching.settled().await
        {
            tracing::debug!(error = error.chain(), "a VM that does not come is not attached");
        }
        launched
    }

    async fn launch_wired(
        &self,
        container: &Arc<Container>,
        vm: &str,
        spare: &mut Option<Spare>,
        wires: Vec<Wire>,
        attaching: &mut Attaching,
    ) -> Result<(Started, OwnProcess)> {
        let (engine, planned, id) = (self.clone(), Arc::clone(container), vm.to_owned());
        // Held until the shim has told that it is up: it has the files open then, or has ended.
        let (plan, _held) = blocking(move || {
            let (plan, held) = engine.plan_run(&planned, &id, &wires)?;
            write_plan(&plan)?;
            Ok((plan, held))
        })
        .await?;
        let socket = ShimSocket::in_folder(&plan.runtime_dir);
        let wants_ports = {
            let spec = &container.record().spec;
            !spec.publish.is_empty() || spec.publish_all
        };
        if spare.is_some() && wants_ports {
            // A VM that stands by is not spent on a container whose ports are taken.
            attaching.settled().await?;
        }
        let claimed = match spare.take() {
            Some(spare) => match self.claim(spare, &plan).await {
                Ok(process) => Some(process),
                Err(error) => {
                    tracing::warn!(error = error.chain(), "a VM that stood by is of no use");
                    None
                }
            },
            None => None,
        };
        let mut process = match claimed {
            Some(process) => process,
            None => self.spawn_shim(&plan)?,
        };
        let wishes = container.run_of(vm);
        let stopped =
            || Err(Error::conflict("the container was stopped before its process started"));
        let started = tokio::select! {
            biased;
            () = wishes.give_up.notified() => stopped(),
            started = bring_up(container, &socket, &mut process, &plan.state_dir, attaching) => started,
            () = wishes.break_off.notified() => stopped(),
        };
        if started.is_err() {
            // It may be gone already, or never have listened.
            let _ = socket.ask(Request::PowerOff, QUICK).await;
            process.end_within(CLEAR_UP).await;
            clear_up(plan.runtime_dir.clone(), group_in(&plan.state_dir)).await;
        }
        Ok((started?, process))
    }

    /// Starts the shim of a plan that [`write_plan`] has written.
    pub(crate) fn spawn_shim(&self, plan: &VmPlan) -> Result<OwnProcess> {
        let (plan_file, log) = (plan_file(&plan.state_dir), shim_log(&plan.state_dir));
        OwnProcess::spawn(&self.settings.executable, "shim", &self.places().root, &plan_file, &log)
    }
}

/// Where the engine leaves a plan.
pub(crate) fn plan_file(state_dir: &Path) -> PathBuf {
    state_dir.join("plan.json")
}

/// Where a shim's own messages go.
pub(crate) fn shim_log(state_dir: &Path) -> PathBuf {
    state_dir.join("shim.log")
}

/// Removes a plan: a shim that was started with it and has not read it yet ends.
pub(crate) fn remove_plan(state_dir: &Path) -> Result<()> {
    durable::remove_file(&plan_file(state_dir))
}

/// Writes a plan for the shim to find, and removes what an earlier shim left beside it.
pub(crate) fn write_plan(plan: &VmPlan) -> Result<()> {
    durable::remove_file(&plan.state_dir.join("shim.json"))?;
    durable::remove_file(&plan.state_dir.join("exit.json"))?;
    durable::remove_file(&shim_log(&plan.state_dir))?;
    durable::write_json_unsynced(&plan_file(&plan.state_dir), plan)
}

fn check_startable(container: &Container) -> Result<()> {
    let record = container.record();
    if container.is_removed() {
        return Err(Error::not_found(format!("No such container: {}", record.id)));
    }
    match &record.state {
        RunState::Running { paused: true, .. } => {
            Err(Error::conflict("cannot start a paused container, try unpause instead"))
        }
        RunState::Running { .. } | RunState::Starting { .. } => {
            Err(Error::new(ErrorKind::NotModified, "the container is running already"))
        }
        RunState::Removing => {
            Err(Error::conflict("container is marked for removal and cannot be started"))
        }
        RunState::Created | RunState::Exited | RunState::Suspended | RunState::Restarting => Ok(()),
    }
}

async fn bring_up(
    container: &Arc<Container>,
    socket: &ShimSocket,
    process: &mut OwnProcess,
    state_dir: &Path,
    attaching: &mut Attaching,
) -> Result<Started> {
    process.reach(socket, &shim_log(state_dir), LISTEN).await?;
    let wait = socket.send(Request::Wait).await?;
    for waiting in container.go_live(socket) {
        attach::connect(container, socket, waiting).await?;
    }
    attaching.settled().await?;
    let at = match socket.ask(Request::Start, BOOT).await {
        Ok(Answer::Started { started_at }) => timestamp(started_at),
        Ok(other) => return Err(unexpected("start", &other)),
        Err(AskError::Refused(refusal)) => {
            return Err(start_failure(refusal, &container.record().process.argv()));
        }
        Err(AskError::Broken(error)) => {
            tracing::warn!(error = error.chain(), "a shim broke off while it started");
            return Err(why_it_ended(state_dir));
        }
    };
    let (vm_pid, origin) = match socket.ask(Request::Status, QUICK).await {
        Ok(Answer::Status(status)) => (status.vm_pid, status.origin),
        // The process was short: its end is on the Wait connection already.
        _ => (0, None),
    };
    Ok(Started { at, vm_pid, origin, wait })
}

/// The reason a shim left behind, in `exit.json` or in its log.
pub(crate) fn why_it_ended(state_dir: &Path) -> Error {
    match durable::read_json::<ExitRecord>(&state_dir.join("exit.json")) {
        Ok(Some(ExitRecord { error: Some(reason), .. })) => Error::internal(reason),
        _ => early_end(&shim_log(state_dir)),
    }
}

/// A refused start in the words that docker's clients look for.
pub(crate) fn start_failure(refusal: Refusal, argv: &[String]) -> Error {
    let program = argv.first().map_or("", String::as_str);
    let Refusal { kind, message } = refusal;
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
    let (exit_code, phrase) = match kind {
        FailureKind::NotFound => (
            127,
            match program.contains('/') {
                _ if says(&["executable file not found", "no such file or directory"]) => "",
                true => "no such file or directory",
                false => "executable file not found in $PATH",
            },
        ),
        FailureKind::NotExecutable => (
            126,
            match says(&["permission denied", "is a directory"]) {
                true => "",
                false => "permission denied",
            },
        ),
        _ => (NOT_STARTED, ""),
    };
    let message = match phrase {
        "" => message,
        phrase => format!("{message}: exec: {program:?}: {phrase}"),
    };
    Error::new(ErrorKind::StartFailed { exit_code }, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: FailureKind, message: &str, program: &str, code: i32, expected: &str) {
        let refusal = Refusal { kind, message: message.to_owned() };
        let error = start_failure(refusal, &[program.to_owned()]);
        assert_eq!(error.kind(), ErrorKind::StartFailed { exit_code: code });
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_failed_start_has_dockers_code_and_phrase() {
        use FailureKind::{NotExecutable, NotFound, Other};
        let phrase = r#"cannot run: exec: "nope": executable file not found in $PATH"#;
        check(NotFound, "cannot run", "nope", 127, phrase);
        check(NotFound, phrase, "nope", 127, phrase);
        let phrase = r#"cannot run: exec: "/nope": no such file or directory"#;
        check(NotFound, "cannot run", "/nope", 127, phrase);
        check(NotExecutable, "x: permission denied", "/x", 126, "x: permission denied");
        check(Other, "no kernel", "sh", 128, "no kernel");
    }
}
