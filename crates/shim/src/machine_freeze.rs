//! Holding a machine's file systems still for a commit, by whichever agent its system has.
//!
//! ```text
//!   paused              nobody is asked: nothing in it moves
//!   Ireko's agent       answers? ─► freeze ─► thaw; it thaws by itself should we be late, or it be ended
//!   qemu-guest-agent    freeze ─► thaw, asked for until it is done: it does not do that by itself
//! ```
//!
//! A system that hangs costs a commit some seconds, and its being consistent.

use crate::commit::Freezes;
use crate::guest::Guest;
use crate::machine::Machine;
use crate::machine_agents::GREETING;
use crate::qemu_ga::{AgentError, QemuGa};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// How long a commit waits for the other agent's thaw; after that it is asked for without anybody waiting.
const THAW: Duration = Duration::from_secs(60);
/// How often it is asked for.
const AGAIN: Duration = Duration::from_secs(2);

/// One commit's way to hold a machine still.
pub struct MachineFreeze {
    machine: Arc<Machine>,
    is_paused: bool,
    by: Mutex<By>,
}

/// Who holds it.
enum By {
    Nobody,
    Ours(Arc<Guest>),
    QemuGa,
}

impl MachineFreeze {
    /// Of this machine; `is_paused`: its CPUs stand still.
    pub fn new(machine: &Arc<Machine>, is_paused: bool) -> Self {
        Self { machine: Arc::clone(machine), is_paused, by: Mutex::new(By::Nobody) }
    }

    /// Ireko's agent, where it shows that it lives.
    fn ours(&self) -> Option<Arc<Guest>> {
        let met = self.machine.agents.ours(GREETING)?;
        let living = met.and_then(|guest| guest.check_life(GREETING).map(|()| guest));
        living.inspect_err(|error| tracing::warn!(%error, "Ireko's agent is no help")).ok()
    }
}

impl Freezes for MachineFreeze {
    fn freeze(&self) -> bool {
        if self.is_paused {
            return false;
        }
        if let Some(guest) = self.ours() {
            let frozen = Freezes::freeze(&*guest);
            *self.by.lock() = By::Ours(guest);
            return frozen;
        }
        match self.machine.agents.qemu_ga.freeze() {
            Ok(()) => {
                *self.by.lock() = By::QemuGa;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the layer is crash-consistent");
                // It refused, and thawed what it had frozen; or nobody is there.
                if !matches!(error, AgentError::Absent | AgentError::Refused(_)) {
                    *self.by.lock() = By::QemuGa;
                }
                false
            }
        }
    }

    fn thaw(&self, is_certain: bool) -> bool {
        match &*self.by.lock() {
            By::Nobody => false,
            By::Ours(guest) => Freezes::thaw(&**guest, is_certain),
            By::QemuGa => {
                let deadline = Instant::now() + if is_certain { THAW } else { Duration::ZERO };
                let thawed = thaw_machine(&self.machine, Some(deadline));
                if thawed.is_none() {
                    keep_thawing(&self.machine);
                }
                thawed.is_some_and(|count| count > 0)
            }
        }
    }
}

fn thaw_machine(machine: &Machine, deadline: Option<Instant>) -> Option<u64> {
    thaw_until(&machine.agents.qemu_ga, || machine.is_on(), deadline, AGAIN)
}

/// Asks an agent to thaw until it has, also one that was ended and is started again; how many file systems
/// that were.
pub fn thaw_until(
    agent: &QemuGa,
    is_on: impl Fn() -> bool,
    deadline: Option<Instant>,
    pause: Duration,
) -> Option<u64> {
    let mut is_told = false;
    loop {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) || !is_on() {
            return None;
        }
        match agent.thaw() {
            Ok(thawed) => return Some(thawed),
            Err(error) if !std::mem::replace(&mut is_told, true) => {
                tracing::error!(%error, "the machine's file systems may be frozen still");
            }
            Err(_) => {}
        }
        thread::sleep(pause);
    }
}

/// A system that is left frozen would be lost.
fn keep_thawing(machine: &Arc<Machine>) {
    if machine.thawing.swap(true, Ordering::Relaxed) {
        return;
    }
    let machine = Arc::clone(machine);
    let thaw = move || {
        let thawed = thaw_machine(&machine, None);
        machine.thawing.store(false, Ordering::Relaxed);
        if let Some(thawed) = thawed {
            tracing::info!(thawed, "the machine's file systems are thawed at last");
        }
    };
    if let Err(error) = thread::Builder::new().name("thaw".into()).spawn(thaw) {
        tracing::error!(%error, "nobody thaws the machine's file systems");
    }
}
