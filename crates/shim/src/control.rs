//! The socket the engine speaks to: one connection a request, one thread a connection.

use crate::commit::{Freezes, commit};
use crate::failure::chain_of;
use crate::files::Job;
use crate::group::HostGroup;
use crate::guest::{Guest, GuestError, ORDINARY};
use crate::link::Link;
use crate::live_disk::LiveDisk;
use crate::log::Log;
use crate::machine::{self, Machine};
use crate::machine_exec;
use crate::machine_freeze::MachineFreeze;
use crate::nics::{self, Nics, Rewired};
use crate::phase::Progress;
use crate::streams::{AtEnd, Client, Fanout, copy_input, copy_typing, forward_output};
use ireko_protocol::agent::{
    DiskSerial, ExitStatus, FailureKind, ProcessId, Reply, RequestBody, Spawn,
};
use ireko_protocol::frame::Frame;
use ireko_protocol::plan::{VmPlan, Work};
use ireko_protocol::shim::{
    self, Answer, Envelope, Phase, Request, STDERR, STDIN, STDOUT, Versioned, Wiring,
};
use ireko_vm::Control;
use parking_lot::Mutex;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, OnceLock};
use std::thread;

/// A killed process's status, for execs that lose their guest.
const KILLED: ExitStatus = ExitStatus::Signal(KILL);
const KILL: i32 = 9;

/// All that a request may touch.
pub struct Shared {
    /// How far the VM got.
    pub progress: Progress,
    /// Output of the container's process, or of the machine's serial line.
    pub fanout: Arc<Fanout>,
    /// The VM, while QEMU runs.
    pub vm: Mutex<Option<Control>>,
    /// The host's control group that QEMU runs in.
    pub group: HostGroup,
    /// Its network devices, once QEMU runs.
    pub nics: Mutex<Option<Nics>>,
    /// Who can be asked in it.
    pub inside: Inside,
    /// The disks while the VM has them, the root disk first.
    pub disks: Mutex<Vec<(DiskSerial, Arc<LiveDisk>)>>,
    /// Whether what the guest wrote last need not be on the disks any more; held by a commit.
    disks_given_up: Mutex<bool>,
    /// The terminal's size: asked for before the process runs, it is what it starts with.
    pub terminal: Mutex<Option<(u16, u16)>>,
    /// Whether the container's process reads standard input.
    pub takes_stdin: bool,
}

impl Shared {
    /// What the shim of this plan begins with.
    ///
    /// # Errors
    /// Its log cannot be opened.
    pub fn of(plan: &VmPlan) -> io::Result<Arc<Self>> {
        let (log, takes_stdin, tty) = match &plan.work {
            Work::Container { process, log } => (log.as_deref(), process.stdin, process.tty),
            Work::Machine { log, .. } => (log.as_deref(), true, None),
            Work::ApplyTar { .. }
            | Work::Generalize
            | Work::Prepare
            | Work::Files
            | Work::Spare { .. } => (None, false, None),
        };
        Ok(Arc::new(Self {
            progress: Progress::new(),
            fanout: Fanout::new(Log::open(log, plan.log_limit)?),
            vm: Mutex::new(None),
            group: HostGroup::of(plan),
            nics: Mutex::new(None),
            inside: match &plan.work {
                Work::Machine { .. } => Inside::Machine(OnceLock::new()),
                _ => Inside::Agent(OnceLock::new()),
            },
            disks: Mutex::default(),
            disks_given_up: Mutex::new(false),
            terminal: Mutex::new(tty),
            takes_stdin,
        }))
    }

    /// Allows no more commits; `false` where one is at work.
    pub fn give_up_disks(&self) -> bool {
        self.disks_given_up.try_lock().map(|mut given_up| *given_up = true).is_some()
    }
}

/// Who can be asked in a VM.
pub enum Inside {
    /// Our agent, once it answers.
    Agent(OnceLock<Arc<Guest>>),
    /// Nobody: the operating system is its owner's. The machine, once it can run.
    Machine(OnceLock<Arc<Machine>>),
}

/// Accepts connections for as long as the process lives.
pub fn serve(listener: UnixListener, shared: Arc<Shared>) -> io::Result<()> {
    let accept = move || {
        for socket in listener.incoming() {
            let shared = Arc::clone(&shared);
            let result = socket.and_then(|socket| {
                thread::Builder::new().name("request".into()).spawn(move || {
                    if let Err(error) = answer_connection(&shared, socket) {
                        tracing::debug!(%error, "a connection of the engine broke");
                    }
                })
            });
            if let Err(error) = result {
                tracing::error!(%error, "cannot take a connection of the engine");
            }
        }
    };
    thread::Builder::new().name("control".into()).spawn(accept)?;
    Ok(())
}

