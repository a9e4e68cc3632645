//! How far the VM got, shared between the thread that runs it and those that answer the engine.

use ireko_protocol::agent::FailureKind;
use ireko_protocol::plan::ExitRecord;
use ireko_protocol::shim::{Origin, Phase, Status};
use parking_lot::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// Why the container's process could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// What the engine acts on.
    pub kind: FailureKind,
    /// One sentence for people.
    pub message: String,
}

/// The VM's progress; every change wakes whoever waits for it.
pub struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    status: Status,
    start_requested: bool,
    power_off_requested: bool,
    failure: Option<StartFailure>,
    exit: Option<ExitRecord>,
    open_requests: usize,
    /// Connections that keep the VM at work; `None` where there was none yet.
    holds: Option<usize>,
}

/// What ended the wait for [`Progress::await_start`].
#[derive(Debug, PartialEq, Eq)]
pub enum StartSignal {
    /// The engine says go.
    Start,
    /// The engine says stop.
    PowerOff,
    /// Nobody said anything.
    Deadline,
}

impl Progress {
    /// A VM on its way.
    pub fn new() -> Self {
        let status = Status {
            phase: Phase::Booting,
            accel: String::new(),
            origin: None,
            vm_pid: 0,
            started_at: None,
        };
        let state = State {
            status,
            start_requested: false,
            power_off_requested: false,
            failure: None,
            exit: None,
            open_requests: 0,
            holds: None,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The status as the engine gets it.
    pub fn status(&self) -> Status {
        self.state.lock().status.clone()
    }

    /// QEMU runs, with a guest that begins from there.
    pub fn launched(&self, accel: &str, origin: Origin, vm_pid: u32) {
        self.change(|state| {
            state.status.accel = accel.to_owned();
            state.status.origin = Some(origin);
            state.status.vm_pid = vm_pid;
        });
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        self.change(|state| state.status.phase = phase);
    }

    /// The container's process runs since then (nanoseconds since 1970 UTC).
    pub fn started(&self, started_at: u64) {
        self.change(|state| {
            state.status.phase = Phase::Running;
            state.status.started_at = Some(started_at);
        });
    }

    /// The container's process could not be started.
    pub fn failed(&self, failure: StartFailure) {
        self.change(|state| state.failure = Some(failure));
    }

    /// The record is on disk: answers everybody who waits for the end.
    pub fn ended(&self, exit: ExitRecord) {
        self.change(|state| {
            state.status.phase = Phase::Ended;
            state.exit = Some(exit);
        });
    }

    /// The engine wants the VM off at once.
    pub fn request_power_off(&self) {
        self.change(|state| state.power_off_requested = true);
    }

    /// Whether [`Progress::request_power_off`] was called.
    pub fn power_off_requested(&self) -> bool {
        self.state.lock().power_off_requested
    }

    /// Asks for the start and waits for what becomes of it; the time it started.
    pub fn request_start(&self) -> Result<u64, StartFailure> {
        let mut state = self.state.lock();
        state.start_requested = true;
        self.changed.notify_all();
        loop {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if let Some(started_at) = state.status.started_at {
                return Ok(started_at);
            }
            if let Some(exit) = &state.exit {
                let message = exit.error.clone().unwrap_or_else(|| "the VM ended".to_owned());
                return Err(StartFailure { kind: FailureKind::Other, message });
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits for the engine's word.
    pub fn await_start(&self, limit: Duration) -> StartSignal {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        loop {
            if state.power_off_requested {
                return StartSignal::PowerOff;
            }
            if state.start_requested {
                return StartSignal::Start;
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return StartSignal::Deadline;
            }
        }
    }

    /// Somebody wants the VM at work,
    pub fn hold(&self) {
        self.change(|state| state.holds = Some(state.holds.unwrap_or_default() + 1));
    }

    /// … and no longer.
    pub fn release(&self) {
        self.change(|state| state.holds = state.holds.map(|holds| holds.saturating_sub(1)));
    }

    /// Waits until nobody wants the VM at work any more; for the first so long.
    pub fn await_release(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        while !state.power_off_requested {
            let holds = state.holds;
            match holds {
                Some(0) => return,
                Some(_) => self.changed.wait(&mut state),
                None if self.changed.wait_until(&mut state, deadline).timed_out() => return,
                None => {}
            }
        }
    }

    /// Waits until the container's process runs; `false` where it never will.
    pub fn await_running(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.failure.is_some() || state.exit.is_some() {
                return false;
            }
            if state.status.started_at.is_some() {
                return true;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits until the VM ended.
    pub fn await_end(&self) -> ExitRecord {
        let mut state = self.state.lock();
        loop {
            if let Some(exit) = &state.exit {
                return exit.clone();
            }
            self.changed.wait(&mut state);
        }
    }

    /// Counts a request that must be answered before the process may go.
    pub fn open_request(&self) -> OpenRequest<'_> {
        self.state.lock().open_requests += 1;
        OpenRequest(self)
    }

    /// Waits until every request is answered, at most for `limit`.
    pub fn drain_requests(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        while state.open_requests > 0 {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.notify_all();
    }
}

/// A request being answered; see [`Progress::open_request`].
pub struct OpenRequest<'a>(&'a Progress);

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.open_requests -= 1);
    }
}
