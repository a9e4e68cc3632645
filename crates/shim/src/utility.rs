//! A VM that runs our kernel and agent, and in it a container's process or work on its disk.
//!
//! ```text
//!   QEMU ─► agent's hello, a template, or a spare ─► Configure                     (Booting)
//!     ─► wait for Start ─► Spawn                                                   (Ready)
//!     ─► process exits ─► output drained ─► PowerOff                               (Running)
//! ```
//!
//! Where the disks are removed with the container nothing is written back at the end: QEMU is killed.

use crate::clock;
use crate::control::{Inside, Shared};
use crate::failure::Failure;
use crate::guest::{Guest, GuestError, ORDINARY};
use crate::phase::StartSignal;
use crate::records;
use crate::run::START_LIMIT;
use crate::spare::Spare;
use crate::vm::{QUIT_LIMIT, Vm, acceleration, nics};
use crate::warm;
use ireko_disk::Disk as _;
use ireko_protocol::agent::{
    Configure, DiskSerial, ExitStatus, PORT_NAME, ProcessId, Reply, RequestBody, Spawn,
};
use ireko_protocol::plan::{StartChoice, VmPlan, Work};
use ireko_protocol::shim::Phase;
use ireko_vm::accel::Verdict;
use ireko_vm::kernel::{self, GuestKernel};
use ireko_vm::{Boot, Console, DiskAttachment, DiskSource, GuestPort, KernelBoot, VmSpec};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// From QEMU's start to the agent's greeting. Seconds in software emulation; a host with fifty
/// VMs booting at once needs minutes.
pub const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How long a guest that went on from a template may take to answer before another is tried.
const AWAKE: Duration = Duration::from_secs(15);
/// How many are tried; the last has all the time that a request may take.
pub const ATTEMPTS: u32 = 3;
/// How long an archive may take to unpack, and a disk to be worked on.
const APPLY_LIMIT: Duration = Duration::from_secs(3 * 3600);
/// How long the guest may take to sync, unmount and power off.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(120);

/// Boots, works, powers off; the container's exit code.
pub fn run(
    plan: &VmPlan,
    disks: Vec<DiskAttachment>,
    socket: &Path,
    agent: &[u8],
    spare: Option<Spare>,
    shared: &Shared,
) -> Result<i32, Failure> {
    let running = bring_up(plan, disks, socket, agent, spare, shared)?;
    if let Inside::Agent(place) = &shared.inside {
        // Set once: this is the only work of this process.
        let _ = place.set(Arc::clone(&running.guest));
    }
    if let Err(error) = clock::keep(&running.guest) {
        tracing::warn!(%error, "nobody looks after the guest's clock");
    }
    let result = work(plan, shared, &running.guest, running.vm());
    match result {
        Ok(_) if plan.disposable && running.guest.is_idle() && shared.give_up_disks() => {
            running.vm().kill();
        }
        _ => shut_down(&running.guest, running.vm()),
    }
    result
}

/// What every VM with our kernel and agent is made of.
pub struct Ingredients {
    /// How its CPUs are run, and why.
    pub verdict: Verdict,
    /// What it boots.
    pub boot: KernelBoot,
}

/// A VM whose guest knows who it is.
struct Running {
    start: Start,
    guest: Arc<Guest>,
}

/// How a VM began.
enum Start {
    Cold(Vm),
    Warm(warm::Clone),
}

impl Running {
    fn vm(&self) -> &Vm {
        match &self.start {
            Start::Cold(vm) => vm,
            Start::Warm(clone) => &clone.vm,
        }
    }
}

impl Ingredients {
    /// Those for this plan, the kernel from the cache.
    pub fn find(plan: &VmPlan, agent: &[u8]) -> Result<Self, Failure> {
        let verdict = acceleration(plan)?;
        let kernel = GuestKernel::find(&plan.cache)
            .map_err(|error| Failure::of_vm("cannot boot the VM", &error))?;
        let initrd = kernel::initrd(&kernel, agent)
            .map_err(|error| Failure::of_vm("cannot make the VM's initramfs", &error))?;
        let command_line = kernel::command_line(verdict.accel, kernel::host_tsc_khz());
        let boot = KernelBoot { kernel: kernel.vmlinux, initrd, command_line, ram: None };
        Ok(Self { verdict, boot })
    }

    /// A VM of this plan with these disks that boots its kernel.
    pub fn spec(&self, plan: &VmPlan, disks: Vec<DiskAttachment>) -> VmSpec {
        VmSpec {
            name: plan.vm.clone(),
            accel: self.verdict.accel,
            memory_mib: plan.memory_mib,
            vcpus: plan.vcpus,
            boot: Boot::Kernel(self.boot.clone()),
            disks,
            ports: vec![GuestPort {
                name: PORT_NAME.to_owned(),
                socket: plan.runtime_dir.join("agent.sock"),
            }],
            nics: nics(plan),
            control: plan.runtime_dir.join("qmp.sock"),
            console: Console::None,
            group: plan.group.clone(),
        }
    }
}

