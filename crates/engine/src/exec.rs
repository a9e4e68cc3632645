//! One more process in a running container.
//!
//! ```text
//!   create ─► Ready ──start──► Running{process} ──Exited──► Ended{code} ─► client's stream ends
//! ```
//!
//! The exit code is stored before the client sees the end of its output, because clients ask for
//! it at once.

use crate::blocking::lock;
use crate::create::{check_words, merge_env};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::names::random_hex;
use crate::plan::{environment, terminal};
use crate::shim_client::{AskError, GUEST, QUICK, unexpected};
use crate::start::start_failure;
use crate::state::ContainerRecord;
use crate::streams::{Streams, pair};
use ireko_protocol::agent::{ProcessId, Spawn};
use ireko_protocol::shim::{Answer, Request};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long the exit code of an exec that has ended can be asked for.
const KEPT: Duration = Duration::from_secs(300);
/// How many execs are kept at most, running ones not counted; the oldest go.
const MOST_KEPT: usize = 10_000;
/// How many bytes of commands and variables these may have together.
const MOST_KEPT_BYTES: usize = 64 << 20;
/// How many may run at a time, in all containers.
const MOST_RUNNING: usize = 2048;
/// The exit code of an exec whose VM went away under it.
const LOST: i32 = 137;

/// A process to run in a container, as it is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExecSpec {
    /// Program and arguments, at least one.
    pub argv: Vec<String>,
    /// On top of the container's variables.
    pub env: Vec<String>,
    /// `None` is the container's.
    pub user: Option<String>,
    /// `None` is the container's.
    pub working_dir: Option<String>,
    /// It has a terminal.
    pub tty: bool,
    /// Its stdin is a stream.
    pub stdin: bool,
    /// Its standard output is wanted.
    pub stdout: bool,
    /// Its standard error is wanted.
    pub stderr: bool,
    /// It has the rights that the container's other processes lack.
    pub privileged: bool,
    /// What the client wants to type to leave; only shown.
    pub detach_keys: String,
}

impl ExecSpec {
    /// What it takes, roughly.
    fn bytes(&self) -> usize {
        let words = self.argv.iter().chain(&self.env).map(|word| size_of::<String>() + word.len());
        let others = [self.user.as_deref(), self.working_dir.as_deref(), Some(&self.detach_keys)];
        words.sum::<usize>() + others.into_iter().flatten().map(str::len).sum::<usize>()
    }
}

/// An exec as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct ExecInfo {
    /// 64 hex digits.
    pub id: String,
    /// Its container's id.
    pub container: String,
    /// What was asked for.
    pub spec: ExecSpec,
    /// Where it stands.
    pub state: ExecState,
}

/// Where an exec stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecState {
    /// It was not started.
    Ready,
    /// It is on its way.
    Starting,
    /// It runs.
    Running {
        /// For `Resize`.
        process: ProcessId,
        /// As the container sees it.
        pid: u32,
    },
    /// It ended, or could not be started.
    Ended {
        /// Docker's exit code.
        exit_code: i32,
    },
}

/// Every exec of this daemon's life; they are not kept on disk.
#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<HashMap<String, Arc<Exec>>>);

#[derive(Debug)]
struct Exec {
    id: String,
    container: String,
    spec: ExecSpec,
    state: Mutex<(ExecState, Instant)>,
}

impl Exec {
    fn state(&self) -> ExecState {
        lock(&self.state).0
    }

    fn set(&self, state: ExecState) {
        *lock(&self.state) = (state, Instant::now());
    }

    fn is_stale(&self) -> bool {
        let (state, since) = *lock(&self.state);
        matches!(state, ExecState::Ended { .. }) && since.elapsed() > KEPT
    }

    fn is_kept_only(&self) -> bool {
        matches!(self.state(), ExecState::Ready | ExecState::Ended { .. })
    }
}

impl Execs {
    fn insert(&self, exec: Exec) {
        let mut execs = lock(&self.0);
        execs.retain(|_, exec| !exec.is_stale());
        let kept: Vec<_> = execs.values().filter(|exec| exec.is_kept_only()).cloned().collect();
        let mut count = kept.len() + 1;
        let mut bytes =
            kept.iter().map(|exec| exec.spec.bytes()).sum::<usize>() + exec.spec.bytes();
        while (count > MOST_KEPT || bytes > MOST_KEPT_BYTES)
            && let Some(oldest) = kept
                .iter()
                .filter(|exec| execs.contains_key(&exec.id))
                .min_by_key(|exec| lock(&exec.state).1)
        {
            (count, bytes) = (count - 1, bytes - oldest.spec.bytes());
            execs.remove(&oldest.id);
        }
        execs.insert(exec.id.clone(), Arc::new(exec));
    }

