//! The story of one VM: boot, configure, start, run, end.
//!
//! ```text
//!   socket ─► chain ─► block export ─► QEMU ─► agent's hello ─► Configure          (Booting)
//!     ─► wait for Start ─► Spawn                                                   (Ready)
//!     ─► process exits ─► output drained ─► PowerOff ─► chain closed               (Running)
//!     ─► exit.json ─► everyone who waits is answered                               (Ended)
//! ```
//!
//! Whatever fails on the way, the end of the story is told: `exit.json` is written.

use crate::control::{self, Shared, chain_of};
use crate::guest::{Guest, GuestError};
use crate::live_disk::LiveDisk;
use crate::log::Log;
use crate::phase::{Progress, StartFailure, StartSignal};
use crate::records;
use crate::streams::Fanout;
use ireko_block_export::Export;
use ireko_disk::{Access, Chain};
use ireko_protocol::agent::{
    Configure, DiskSerial, ExitStatus, FailureKind, PORT_NAME, ProcessId, Reply, RequestBody, Spawn,
};
use ireko_protocol::plan::{self, AccelChoice, ExitRecord, VmPlan, Work};
use ireko_protocol::shim::Phase;
use ireko_vm::accel::{self, Accel};
use ireko_vm::kernel::{self, GuestKernel};
use ireko_vm::{DiskAttachment, DiskSource, GuestPort, KernelBoot, Qemu, VmDriver, VmSpec};
use parking_lot::Mutex;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

/// From QEMU's start to the agent's greeting. Seconds in software emulation; a host with fifty
/// VMs booting at once needs minutes.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How long a guest waits for the engine's word before it gives up.
const START_LIMIT: Duration = Duration::from_secs(600);
/// How long an archive may take to unpack.
const APPLY_LIMIT: Duration = Duration::from_secs(3 * 3600);
/// How long the guest may take to sync, unmount and power off.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(120);
/// How long QEMU may take to go once it was told to.
const QUIT_LIMIT: Duration = Duration::from_secs(10);
/// How long a client that reads nothing holds up the end.
const FAREWELL_LIMIT: Duration = Duration::from_secs(10);

/// Exit code of a VM that went without its process's own.
const LOST: i32 = 255;
/// Docker's exit code of a container that could not be started for another reason than its command.
const NOT_STARTED: i32 = 128;

/// Why a VM's work failed: for `exit.json` and for whoever waits for the start.
struct Failure {
    exit_code: i32,
    kind: FailureKind,
    message: String,
}

impl Failure {
    fn before_start(what: &str, error: &dyn std::error::Error) -> Self {
        let message = format!("{what}: {}", chain_of(error));
        Self { exit_code: NOT_STARTED, kind: FailureKind::Other, message }
    }

    /// The same with the remedy, where the VM's driver knows one, on a line of its own.
    fn of_vm(what: &str, error: &ireko_vm::Error) -> Self {
        let mut failure = Self::before_start(what, error);
        if let Some(hint) = error.hint() {
            failure.message += &format!("\nhint: {hint}");
        }
        failure
    }

    fn of_guest(what: &str, error: GuestError) -> Self {
        match error {
            // The agent's sentence is docker's own; nothing is put in front of it.
            GuestError::Failed { kind, message } => {
                let exit_code = match kind {
                    FailureKind::NotFound => 127,
                    FailureKind::NotExecutable => 126,
                    _ => NOT_STARTED,
                };
                Self { exit_code, kind, message }
            }
            other => Self::before_start(what, &other),
        }
    }
}

