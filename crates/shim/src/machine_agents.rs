//! Who can be asked in a machine: Ireko's agent where its system has it, else qemu-guest-agent.
//!
//! ```text
//!   port opened in the guest ─► connect, hail ─► hello ─► one session for all who ask
//!   port closed ─► the session ends: every call fails, every exec is lost
//!   opened again ─► another session
//! ```
//!
//! Both are untrusted. Ours is the better one, and asked first; one that does not keep to its protocol
//! fails the call it was asked, and its session.

use crate::guest::{Guest, GuestError, ORDINARY};
use crate::machine_agents::AskError::{Ga, Ours};
use crate::qemu_ga::{self, AgentError, QemuGa};
use crate::records;
use ireko_protocol::agent::{GuestInterface, MOST_INTERFACES, Reply, RequestBody};
use ireko_vm::Control;
use parking_lot::Mutex;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The place of our agent's port among the VM's.
pub const PORT: usize = 1;
/// How long it has to greet where somebody else can be asked instead.
pub const GREETING: Duration = Duration::from_secs(10);
/// How long it may take to begin a shutdown.
const SHUT_DOWN: Duration = Duration::from_secs(10);
/// For so long an address report is as good as new.
const FRESH: Duration = Duration::from_secs(2);

/// The agents of one machine.
pub struct MachineAgents {
    /// The second way.
    pub qemu_ga: QemuGa,
    socket: PathBuf,
    vm: Arc<dyn Ports>,
    state: Arc<Mutex<State>>,
    report: Mutex<Option<(Instant, Vec<GuestInterface>)>>,
}

/// What is known of our agent.
#[derive(Default)]
struct State {
    /// By which opening of its port it is talked to.
    opening: Option<u64>,
    session: Option<Arc<Guest>>,
}

/// What a VM tells about its ports.
trait Ports: Send + Sync {
    fn opening(&self) -> Option<u64>;
    fn await_closed(&self, opening: u64);
    fn await_any(&self, limit: Duration) -> bool;
}

impl Ports for Control {
    fn opening(&self) -> Option<u64> {
        self.port_opening(PORT)
    }

    fn await_closed(&self, opening: u64) {
        self.await_port_closed(PORT, opening);
    }