/// What a connection carries after its answer, undone when it closes.
enum Carried {
    Nothing,
    Attached(Arc<Client>),
    Files(Arc<Job>),
    Held,
}

fn answer_connection(shared: &Arc<Shared>, socket: UnixStream) -> io::Result<()> {
    let reader = socket.try_clone()?;
    let link = Link::new(socket)?;
    let mut carried = None;
    let result = link.read_frames(reader, |frame| {
        if carried.is_some() {
            return Err(io::Error::other("a second request on one connection"));
        }
        carried = Some(answer(shared, &link, &frame)?);
        Ok(())
    });
    match carried {
        Some(Carried::Attached(client)) => shared.fanout.detach(&client),
        Some(Carried::Files(job)) => job.abandon(),
        Some(Carried::Held) => shared.progress.release(),
        Some(Carried::Nothing) | None => {}
    }
    result
}

fn answer(shared: &Arc<Shared>, link: &Arc<Link>, frame: &Frame) -> io::Result<Carried> {
    let _open = shared.progress.open_request();
    let request = match understood(frame)? {
        Ok(request) => request,
        Err(answer) => return link.send_message(&answer).map(|()| Carried::Nothing),
    };
    match request {
        Request::Attach { stdin, stdin_once, stdout, stderr } => {
            let client = Arc::new(Client { link: Arc::clone(link), stdout, stderr });
            let at_end = if stdin_once { AtEnd::Close } else { AtEnd::KeepOpen };
            attach(shared, client, stdin.then_some(at_end))
        }
        Request::Exec { process } => {
            exec(shared, link, *process)?;
            Ok(Carried::Nothing)
        }
        Request::Files { job } => match guest_for_files(shared) {
            Ok(guest) => Job::begin(shared, &guest, link, job).map(Carried::Files),
            Err(answer) => link.send_message(&answer).map(|()| Carried::Nothing),
        },
        Request::Hold => {
            shared.progress.hold();
            let answer = match shared.progress.request_start() {
                Ok(_) => Answer::Done,
                Err(failure) => failed(failure.kind, failure.message),
            };
            link.send_message(&answer).inspect_err(|_| shared.progress.release())?;
            Ok(Carried::Held)
        }
        other => {
            link.send_message(&simple(shared, other).unwrap_or_else(|failure| failure))?;
            Ok(Carried::Nothing)
        }
    }
}

/// What is asked, or the answer to a daemon of a release too different from this one. Errors where nobody
/// of ours can have sent it.
fn understood(frame: &Frame) -> io::Result<Result<Request, Answer>> {
    let Versioned { version } = frame.parse().map_err(io::Error::other)?;
    if version != shim::VERSION {
        let own = shim::VERSION;
        let message = format!(
            "this container's shim speaks version {own}, the daemon {version}; restart the container"
        );
        return Ok(Err(failed(FailureKind::Other, message)));
    }
    Ok(frame.parse().map(|Envelope { request, .. }| request).map_err(|error| {
        let message = format!(
            "this container's shim is of another release than the daemon and does not know what is asked \
             ({error}); restart the container"
        );
        failed(FailureKind::Other, message)
    }))
}

/// The requests that are one answer. `Err` is an answer as well.
fn simple(shared: &Arc<Shared>, request: Request) -> Result<Answer, Answer> {
    match request {
        Request::Status => Ok(Answer::Status(shared.progress.status())),
        Request::Start => match shared.progress.request_start() {
            Ok(started_at) => Ok(Answer::Started { started_at }),
            Err(failure) => Err(failed(failure.kind, failure.message)),
        },
        Request::PowerOff => power_off(shared),
        Request::Wait => Ok(Answer::Ended(shared.progress.await_end())),
        Request::Rewire(wiring) => rewire(shared, *wiring),
        Request::Commit(request) => {
            let given_up = shared.disks_given_up.lock();
            if *given_up {
                return Err(not_running());
            }
            let machines;
            let guest: &dyn Freezes = match inside(shared)? {
                Runs::Agent(guest) => &**guest,
                Runs::Machine(machine) => {
                    let is_paused = shared.progress.status().phase == Phase::Paused;
                    machines = MachineFreeze::new(machine, is_paused);
                    &machines
                }
            };
            let disks = shared.disks.lock().clone();
            if disks.is_empty() {
                return Err(not_running());
            }
            commit(&disks, guest, request)
                .map(Answer::Committed)
                .map_err(|error| failed(FailureKind::Other, chain_of(&error)))
        }
        request => match &shared.inside {
            Inside::Agent(_) => ask_agent(shared, request),
            Inside::Machine(_) => running_machine(shared)?.answer(shared, &request),
        },
    }
}