/// Runs one VM by the plan in `plan_file`; `agent` is the guest agent's executable.
///
/// To be called on the process's main thread. Returns when the VM has ended and `exit.json` in the
/// plan's `state_dir` is durable; fails only where not even that could be written.
pub fn main(plan_file: &Path, agent: &[u8]) -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
    match run(plan_file, agent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("cannot run {}: {}", plan_file.display(), chain_of(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(plan_file: &Path, agent: &[u8]) -> io::Result<()> {
    let plan = records::read_plan(plan_file)?;
    let (log, takes_stdin, tty) = match &plan.work {
        Work::Container { process, log } => (log.as_deref(), process.stdin, process.tty),
        Work::ApplyTar { .. } => (None, false, None),
    };
    let shared = Arc::new(Shared {
        progress: Progress::new(),
        fanout: Fanout::new(Log::open(log)?),
        machine: OnceLock::new(),
        guest: OnceLock::new(),
        disk: Mutex::new(None),
        terminal: Mutex::new(tty),
        takes_stdin,
    });
    let socket = open_runtime_dir(&plan.runtime_dir)?;
    control::serve(UnixListener::bind(&socket)?, Arc::clone(&shared))?;
    records::write_shim_record(&plan, &socket, 0)?;

    let record = match live(&plan, &socket, agent, &shared) {
        Ok(exit_code) => exit_record(&shared, exit_code, None),
        Err(failure) => {
            tracing::error!("{}", failure.message);
            let Failure { exit_code, kind, message } = failure;
            let record = exit_record(&shared, exit_code, Some(message.clone()));
            shared.progress.failed(StartFailure { kind, message });
            record
        }
    };
    // On a full disk the record cannot be written: the engine still learns it from who waits.
    let written = records::write_exit_record(&plan.state_dir, &record);
    shared.progress.ended(record);
    shared.fanout.finish(FAREWELL_LIMIT);
    shared.progress.drain_requests(FAREWELL_LIMIT);
    written.and(fs::remove_dir_all(&plan.runtime_dir))
}

fn exit_record(shared: &Shared, exit_code: i32, error: Option<String>) -> ExitRecord {
    let started_at = shared.progress.status().started_at;
    ExitRecord { version: plan::VERSION, exit_code, error, started_at, finished_at: records::now() }
}

fn open_runtime_dir(dir: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    Ok(dir.join("shim.sock"))
}

/// QEMU, and what tells that it ended.
struct Machine {
    ended: Receiver<String>,
}

impl Machine {
    /// How it ended, once it has; `None` at the deadline.
    fn await_end(&self, limit: Duration) -> Option<String> {
        match self.ended.recv_timeout(limit) {
            Ok(how) => Some(how),
            Err(mpsc::RecvTimeoutError::Disconnected) => Some("QEMU ended".to_owned()),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
        }
    }
}

/// Everything between the socket and the exit record; the container's exit code.
fn live(plan: &VmPlan, socket: &Path, agent: &[u8], shared: &Shared) -> Result<i32, Failure> {
    let chain = Chain::open(&plan.chain, Access::ReadWrite)
        .map_err(|error| Failure::before_start("cannot open the container's disk", &error))?;
    let disk = LiveDisk::new(chain)
        .map_err(|error| Failure::before_start("cannot serve the container's disk", &error))?;
    *shared.disk.lock() = Some(Arc::clone(&disk));

    let result = with_export(plan, &disk, |export| {
        let (machine, guest) = boot(plan, socket, export, agent, shared)?;
        let result = configure(plan, &guest).and_then(|()| work(plan, shared, &guest, &machine));
        shut_down(shared, &guest, &machine);
        result
    });
    *shared.disk.lock() = None;
    if let Err(error) = disk.close() {
        // What the guest flushed is safe in the file's log; the next open replays it.
        tracing::error!("cannot close the container's disk cleanly: {}", chain_of(&error));
    }
    result
}

/// Serves the disk on a socket while `body` runs.
fn with_export<T>(
    plan: &VmPlan,
    disk: &Arc<LiveDisk>,
    body: impl FnOnce(&Path) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let socket = plan.runtime_dir.join("disk.sock");
    let export = Export {
        name: DiskSerial::root().0,
        disk: Arc::clone(disk) as Arc<dyn ireko_disk::Disk>,
        read_only: false,
        description: format!("scratch disk of VM {}", plan.vm),
    };
    let server = UnixListener::bind(&socket)
        .and_then(|listener| ireko_block_export::serve(listener, export))
        .map_err(|error| Failure::before_start("cannot serve the container's disk", &error))?;
    let result = body(&socket);
    server.shut_down();
    result
}

fn boot(
    plan: &VmPlan,
    socket: &Path,
    export: &Path,
    agent: &[u8],
    shared: &Shared,
) -> Result<(Machine, Arc<Guest>), Failure> {
    let choice = match plan.accel {
        AccelChoice::Auto => accel::Choice::Auto,
        AccelChoice::Kvm => accel::Choice::Kvm,
        AccelChoice::Tcg => accel::Choice::Tcg,
    };
    let verdict = accel::verdict(&plan.cache, choice)
        .map_err(|error| Failure::of_vm("cannot accelerate the VM", &error))?;
    let kernel = GuestKernel::find(&plan.cache)
        .map_err(|error| Failure::of_vm("cannot boot the VM", &error))?;
    let initrd = kernel::initrd(&kernel, agent)
        .map_err(|error| Failure::of_vm("cannot make the VM's initramfs", &error))?;
    let port = plan.runtime_dir.join("agent.sock");
    let mut disks = vec![DiskAttachment {
        serial: DiskSerial::root().0,
        source: DiskSource::Nbd { socket: export.to_owned(), export: DiskSerial::root().0 },
        read_only: false,
    }];
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
        boot: KernelBoot {
            kernel: kernel.vmlinux,
            initrd,
            command_line: kernel::command_line(verdict.accel, kernel::host_tsc_khz()),
        },
        disks,
        ports: vec![GuestPort { name: PORT_NAME.to_owned(), socket: port.clone() }],
        control: plan.runtime_dir.join("qmp.sock"),
        console_log: None,
    };
    let mut vm = Qemu::find()
        .and_then(|qemu| qemu.launch(&spec))
        .map_err(|error| Failure::of_vm("cannot start the VM", &error))?;
    let accel_name = match verdict.accel {
        Accel::Kvm => "kvm",
        Accel::Tcg => "tcg",
    };
    shared.progress.launched(accel_name, vm.pid());
    let control = vm.control();
    // Set once: this is the only boot of this process.
    let _ = shared.machine.set(control.clone());
    if shared.progress.power_off_requested() {
        let _ = control.power_off_now();
    }
    records::write_shim_record(plan, socket, vm.pid())
        .map_err(|error| Failure::before_start("cannot write shim.json", &error))?;
    let (tell, ended) = mpsc::channel();
    thread::Builder::new()
        .name("vm".into())
        .spawn(move || {
            let how = vm.wait().map_or_else(|error| chain_of(&error), |exit| exit.to_string());
            // The main thread may have stopped listening after the deadline.
            let _ = tell.send(how);
        })
        .map_err(|error| Failure::before_start("cannot watch the VM", &error))?;
    let machine = Machine { ended };
    let guest = UnixStream::connect(&port)
        .and_then(Guest::connect)
        .map_err(|error| Failure::before_start("cannot reach the guest", &error))?;
    match guest.await_hello(BOOT_LIMIT) {
        Ok(kernel) => tracing::info!(kernel, "the guest is up"),
        Err(error) => {
            let how = machine.await_end(Duration::from_secs(1)).unwrap_or_default();
            let _ = control.power_off_now();
            let what = format!("the guest did not come up ({}) {how}", verdict.reason);
            return Err(Failure::of_guest(what.trim_end(), error));
        }
    }
    // Set once, as above.
    let _ = shared.guest.set(Arc::clone(&guest));
    Ok((machine, guest))
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

fn work(plan: &VmPlan, shared: &Shared, guest: &Guest, machine: &Machine) -> Result<i32, Failure> {
    shared.progress.enter(Phase::Ready);
    match &plan.work {
        Work::Container { process, .. } => run_container(process, shared, guest, machine),
        Work::ApplyTar { .. } => {
            shared.progress.started(records::now());
            apply(guest)
        }
    }
}

fn run_container(
    process: &Spawn,
    shared: &Shared,
    guest: &Guest,
    machine: &Machine,
) -> Result<i32, Failure> {
    match shared.progress.await_start(START_LIMIT) {
        StartSignal::Start => {}
        StartSignal::PowerOff => return Ok(137),
        StartSignal::Deadline => {
            return Err(Failure {
                exit_code: NOT_STARTED,
                kind: FailureKind::Other,
                message: "the daemon made this VM but never started it".to_owned(),
            });
        }
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
            let how = machine.await_end(QUIT_LIMIT).unwrap_or_else(|| "it hangs".to_owned());
            Err(Failure {
                exit_code: LOST,
                kind: FailureKind::Other,
                message: format!("the VM ended without the process's exit status: {how}"),
            })
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
fn shut_down(shared: &Shared, guest: &Guest, machine: &Machine) {
    let asked = guest.power_off();
    if asked.is_ok() && machine.await_end(POWER_OFF_LIMIT).is_some() {
        return;
    }
    tracing::warn!("the guest does not power off; switching it off");
    if let Some(control) = shared.machine.get()
        && let Err(error) = control.power_off_now()
    {
        tracing::error!("cannot switch the VM off: {}", chain_of(&error));
    }
    if machine.await_end(QUIT_LIMIT).is_none() {
        tracing::error!("QEMU does not end; it goes with this process");
    }
}
