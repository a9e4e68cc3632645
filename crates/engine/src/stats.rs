//! What a container uses now.
//!
//! In a guest with our agent it is what the container's processes use of the guest; of a whole
//! operating system, what its VM takes of this machine: nobody inside is asked.

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{Attempt, Result};
use crate::shim_client::{GUEST, unexpected};
use crate::spec::DEFAULT_MEMORY;
use crate::state::{ContainerRecord, RunState};
use ireko_protocol::agent::Usage;
use ireko_protocol::shim::{Answer, Request};
use jiff::Timestamp;
use std::fs;
use std::sync::Arc;

/// Nanoseconds in one of Linux's clock ticks.
const TICK_NANOS: u64 = 10_000_000;

/// What a container uses at an instant.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The container.
    pub record: Arc<ContainerRecord>,
    /// When.
    pub at: Timestamp,
    /// What; `None` where it does not run.
    pub usage: Option<Usage>,
    /// Bytes of memory that it may use.
    pub memory_limit: u64,
    /// How many CPUs the counted time is of.
    pub cpus: u32,
}

impl Engine {
    /// Looks what a container uses. One that does not run, or has just ended, uses nothing.
    pub async fn sample(&self, reference: &str) -> Result<Sample> {
        let container = self.find(reference)?;
        let record = container.record();
        let resources = &record.spec.resources;
        let (limit, cpus) = match record.process.is_machine() {
            true => (
                resources.machine_memory() << 20,
                std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
            ),
            false => (resources.memory.unwrap_or(DEFAULT_MEMORY), resources.vm_cpus().0),
        };
        let usage =
            match &record.state {
                RunState::Running { vm_pid, .. } if record.process.is_machine() => {
                    let pid = *vm_pid;
                    blocking(move || of_process(pid)).await
                }
                RunState::Running { .. } => {
                    let shim = container.running_shim(self.places())?;
                    match shim.ask(Request::Usage, GUEST).await {
                        Ok(Answer::Usage(usage)) => Ok(usage),
                        Ok(other) => Err(unexpected("ask what the processes use", &other)),
                        Err(error) => Err(error
                            .into_error(|| format!("ask what container {} uses", container.id))),
                    }
                }
                _ => Ok(Usage::default()),
            };
        let is_on = container.record().is_running();
        let usage = if is_on && record.is_running() { Some(usage?) } else { None };
        Ok(Sample { record, at: Timestamp::now(), usage, memory_limit: limit, cpus })
    }
}

/// What a VM's process has used of this machine. Source: proc(5).
fn of_process(pid: u32) -> Result<Usage> {
    let read = |file: String| fs::read_to_string(&file).attempt(|| format!("read {file}"));
    let stat = read(format!("/proc/{pid}/stat"))?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| number(fields.get(field - 3)).saturating_mul(TICK_NANOS);
    let status = read(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|text| text.split_whitespace().next());
    let all = read("/proc/stat".into())?;
    let all = all.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let machine = all.map(|word| number(Some(&word))).fold(0_u64, u64::saturating_add);
    let (user, kernel) = (ticks(14), ticks(15));
    Ok(Usage {
        cpu_nanos: user.saturating_add(kernel),
        user_nanos: user,
        kernel_nanos: kernel,
        machine_nanos: machine.saturating_mul(TICK_NANOS),
        memory_bytes: number(kib.as_ref()).saturating_mul(1024),
        ..Usage::default()
    })
}

fn number(word: Option<&&str>) -> u64 {
    word.and_then(|word| word.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_time_and_memory_of_a_machine_that_has_more() {
        let spent = std::time::Instant::now();
        while spent.elapsed() < std::time::Duration::from_millis(50) {}
        let usage = of_process(std::process::id()).unwrap();
        assert!(usage.cpu_nanos > 0 && usage.machine_nanos > usage.cpu_nanos, "{usage:?}");
        assert!(usage.memory_bytes > 1 << 20, "{usage:?}");
        assert!(of_process(u32::MAX).is_err());
    }
}