/// In the VM that stands by, or else from a template where that can be, and cold where it cannot or does
/// not work.
fn bring_up(
    plan: &VmPlan,
    mut disks: Vec<DiskAttachment>,
    socket: &Path,
    agent: &[u8],
    spare: Option<Spare>,
    shared: &Shared,
) -> Result<Running, Failure> {
    if let Work::ApplyTar { archive } = &plan.work {
        disks.push(DiskAttachment {
            serial: DiskSerial::archive().0,
            source: DiskSource::RawFile { path: archive.clone() },
            read_only: true,
        });
    }
    let may_fall_back =
        || plan.start == StartChoice::Auto && !shared.progress.power_off_requested();
    if let Some(spare) = spare {
        match in_spare(plan, spare, &disks, shared) {
            Ok(running) => return Ok(running),
            Err(Unusable::Template(failure)) if may_fall_back() => {
                tracing::warn!("not in the VM that stood by: {}", failure.message);
            }
            Err(Unusable::Template(failure) | Unusable::Guest(failure)) => return Err(failure),
        }
    }
    let ingredients = Ingredients::find(plan, agent)?;
    match (plan.start, warm::obstacle(plan)) {
        (StartChoice::Cold, _) => {}
        (StartChoice::Pool, _) => {
            return Err(Failure::impossible("the VM that stood by is gone".to_owned()));
        }
        (StartChoice::Template, Some(obstacle)) => {
            return Err(Failure::impossible(format!("cannot start from a template: {obstacle}")));
        }
        (StartChoice::Auto, Some(obstacle)) => tracing::info!(obstacle, "a cold start"),
        (_, None) => match from_template(plan, &ingredients, disks.clone(), socket, shared) {
            Ok(running) => return Ok(running),
            Err(Unusable::Template(failure)) if may_fall_back() => {
                tracing::warn!("a cold start, since there is no template: {}", failure.message);
            }
            Err(Unusable::Template(failure) | Unusable::Guest(failure)) => return Err(failure),
        },
    }
    cold(plan, &ingredients, disks, socket, shared)
}

/// Why a VM that goes on from a template is of no use. It was put away.
enum Unusable {
    /// It is the template's fault, or may be.
    Template(Failure),
    /// It works, and says that it cannot do what is asked.
    Guest(Failure),
}

/// Why a VM that goes on from a template is not its container's.
enum NotOurs {
    /// It does not answer, and still runs. Of VMs with several CPUs, QEMU 7.2 leaves one in a hundred
    /// with all of them halted as it goes on, and an interrupt lost.
    Asleep(Box<warm::Clone>, Failure),
    /// It was put away.
    Unusable(Unusable),
}

fn from_template(
    plan: &VmPlan,
    ingredients: &Ingredients,
    disks: Vec<DiskAttachment>,
    socket: &Path,
    shared: &Shared,
) -> Result<Running, Unusable> {
    let mut attempt = 1;
    loop {
        let clone = warm::launch(plan, ingredients, disks.clone(), socket, shared)
            .map_err(Unusable::Template)?;
        let guest = match connect(plan) {
            Ok(guest) => guest,
            Err(failure) => {
                clone.discard(plan);
                return Err(Unusable::Template(failure));
            }
        };
        let limit = if attempt < ATTEMPTS { AWAKE } else { ORDINARY };
        let (clone, failure) = match make_it_ours(plan, clone, guest, limit, shared) {
            Ok(running) => return Ok(running),
            Err(NotOurs::Unusable(unusable)) => return Err(unusable),
            Err(NotOurs::Asleep(clone, failure)) => (clone, failure),
        };
        match attempt {
            1 => clone.vm.switch_off(),
            // It may have been saved asleep; the next one goes on from another.
            _ => clone.discard(plan),
        }
        if attempt == ATTEMPTS || shared.progress.power_off_requested() {
            return Err(Unusable::Template(failure));
        }
        tracing::warn!("the guest does not wake up; once more from the template");
        attempt += 1;
    }
}

/// The only good answer to an order.
pub fn done(answer: Reply) -> Result<(), GuestError> {
    match answer {
        Reply::Done => Ok(()),
        _ => Err(GuestError::Confused),
    }
}

fn in_spare(
    plan: &VmPlan,
    spare: Spare,
    disks: &[DiskAttachment],
    shared: &Shared,
) -> Result<Running, Unusable> {
    let (clone, guest) = spare.move_in(plan, disks, shared).map_err(Unusable::Template)?;
    make_it_ours(plan, clone, guest, ORDINARY, shared).map_err(|error| match error {
        NotOurs::Unusable(unusable) => unusable,
        NotOurs::Asleep(clone, failure) => {
            clone.vm.switch_off();
            Unusable::Template(failure)
        }
    })
}

