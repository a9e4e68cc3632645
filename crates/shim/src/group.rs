//! What QEMU may take of the host, where the host grants limits: the VM's control group.
//!
//! The limits are a second wall: the guest's own limits keep its processes to what was asked for, these
//! keep a QEMU to what such a VM can need at all, whatever its guest makes of it.

use crate::failure::{Failure, chain_of};
use ireko_cgroup::{Group, Limits};
use ireko_protocol::bounds::Shares;
use ireko_protocol::plan::VmPlan;
use ireko_vm::VmSpec;
use ireko_vm::accel::Accel;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// What QEMU takes beside its guest's memory: itself, its devices, page tables, what is under way to
/// disks and networks. Measured with QEMU 7.2: see docs/host-limits.md.
const QEMU_ITSELF: u64 = 256 * MIB;
/// Page tables and the like of guest memory: one part in so many.
const PER_GUEST_MEMORY: u64 = 64;
/// What QEMU takes for each virtual CPU.
const PER_VCPU: u64 = 8 * MIB;
/// An emulated VM's translated code, at most, and the share of the host's memory that it is less than.
/// Source: QEMU 7.2, tcg/region.c, size_code_gen_buffer.
const TRANSLATIONS: (u64, u64) = (1024 * MIB, 8);
/// QEMU's devices all work on one thread beside those of the CPUs, in thousandths of a CPU.
const DEVICES: u64 = 1000;
/// Threads beside those of the CPUs: QEMU's own few, and up to 64 for files.
const TASKS: u64 = 128;
/// Time for a QEMU that is killed to be gone.
const END: Duration = Duration::from_secs(10);

/// The group of one VM, which may have none.
pub struct HostGroup {
    group: Option<Group>,
    vcpus: u32,
    shares: Shares,
}

impl HostGroup {
    /// That of the VM of this plan. Nothing is made yet.
    pub fn of(plan: &VmPlan) -> Self {
        Self {
            group: plan.group.as_ref().map(Group::at),
            vcpus: plan.vcpus,
            shares: plan.configure.shares,
        }
    }

    /// Makes it with the limits of such a VM, for QEMU to be launched in.
    pub fn prepare(&self, spec: &VmSpec) -> Result<(), Failure> {
        let Some(group) = &self.group else { return Ok(()) };
        let limits = Limits {
            memory: memory(spec.memory_mib, spec.vcpus, spec.accel, host_memory()),
            cpu_millis: cpu_millis(self.vcpus, &self.shares),
            tasks: TASKS.saturating_add(spec.vcpus.into()),
        };
        group.make().and_then(|()| group.limit(&limits)).map_err(cannot)
    }

    /// Gives a VM that stood by the CPU time of its container.
    pub fn take_over(&self) -> Result<(), Failure> {
        self.limit_cpu(&self.shares).map_err(cannot)
    }

    /// Changes its CPU time to what a container is to have from now on.
    pub fn limit_cpu(&self, shares: &Shares) -> ireko_cgroup::Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        group.limit_cpu(cpu_millis(self.vcpus, shares))
    }

    /// Whether the kernel killed QEMU since it took too much memory, in a sentence.
    pub fn oom_kill(&self) -> Option<String> {
        let group = self.group.as_ref().filter(|group| group.oom_kills() > 0)?;
        let limit = group.in_force().and_then(|limits| limits.memory).unwrap_or_default();
        Some(format!(
            "the host's kernel killed the VM: it took more than the {} MiB of memory that its control \
             group may have",
            limit / MIB
        ))
    }

    /// Ends what is left in it, and removes it.
    pub fn end(&self) {
        if let Some(group) = &self.group
            && let Err(error) = group.end(END)
        {
            tracing::error!("the VM's control group is left over: {}", chain_of(&error));
        }
    }
}

fn cannot(error: ireko_cgroup::Error) -> Failure {
    Failure::before_start("cannot keep the VM to its share of the host", &error)
}

/// Bytes that such a VM may come to take of a host with so many.
fn memory(guest_mib: u64, vcpus: u32, accel: Accel, host: u64) -> u64 {
    let guest = guest_mib.saturating_mul(MIB);
    let cpus = PER_VCPU.saturating_mul(vcpus.into());
    let (most, share) = TRANSLATIONS;
    let translations = match accel {
        Accel::Tcg => most.min(host / share),
        Accel::Kvm => 0,
    };
    [guest / PER_GUEST_MEMORY, QEMU_ITSELF, cpus, translations]
        .into_iter()
        .fold(guest, u64::saturating_add)
}

/// The CPU time of a VM whose container has these shares, in thousandths of a CPU.
fn cpu_millis(vcpus: u32, shares: &Shares) -> u64 {
    let guest = shares.cpu_millis.unwrap_or_else(|| u64::from(vcpus).saturating_mul(1000));
    guest.saturating_add(DEVICES)
}

fn host_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_memory_and_what_qemu_takes_for_itself() {
        let host = 64 << 30;
        assert_eq!(memory(512, 1, Accel::Kvm, host), (512 + 8 + 256 + 8) * MIB);
        assert_eq!(memory(512, 1, Accel::Tcg, host), (512 + 8 + 256 + 8 + 1024) * MIB);
        assert_eq!(memory(512, 1, Accel::Tcg, 4 << 30), (512 + 8 + 256 + 8 + 512) * MIB);
        assert_eq!(memory(u64::MAX, 1, Accel::Tcg, host), u64::MAX);
    }

    #[test]
    fn a_containers_cpus_and_one_more_for_the_devices() {
        let shares = |cpu_millis| Shares { cpu_millis, ..Shares::default() };
        assert_eq!(cpu_millis(1, &shares(None)), 2000);
        assert_eq!(cpu_millis(2, &shares(Some(1500))), 2500);
        assert_eq!(cpu_millis(1, &shares(Some(u64::MAX))), u64::MAX);
    }
}