fn rewire(shared: &Shared, wiring: Wiring) -> Result<Answer, Answer> {
    let refused = |error| failed(FailureKind::Other, chain_of(&error));
    let runs = inside(shared)?;
    let mut devices = shared.nics.lock();
    let vm = shared.vm.lock().clone();
    let (Some(vm), Some(devices)) = (vm.as_ref(), devices.as_mut()) else {
        return Err(not_running());
    };
    let Rewired::Changed { moved } = devices.rewire(vm, &wiring).map_err(refused)? else {
        return Ok(Answer::Done);
    };
    let Wiring { interfaces, files, .. } = wiring;
    match runs {
        Runs::Agent(guest) => {
            guest.order(RequestBody::Rewire { interfaces, files }).map_err(guest_failed)?;
        }
        Runs::Machine(_) => nics::flap(vm, &moved).map_err(refused)?,
    }
    Ok(Answer::Done)
}

/// The requests that the agent fulfils.
fn ask_agent(shared: &Shared, request: Request) -> Result<Answer, Answer> {
    match request {
        Request::Resize { process, rows, columns } => resize(shared, process, rows, columns),
        Request::Signal { signal } => {
            order(shared, RequestBody::Signal { process: ProcessId::INIT, signal })
        }
        Request::Kill { process } => order(shared, RequestBody::Signal { process, signal: KILL }),
        Request::Pause => {
            let answer = order(shared, RequestBody::Pause)?;
            shared.progress.enter(Phase::Paused);
            Ok(answer)
        }
        Request::Unpause => {
            let answer = order(shared, RequestBody::Unpause)?;
            shared.progress.enter(Phase::Running);
            Ok(answer)
        }
        Request::Limit(shares) => {
            let answer = order(shared, RequestBody::Limit(shares))?;
            let limited = shared.group.limit_cpu(&shares);
            limited.map_err(|error| failed(FailureKind::Other, chain_of(&error)))?;
            Ok(answer)
        }
        Request::Usage => match running_guest(shared)?.call(RequestBody::Usage, ORDINARY) {
            Ok(Reply::Usage(usage)) => Ok(Answer::Usage(usage)),
            Ok(_) => Err(guest_failed(GuestError::Confused)),
            Err(error) => Err(guest_failed(error)),
        },
        Request::ListProcesses => {
            match running_guest(shared)?.call(RequestBody::ListProcesses, ORDINARY) {
                Ok(Reply::Processes { processes }) => Ok(Answer::Processes { processes }),
                Ok(_) => Err(guest_failed(GuestError::Confused)),
                Err(error) => Err(guest_failed(error)),
            }
        }
        _ => Err(failed(FailureKind::Other, "this is no request to the guest".into())),
    }
}

fn order(shared: &Shared, body: RequestBody) -> Result<Answer, Answer> {
    running_guest(shared)?.order(body).map(|()| Answer::Done).map_err(guest_failed)
}

fn resize(shared: &Shared, process: ProcessId, rows: u16, columns: u16) -> Result<Answer, Answer> {
    if process == ProcessId::INIT {
        *shared.terminal.lock() = Some((rows, columns));
        if matches!(shared.progress.status().phase, Phase::Booting | Phase::Ready) {
            return Ok(Answer::Done);
        }
    }
    order(shared, RequestBody::Resize { process, rows, columns })
}

fn power_off(shared: &Shared) -> Result<Answer, Answer> {
    shared.progress.request_power_off();
    let vm = shared.vm.lock().clone();
    match vm {
        None => Ok(Answer::Done),
        Some(vm) => vm
            .power_off_now()
            .map(|()| Answer::Done)
            .map_err(|error| failed(FailureKind::Other, chain_of(&error))),
    }
}