    fn find(&self, id: &str) -> Result<Arc<Exec>> {
        lock(&self.0)
            .get(id)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
    }

    /// How many are on their way or run.
    fn running(&self) -> usize {
        lock(&self.0).values().filter(|exec| !exec.is_kept_only()).count()
    }

    /// Those of a container that have not ended.
    fn running_in(&self, container: &str) -> Vec<String> {
        let execs = lock(&self.0);
        let mut ids: Vec<_> = execs
            .values()
            .filter(|exec| exec.container == container)
            .filter(|exec| matches!(exec.state(), ExecState::Running { .. }))
            .map(|exec| exec.id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// Forgets one.
    pub(crate) fn forget_one(&self, id: &str) {
        lock(&self.0).remove(id);
    }

    /// Forgets those of a container that is gone.
    pub(crate) fn forget(&self, container: &str) {
        lock(&self.0).retain(|_, exec| exec.container != container);
    }
}

impl Engine {
    /// Prepares an exec; returns its id. Errors where the container does not run, or is paused.
    pub fn exec_create(&self, reference: &str, spec: ExecSpec) -> Result<String> {
        let container = self.find(reference)?;
        let record = container.record();
        check_running(&record)?;
        if spec.argv.is_empty() {
            return Err(Error::bad_parameter("No exec command specified"));
        }
        let ExecSpec { user, working_dir, .. } = &spec;
        let words = spec.argv.iter().chain(&spec.env).chain(user).chain(working_dir);
        check_words(words)?;
        let id = random_hex(64);
        let action = format!("exec_create: {}", spec.argv.join(" "));
        self.execs.insert(Exec {
            id: id.clone(),
            container: record.id.clone(),
            spec,
            state: Mutex::new((ExecState::Ready, Instant::now())),
        });
        self.emit(&record, &action, &[("execID", id.clone())]);
        Ok(id)
    }

    /// An exec's id, command and state.
    pub fn exec_inspect(&self, id: &str) -> Result<ExecInfo> {
        let exec = self.execs.find(id)?;
        Ok(ExecInfo {
            id: exec.id.clone(),
            container: exec.container.clone(),
            spec: exec.spec.clone(),
            state: exec.state(),
        })
    }

    /// The ids of a container's running execs.
    pub fn execs_of(&self, container: &ContainerRecord) -> Vec<String> {
        self.execs.running_in(&container.id)
    }

    /// Claims an exec for its one start: from here on no other start is possible.
    ///
    /// Errors where it was started before, or its container does not run.
    pub fn exec_claim(&self, id: &str) -> Result<ExecInfo> {
        let exec = self.execs.find(id)?;
        check_running(&self.find(&exec.container)?.record())?;
        if self.execs.running() >= MOST_RUNNING {
            return Err(Error::conflict(format!("{MOST_RUNNING} execs run already")));
        }
        let mut state = lock(&exec.state);
        match state.0 {
            ExecState::Ready => *state = (ExecState::Starting, Instant::now()),
            _ => return Err(Error::conflict(format!("exec {id} was started before"))),
        }
        drop(state);
        self.exec_inspect(id)
    }

    /// Runs an exec that was claimed. Its streams end when it has ended and its exit code is final.
    ///
    /// `size` is the terminal's (rows, columns), zeros where unknown. Errors with `StartFailed`
    /// where its program cannot be run; its exit code is then docker's.
    pub async fn exec_run(&self, id: &str, size: (u16, u16)) -> Result<Streams> {
        let exec = self.execs.find(id)?;
        let result = self.exec_whole(&exec, size).await;
        if let Err(error) = &result {
            let exit_code = match error.kind() {
                ErrorKind::StartFailed { exit_code: exit_code @ (126 | 127) } => exit_code,
                // An exec has no 125: whatever kept its program from running is 126.
                _ => 126,
            };
            exec.set(ExecState::Ended { exit_code });
        }
        result
    }

    async fn exec_whole(&self, exec: &Arc<Exec>, size: (u16, u16)) -> Result<Streams> {
        let container = self.find(&exec.container)?;
        let record = container.record();
        let shim = container.running_shim(self.places())?;
        let process = Box::new(spawn_of(&exec.spec, &record, size));
        let (answer, connection) = match shim.open(Request::Exec { process }, GUEST).await {
            Ok(opened) => opened,
            Err(AskError::Refused(refusal)) => return Err(start_failure(refusal, &exec.spec.argv)),
            Err(error) => return Err(error.into_error(|| "exec".into())),
        };
        let Answer::ExecStarted { process, pid } = answer else {
            return Err(unexpected("exec", &answer));
        };
        exec.set(ExecState::Running { process, pid });
        let action = format!("exec_start: {}", exec.spec.argv.join(" "));
        self.emit(&record, &action, &[("execID", exec.id.clone())]);

        let (client, pump) = pair();
        let (engine, exec) = (self.clone(), Arc::clone(exec));
        tokio::spawn(async move {
            let (last, output_end) = pump.run(connection).await;
            let exit_code = match last {
                Some(Answer::Exited { status }) => status.code(),
                _ => LOST,
            };
            exec.set(ExecState::Ended { exit_code });
            let attributes = [("execID", exec.id.clone()), ("exitCode", exit_code.to_string())];
            engine.emit(&record, "exec_die", &attributes);
            drop(output_end);
        });
        Ok(client)
    }

    /// Kills an exec's process. Errors where it does not run.
    pub(crate) async fn exec_kill(&self, id: &str) -> Result<()> {
        let exec = self.execs.find(id)?;
        let ExecState::Running { process, .. } = exec.state() else {
            return Err(Error::conflict(format!("exec process {id} is not running")));
        };
        let shim = self.find(&exec.container)?.running_shim(self.places())?;
        shim.ask(Request::Kill { process }, QUICK)
            .await
            .map(drop)
            .map_err(|error| error.into_error(|| format!("kill exec {id}")))
    }

    /// Sets the size of an exec's terminal. Errors where it does not run.
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let exec = self.execs.find(id)?;
        let ExecState::Running { process, .. } = exec.state() else {
            return Err(Error::conflict(format!("exec process {id} is not running")));
        };
        let shim = self.find(&exec.container)?.running_shim(self.places())?;
        shim.ask(Request::Resize { process, rows, columns }, QUICK)
            .await
            .map(drop)
            .map_err(|error| error.into_error(|| format!("resize the terminal of exec {id}")))
    }
}

fn check_running(record: &ContainerRecord) -> Result<()> {
    match (record.is_running(), record.is_paused()) {
        (_, true) => Err(Error::conflict(format!(
            "container {} is paused, unpause the container before exec",
            record.name
        ))),
        (true, false) => Ok(()),
        (false, false) => Err(Error::conflict(format!("container {} is not running", record.id))),
    }
}

fn spawn_of(spec: &ExecSpec, record: &ContainerRecord, size: (u16, u16)) -> Spawn {
    let or_containers = |given: &Option<String>, own: &str| match given {
        Some(text) if !text.is_empty() => text.clone(),
        _ => own.to_owned(),
    };
    Spawn {
        // The shim chooses.
        process: ProcessId(0),
        argv: spec.argv.clone(),
        // A whole operating system has an environment of its own.
        env: match record.process.is_machine() {
            true => spec.env.clone(),
            false => merge_env(&environment(record, spec.tty), &spec.env),
        },
        cwd: or_containers(&spec.working_dir, &record.process.working_dir),
        user: or_containers(&spec.user, &record.process.user),
        tty: terminal(spec.tty, size),
        stdin: spec.stdin,
        init: false,
        privileged: spec.privileged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(number: usize, bytes: usize, state: ExecState) -> Exec {
        Exec {
            id: number.to_string(),
            container: String::new(),
            spec: ExecSpec { argv: vec!["x".repeat(bytes)], ..ExecSpec::default() },
            state: Mutex::new((state, Instant::now())),
        }
    }

    #[test]
    fn the_oldest_that_do_not_run_make_room() {
        let execs = Execs::default();
        let running = ExecState::Running { process: ProcessId(1), pid: 1 };
        execs.insert(exec(0, 40 << 20, running));
        for number in 1..=4 {
            execs.insert(exec(number, 30 << 20, ExecState::Ready));
        }
        let is_there = |number: usize| execs.find(&number.to_string()).is_ok();
        assert_eq!([0, 1, 2, 3, 4].map(is_there), [true, false, false, true, true]);
    }
}
