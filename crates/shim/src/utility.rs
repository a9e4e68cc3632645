//! A VM that runs our kernel and agent, and in it a container's process or work on its disk.
//!
//! ```text
//!   QEMU ─► agent's hello ─► Configure                                             (Booting)
//!     ─► wait for Start ─► Spawn                                                   (Ready)
//!     ─► process exits ─► output drained ─► PowerOff                               (Running)
//! ```

use crate::control::{Inside, Shared};
use crate::failure::Failure;
use crate::guest::{Guest, GuestError};
use crate::phase::StartSignal;
use crate::records;
use crate::run::START_LIMIT;
use crate::vm::{QUIT_LIMIT, Vm, acceleration, nics};
use ireko_protocol::agent::{
    Configure, DiskSerial, ExitStatus, PORT_NAME, ProcessId, Reply, RequestBody, Spawn,
};
use ireko_protocol::plan::{VmPlan, Work};
use ireko_protocol::shim::Phase;
use ireko_vm::kernel::{self, GuestKernel};
use ireko_vm::{Boot, Console, DiskAttachment, DiskSource, GuestPort, KernelBoot, VmSpec};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// From QEMU's start to the agent's greeting. Seconds in software emulation; a host with fifty
/// VMs booting at once needs minutes.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How long an archive may take to unpack.
const APPLY_LIMIT: Duration = Duration::from_secs(3 * 3600);
/// How long the guest may take to sync, unmount and power off.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(120);

/// Boots, works, powers off; the container's exit code.
pub fn run(
    plan: &VmPlan,
    disks: Vec<DiskAttachment>,
    socket: &Path,
    agent: &[u8],
    shared: &Shared,
) -> Result<i32, Failure> {
    let (vm, guest) = boot(plan, disks, socket, agent, shared)?;
    let result = configure(plan, &guest).and_then(|()| work(plan, shared, &guest, &vm));
    shut_down(&guest, &vm);
    result
}

fn boot(
    plan: &VmPlan,
    mut disks: Vec<DiskAttachment>,
    socket: &Path,
    agent: &[u8],
    shared: &Shared,
) -> Result<(Vm, Arc<Guest>), Failure> {
    let verdict = acceleration(plan)?;
    let kernel = GuestKernel::find(&plan.cache)
        .map_err(|error| Failure::of_vm("cannot boot the VM", &error))?;
    let initrd = kernel::initrd(&kernel, agent)
        .map_err(|error| Failure::of_vm("cannot make the VM's initramfs", &error))?;
    let port = plan.runtime_dir.join("agent.sock");
    if let Work::ApplyTar { archive } = &plan.work {
        disks.push(DiskAttachment {
            serial: DiskSerial::archive().0,
            source: DiskSource::RawFile { path: archive.clone() },
            read_only: true,
        });
    }
    let spec = VmSpec {
        name: plan.vm.clone(),
        accel: verdict.accel,
        memory_mib: plan.memory_mib,
        vcpus: plan.vcpus,
        boot: Boot::Kernel(KernelBoot {
            kernel: kernel.vmlinux,
            initrd,
            command_line: kernel::command_line(verdict.accel, kernel::host_tsc_khz()),
        }),
        disks,
        ports: vec![GuestPort { name: PORT_NAME.to_owned(), socket: port.clone() }],
        nics: nics(plan),
        control: plan.runtime_dir.join("qmp.sock"),
        console: Console::None,
    };
    let vm = Vm::launch(plan, &spec, socket, shared)?;
    let guest = UnixStream::connect(&port)
        .and_then(Guest::connect)
        .map_err(|error| Failure::before_start("cannot reach the guest", &error))?;
    match guest.await_hello(BOOT_LIMIT) {
        Ok(kernel) => tracing::info!(kernel, "the guest is up"),
        Err(error) => {
            let end = vm.await_end(Duration::from_secs(1));
            let how = end.map(|end| end.to_string()).unwrap_or_default();
            let _ = vm.control.power_off_now();
            let what = format!("the guest did not come up ({}) {how}", verdict.reason);
            return Err(Failure::of_guest(what.trim_end(), error));
        }
    }
    if let Inside::Agent(place) = &shared.inside {
        // Set once: this is the only boot of this process.
        let _ = place.set(Arc::clone(&guest));
    }
    Ok((vm, guest))
}

fn configure(plan: &VmPlan, guest: &Guest) -> Result<(), Failure> {
    let mut seed = vec![0; 64];
    getrandom::fill(&mut seed)
        .map_err(|error| Failure::before_start("cannot read the host's randomness", &error))?;
    let configure = Configure { seed, unix_nanos: records::now(), ..plan.configure.clone() };
    guest
        .order(RequestBody::Configure(Box::new(configure)))
        .map_err(|error| Failure::of_guest("cannot configure the guest", error))
}

fn work(plan: &VmPlan, shared: &Shared, guest: &Guest, vm: &Vm) -> Result<i32, Failure> {
    shared.progress.enter(Phase::Ready);
    if let Work::Container { process, .. } = &plan.work {
        return run_container(process, shared, guest, vm);
    }
    shared.progress.started(records::now());
    apply(guest)
}

fn run_container(process: &Spawn, shared: &Shared, guest: &Guest, vm: &Vm) -> Result<i32, Failure> {
    match shared.progress.await_start(START_LIMIT) {
        StartSignal::Start => {}
        StartSignal::PowerOff => return Ok(137),
        StartSignal::Deadline => return Err(Failure::never_started()),
    }
    let spawn = Spawn {
        process: ProcessId::INIT,
        tty: process.tty.and(*shared.terminal.lock()),
        ..process.clone()
    };
    let (_, output) = guest
        .spawn(spawn)
        .map_err(|error| Failure::of_guest("cannot start the container's process", error))?;
    shared
        .fanout
        .deliver(output)
        .map_err(|error| Failure::before_start("cannot carry the container's output", &error))?;
    shared.progress.started(records::now());
    match guest.await_exit(ProcessId::INIT) {
        Some(status) => Ok(status.code()),
        None if shared.progress.power_off_requested() => Ok(ExitStatus::Signal(9).code()),
        None => {
            let end = vm.await_end(QUIT_LIMIT);
            let how = end.map_or_else(|| "it hangs".to_owned(), |end| end.to_string());
            Err(Failure::lost(format!("the VM ended without the process's exit status: {how}")))
        }
    }
}

fn apply(guest: &Guest) -> Result<i32, Failure> {
    let disk = DiskSerial::archive();
    match guest.call(RequestBody::ApplyTar { disk }, APPLY_LIMIT) {
        Ok(Reply::Applied { entries, bytes }) => {
            tracing::info!(entries, bytes, "the archive is unpacked");
            Ok(0)
        }
        Ok(_) => Err(Failure::of_guest("cannot unpack the archive", GuestError::Confused)),
        Err(error) => Err(Failure::of_guest("cannot unpack the archive", error)),
    }
}

/// The guest syncs, unmounts and powers off; one that does not is switched off.
fn shut_down(guest: &Guest, vm: &Vm) {
    let asked = guest.power_off();
    if asked.is_ok() && vm.await_end(POWER_OFF_LIMIT).is_some() {
        return;
    }
    tracing::warn!("the guest does not power off; switching it off");
    vm.switch_off();
}