fn attach(shared: &Arc<Shared>, client: Arc<Client>, stdin: Option<AtEnd>) -> io::Result<Carried> {
    let input = client.link.open_stream(STDIN);
    shared.fanout.attach(Arc::clone(&client), |link| link.send_message(&Answer::Attached))?;
    if let (Some(at_end), true) = (stdin, shared.takes_stdin) {
        let shared = Arc::clone(shared);
        thread::Builder::new().name("input".into()).spawn(move || {
            // Input may come long before whoever reads it.
            if !shared.progress.await_running() {
                return;
            }
            match &shared.inside {
                Inside::Agent(guest) => {
                    if let Some(guest) = guest.get() {
                        copy_input(input, guest, ProcessId::INIT, at_end);
                    }
                }
                Inside::Machine(machine) => {
                    if let Some(machine) = machine.get() {
                        copy_typing(input, |bytes| machine.console.write(bytes));
                    }
                }
            }
        })?;
    }
    Ok(Carried::Attached(client))
}

fn exec(shared: &Arc<Shared>, link: &Arc<Link>, mut spawn: Spawn) -> io::Result<()> {
    let guest = match inside(shared) {
        Ok(Runs::Agent(guest)) => Arc::clone(guest),
        Ok(Runs::Machine(machine)) => match machine.agents.ours(ORDINARY) {
            Some(Ok(guest)) => guest,
            Some(Err(error)) => return link.send_message(&machine::agent_failed(&error)),
            None => return machine_exec::exec(shared, machine, link, &spawn),
        },
        Err(answer) => return link.send_message(&answer),
    };
    let input = spawn.stdin.then(|| link.open_stream(STDIN));
    let process = guest.new_process();
    spawn.process = process;
    let (pid, output) = match guest.spawn(spawn) {
        Ok(spawned) => spawned,
        Err(error) => return link.send_message(&guest_failed(error)),
    };
    link.send_message(&Answer::ExecStarted { process, pid })?;
    let mut pumps = vec![forward_output(output.stdout, Arc::clone(link), STDOUT)?];
    if let Some(stderr) = output.stderr {
        pumps.push(forward_output(stderr, Arc::clone(link), STDERR)?);
    }
    if let Some(input) = input {
        let guest = Arc::clone(&guest);
        thread::Builder::new()
            .name("exec input".into())
            .spawn(move || copy_input(input, &guest, process, AtEnd::Close))?;
    }
    let (shared, link) = (Arc::clone(shared), Arc::clone(link));
    thread::Builder::new().name("exec".into()).spawn(move || {
        let _open = shared.progress.open_request();
        let status = guest.await_exit(process).unwrap_or(KILLED);
        for pump in pumps {
            // A pump that panicked has said so; the exit status still goes out.
            let _ = pump.join();
        }
        // The client may be gone; nobody else wants the status.
        let _ = link.send_message(&Answer::Exited { status });
        link.close();
    })?;
    Ok(())
}

/// What runs in a VM whose work goes on.
enum Runs<'a> {
    Agent(&'a Arc<Guest>),
    Machine(&'a Arc<Machine>),
}

fn inside(shared: &Shared) -> Result<Runs<'_>, Answer> {
    let found = match (shared.progress.status().phase, &shared.inside) {
        (Phase::Booting | Phase::Ready | Phase::Ended, _) => None,
        (_, Inside::Agent(guest)) => guest.get().map(Runs::Agent),
        (_, Inside::Machine(machine)) => machine.get().map(Runs::Machine),
    };
    found.ok_or_else(not_running)
}

fn guest_for_files(shared: &Shared) -> Result<Arc<Guest>, Answer> {
    match inside(shared)? {
        Runs::Agent(guest) => Ok(Arc::clone(guest)),
        Runs::Machine(machine) => machine.for_files(),
    }
}

fn running_guest(shared: &Shared) -> Result<&Arc<Guest>, Answer> {
    match inside(shared)? {
        Runs::Agent(guest) => Ok(guest),
        Runs::Machine(_) => Err(machine::nobody_to_ask()),
    }
}

fn running_machine(shared: &Shared) -> Result<&Arc<Machine>, Answer> {
    match inside(shared)? {
        Runs::Machine(machine) => Ok(machine),
        Runs::Agent(_) => Err(not_running()),
    }
}

fn not_running() -> Answer {
    failed(FailureKind::NoSuch, "the container is not running".into())
}

/// The answer to what the guest did not do.
pub fn guest_failed(error: GuestError) -> Answer {
    match error {
        GuestError::Failed { kind, message } => failed(kind, message),
        other => failed(FailureKind::Other, chain_of(&other)),
    }
}

/// The answer to what was not done.
pub fn failed(kind: FailureKind, message: String) -> Answer {
    Answer::Failed { kind, message }
}