    fn await_any(&self, limit: Duration) -> bool {
        self.await_port(&[PORT, qemu_ga::PORT], limit)
    }
}

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Ours.
    #[error("Ireko's agent in this machine")]
    Ours(#[from] GuestError),
    /// The other one, or none.
    #[error(transparent)]
    Ga(#[from] AgentError),
}

type Result<T> = std::result::Result<T, AskError>;

impl MachineAgents {
    /// Those of the VM whose ports [`PORT`] and [`qemu_ga::PORT`] lead to these sockets.
    pub fn new(ours: PathBuf, qemu_ga: PathBuf, vm: Control) -> Self {
        Self {
            qemu_ga: QemuGa::new(qemu_ga, vm.clone()),
            socket: ours,
            vm: Arc::new(vm),
            state: Arc::default(),
            report: Mutex::new(None),
        }
    }

    /// Our agent, once it has greeted; `None` where nobody in the guest has its port open.
    pub fn ours(&self, limit: Duration) -> Option<std::result::Result<Arc<Guest>, GuestError>> {
        let opening = self.vm.opening()?;
        let deadline = Instant::now() + limit;
        let Some(mut state) = self.state.try_lock_until(deadline) else {
            return Some(Err(GuestError::Late(limit)));
        };
        if let Some(guest) = &state.session
            && state.opening == Some(opening)
            && !guest.is_gone()
        {
            return Some(Ok(Arc::clone(guest)));
        }
        Some(self.meet(&mut state, opening, deadline.saturating_duration_since(Instant::now())))
    }

    /// Begins a session in the place of the one before.
    fn meet(
        &self,
        state: &mut State,
        opening: u64,
        limit: Duration,
    ) -> std::result::Result<Arc<Guest>, GuestError> {
        state.hang_up();
        if state.opening.replace(opening) != Some(opening) {
            self.watch(opening)?;
        }
        let guest = UnixStream::connect(&self.socket).and_then(Guest::connect_to_service)?;
        // Before it has greeted: who ends it must find it.
        state.session = Some(Arc::clone(&guest));
        match guest.await_hello(limit) {
            Ok(kernel) => {
                tracing::info!(kernel, "Ireko's agent is up");
                Ok(guest)
            }
            Err(error) => {
                state.hang_up();
                Err(error)
            }
        }
    }

    /// Ends the session when the port is closed in the guest: nobody else would.
    fn watch(&self, opening: u64) -> std::io::Result<()> {
        let (vm, state) = (Arc::clone(&self.vm), Arc::clone(&self.state));
        let watch = move || {
            vm.await_closed(opening);
            let mut state = state.lock();
            if state.opening == Some(opening) {
                state.hang_up();
                state.opening = None;
            }
        };
        thread::Builder::new().name("agent".into()).spawn(watch).map(drop)
    }

    /// Returns when one of both answers.
    pub fn await_one(&self, limit: Duration) -> Result<()> {
        if !self.vm.await_any(limit) {
            return Err(AgentError::Absent.into());
        }
        match self.ours(ORDINARY) {
            Some(met) => Ok(met.map(drop)?),
            None => Ok(self.qemu_ga.ping()?),
        }
    }

    /// Begins to shut the system down.
    pub fn shut_down(&self) -> Result<()> {
        if let Some(Ok(guest)) = self.ours(GREETING) {
            match guest.call(RequestBody::ShutDown, SHUT_DOWN) {
                // The agent is among the first that are ended.
                Ok(_) | Err(GuestError::Gone) => return Ok(()),
                Err(error) => tracing::info!("another way to shut down: {}", Ours(error)),
            }
        }
        Ok(self.qemu_ga.shut_down()?)
    }

    /// Sets the system's clock to what it is here.
    pub fn set_clock(&self) -> Result<()> {
        match self.ours(ORDINARY) {
            Some(met) => {
                let unix_nanos = records::now();
                Ok(met?.order(RequestBody::SetClock { unix_nanos })?)
            }
            None => Ok(self.qemu_ga.set_time(records::now())?),
        }
    }

    /// Which addresses the system has; where `recent` ones will do, what was told a moment ago is told again.
    pub fn addresses(&self, limit: Duration, recent: bool) -> Result<Vec<GuestInterface>> {
        let deadline = Instant::now() + limit;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut report = self.report.try_lock_until(deadline).ok_or(Ga(AgentError::Late(limit)))?;
        if let Some((at, told)) = &*report
            && recent
            && at.elapsed() < FRESH
        {
            return Ok(told.clone());
        }
        let told = match self.ours(left()) {
            Some(met) => match met?.call(RequestBody::Addresses, left())? {
                Reply::Addresses { mut interfaces } => {
                    bound(&mut interfaces);
                    interfaces
                }
                _ => return Err(GuestError::Confused.into()),
            },
            None => self.qemu_ga.interfaces(left())?,
        };
        *report = Some((Instant::now(), told.clone()));
        Ok(told)
    }
}

impl State {
    fn hang_up(&mut self) {
        if let Some(guest) = self.session.take() {
            guest.hang_up();
        }
    }
}

/// What a guest says of itself is shown to people, and kept.
fn bound(interfaces: &mut Vec<GuestInterface>) {
    interfaces.truncate(MOST_INTERFACES);
    for interface in interfaces {
        interface.name.truncate(interface.name.floor_char_boundary(64));
        interface.addresses.truncate(MOST_INTERFACES);
    }
}

#[cfg(test)]
#[path = "machine_agents/tests.rs"]
mod tests;
