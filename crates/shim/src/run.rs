//! The story of one VM: what every kind of work has in common.
//!
//! ```text
//!   (a spare ─► claimed ─►) socket ─► chain ─► block export ─► utility, or machine ─► chain closed
//!     ─► exit.json ─► everyone who waits is answered                               (Ended)
//! ```
//!
//! Whatever fails on the way, the end of the story is told: `exit.json` is written.

use crate::control::{self, Shared};
use crate::failure::{Failure, chain_of};
use crate::live_disk::LiveDisk;
use crate::phase::StartFailure;
use crate::spare::{self, Claimed, Spare};
use crate::{machine, records, suspend, utility};
use ireko_block_export::{Export, Server};
use ireko_disk::{Access, Chain};
use ireko_protocol::agent::DiskSerial;
use ireko_protocol::plan::{self, ExitRecord, VmPlan, Work};
use ireko_vm::{DiskAttachment, DiskSource};
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long a guest waits for the engine's word before it gives up.
pub const START_LIMIT: Duration = Duration::from_secs(600);
/// How long a client that reads nothing holds up the end.
const FAREWELL_LIMIT: Duration = Duration::from_secs(10);

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
    let socket = open_runtime_dir(&plan.runtime_dir)?;
    if let Work::Spare { empty } = &plan.work {
        return match spare::stand_by(&plan, empty, &socket, agent) {
            Ok(Some(Claimed { plan, listener, spare })) => {
                carry_out(&plan, &socket, listener, Some(spare), agent)
            }
            Ok(None) => fs::remove_dir_all(&plan.runtime_dir),
            Err(failure) => {
                fs::remove_dir_all(&plan.runtime_dir)?;
                Err(io::Error::other(failure.message))
            }
        };
    }
    let listener = UnixListener::bind(&socket)?;
    records::write_shim_record(&plan, &socket, 0)?;
    carry_out(&plan, &socket, listener, None, agent)
}

/// The plan's work, in a VM that stands by where there is one.
fn carry_out(
    plan: &VmPlan,
    socket: &Path,
    listener: UnixListener,
    spare: Option<Spare>,
    agent: &[u8],
) -> io::Result<()> {
    let shared = Shared::of(plan)?;
    control::serve(listener, Arc::clone(&shared))?;
    let record = match live(plan, socket, agent, spare, &shared) {
        Ok(exit_code) => exit_record(&shared, exit_code, None),
        Err(failure) => {
            tracing::error!("{}", failure.message);
            let Failure { exit_code, kind, mut message } = failure;
            let oom_kill = shared.group.oom_kill();
            if let Some(why) = &oom_kill {
                message += &format!(": {why}");
            }
            let mut record = exit_record(&shared, exit_code, Some(message.clone()));
            record.oom_killed = oom_kill.is_some();
            shared.progress.failed(StartFailure { kind, message });
            record
        }
    };
    shared.group.end();
    // On a full disk the record cannot be written: the engine still learns it from who waits.
    let written = records::write_exit_record(plan, &record);
    shared.progress.ended(record);
    shared.fanout.finish(FAREWELL_LIMIT);
    shared.progress.drain_requests(FAREWELL_LIMIT);
    written.and(fs::remove_dir_all(&plan.runtime_dir))
}

fn exit_record(shared: &Shared, exit_code: i32, error: Option<String>) -> ExitRecord {
    let started_at = shared.progress.status().started_at;
    let finished_at = records::now();
    let version = plan::VERSION;
    ExitRecord { version, exit_code, error, oom_killed: false, started_at, finished_at }
}

fn open_runtime_dir(dir: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    Ok(dir.join("shim.sock"))
}

/// Everything between the socket and the exit record; the container's exit code.
fn live(
    plan: &VmPlan,
    socket: &Path,
    agent: &[u8],
    spare: Option<Spare>,
    shared: &Arc<Shared>,
) -> Result<i32, Failure> {
    if let Work::Machine { resume: true, .. } = &plan.work {
        suspend::check_disks(plan)?;
    }
    let chains = std::iter::once((DiskSerial::root(), &plan.chain))
        .chain(plan.disks.iter().map(|disk| (disk.serial.clone(), &disk.chain)));
    let mut disks = Vec::new();
    for (serial, chain) in chains {
        let chain = Chain::open(chain, Access::ReadWrite).map_err(|error| {
            Failure::before_start(&format!("cannot open the container's {} disk", serial.0), &error)
        })?;
        let disk = LiveDisk::new(chain)
            .map_err(|error| Failure::before_start("cannot serve the container's disk", &error))?;
        disks.push((serial, disk));
    }
    *shared.disks.lock() = disks.clone();

    let result = with_exports(plan, &disks, |disks| match &plan.work {
        Work::Container { .. }
        | Work::ApplyTar { .. }
        | Work::Generalize
        | Work::Prepare
        | Work::Files => utility::run(plan, disks, socket, agent, spare, shared),
        Work::Spare { .. } => {
            Err(Failure::impossible("a VM that stands by cannot be had for another".to_owned()))
        }
        Work::Machine { firmware, hardware, nvram, seed, nested, resume, .. } => {
            let boot = machine::Boot {
                firmware: *firmware,
                hardware: *hardware,
                nvram,
                seed: seed.as_deref(),
                nested: *nested,
                resume: *resume,
            };
            machine::run(plan, &boot, disks, socket, shared)
        }
    });
    shared.disks.lock().clear();
    for (_, disk) in disks {
        if plan.disposable {
            disk.let_go();
        } else if let Err(error) = disk.close() {
            // What the guest flushed is safe in the file's log; the next open replays it.
            tracing::error!("cannot close the container's disk cleanly: {}", chain_of(&error));
        }
    }
    result
}

/// Serves one disk on a socket, for a VM to attach.
pub fn export(
    plan: &VmPlan,
    DiskSerial(serial): &DiskSerial,
    disk: &Arc<LiveDisk>,
    socket: PathBuf,
) -> Result<(Server, DiskAttachment), Failure> {
    let export = Export {
        name: serial.clone(),
        disk: Arc::clone(disk) as Arc<dyn ireko_disk::Disk>,
        read_only: false,
        description: format!("disk {serial} of VM {}", plan.vm),
    };
    let server = UnixListener::bind(&socket)
        .and_then(|listener| ireko_block_export::serve(listener, export))
        .map_err(|error| Failure::before_start("cannot serve the container's disk", &error))?;
    let attachment = DiskAttachment {
        serial: serial.clone(),
        source: DiskSource::Nbd { socket, export: serial.clone() },
        read_only: false,
    };
    Ok((server, attachment))
}

/// Serves the disks, each on a socket, while `body` runs, which gets them as a VM does.
fn with_exports<T>(
    plan: &VmPlan,
    disks: &[(DiskSerial, Arc<LiveDisk>)],
    body: impl FnOnce(Vec<DiskAttachment>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (mut servers, mut attachments) = (Vec::new(), Vec::new());
    for (number, (serial, disk)) in disks.iter().enumerate() {
        let socket = plan.runtime_dir.join(format!("disk{number}.sock"));
        let (server, attachment) = export(plan, serial, disk, socket)?;
        servers.push(server);
        attachments.push(attachment);
    }
    let result = body(attachments);
    for server in servers {
        server.shut_down();
    }
    result
}