/// Tells a guest that was saved, or stood by, who it is, which it has to answer within `limit`.
fn make_it_ours(
    plan: &VmPlan,
    clone: warm::Clone,
    guest: Arc<Guest>,
    limit: Duration,
    shared: &Shared,
) -> Result<Running, NotOurs> {
    let of_guest = |error| Failure::of_guest("cannot configure the guest", error);
    let mut wanted = match configuration(plan, shared) {
        Ok(wanted) => wanted,
        Err(failure) => {
            shut_down(&guest, &clone.vm);
            return Err(NotOurs::Unusable(Unusable::Guest(failure)));
        }
    };
    warm::who_it_is(&mut wanted);
    let answer = guest.call(RequestBody::Configure(Box::new(wanted)), limit);
    let unusable = match answer.and_then(done) {
        Ok(()) => return Ok(Running { start: Start::Warm(clone), guest }),
        Err(error @ GuestError::Failed { .. }) => {
            shut_down(&guest, &clone.vm);
            Unusable::Guest(of_guest(error))
        }
        Err(error @ GuestError::Late(_)) => {
            guest.hang_up();
            return Err(NotOurs::Asleep(Box::new(clone), of_guest(error)));
        }
        Err(error) => {
            guest.hang_up();
            clone.discard(plan);
            Unusable::Template(of_guest(error))
        }
    };
    Err(NotOurs::Unusable(unusable))
}

fn cold(
    plan: &VmPlan,
    ingredients: &Ingredients,
    disks: Vec<DiskAttachment>,
    socket: &Path,
    shared: &Shared,
) -> Result<Running, Failure> {
    let vm = Vm::launch(plan, &ingredients.spec(plan, disks), socket, shared)?;
    let guest = connect(plan)?;
    match guest.await_hello(BOOT_LIMIT) {
        Ok(kernel) => tracing::info!(kernel, "the guest is up"),
        Err(error) => {
            let end = vm.await_end(Duration::from_secs(1));
            let how = end.map(|end| end.to_string()).unwrap_or_default();
            let _ = vm.control.power_off_now();
            let reason = &ingredients.verdict.reason;
            let what = format!("the guest did not come up ({reason}) {how}");
            return Err(Failure::of_guest(what.trim_end(), error));
        }
    }
    let configured = match plan.work {
        // Its disk is no container's root.
        Work::Generalize | Work::Prepare => Ok(()),
        _ => configuration(plan, shared).and_then(|wanted| {
            guest
                .order(RequestBody::Configure(Box::new(wanted)))
                .map_err(|error| Failure::of_guest("cannot configure the guest", error))
        }),
    };
    if configured.is_err() {
        shut_down(&guest, &vm);
    }
    configured.map(|()| Running { start: Start::Cold(vm), guest })
}

/// The line to the guest's agent.
pub fn connect(plan: &VmPlan) -> Result<Arc<Guest>, Failure> {
    UnixStream::connect(plan.runtime_dir.join("agent.sock"))
        .and_then(Guest::connect)
        .map_err(|error| Failure::before_start("cannot reach the guest", &error))
}

/// What the guest is told of itself, with what is known at the last moment only.
pub fn configuration(plan: &VmPlan, shared: &Shared) -> Result<Configure, Failure> {
    let mut seed = vec![0; 64];
    getrandom::fill(&mut seed)
        .map_err(|error| Failure::before_start("cannot read the host's randomness", &error))?;
    let root_bytes = shared.disks.lock().first().map(|(_, disk)| disk.geometry().virtual_size);
    Ok(Configure { seed, unix_nanos: records::now(), root_bytes, ..plan.configure.clone() })
}

fn work(plan: &VmPlan, shared: &Shared, guest: &Guest, vm: &Vm) -> Result<i32, Failure> {
    shared.progress.enter(Phase::Ready);
    if let Work::Container { process, .. } = &plan.work {
        return run_container(process, shared, guest, vm);
    }
    shared.progress.started(records::now());
    match plan.work {
        Work::Generalize => generalize(guest),
        Work::Prepare => prepare(guest),
        Work::Files => {
            shared.progress.await_release(START_LIMIT);
            Ok(0)
        }
        _ => apply(guest),
    }
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

fn generalize(guest: &Guest) -> Result<i32, Failure> {
    let disk = DiskSerial::root();
    match guest.call(RequestBody::Generalize { disk }, APPLY_LIMIT) {
        Ok(Reply::Generalized { system, changed }) => {
            tracing::info!(system, changed, "the system is generalized");
            Ok(0)
        }
        Ok(_) => Err(Failure::of_guest("cannot generalize the system", GuestError::Confused)),
        Err(error) => Err(Failure::of_guest("cannot generalize the system", error)),
    }
}

fn prepare(guest: &Guest) -> Result<i32, Failure> {
    let disk = DiskSerial::root();
    match guest.call(RequestBody::Prepare { disk }, APPLY_LIMIT) {
        Ok(Reply::Prepared { system }) => {
            tracing::info!(system, "the system has the agent");
            Ok(0)
        }
        Ok(_) => Err(Failure::of_guest("cannot prepare the system", GuestError::Confused)),
        Err(error) => Err(Failure::of_guest("cannot prepare the system", error)),
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
