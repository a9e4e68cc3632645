//! The agent's main loop: one thread that owns the port and every process.
//!
//! Requests that may wait for the disk or for other processes run on threads of their own and
//! report an [`Outcome`]; everything else is answered at once. So no stream, and no request, can
//! hold another up.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use ireko_protocol::agent::{
    FailureKind, GuestMessage, Numbered, ProcessId, Reply, Request, RequestBody, Spawn, Stdio,
    VERSION, owner_of,
};
use ireko_protocol::files::FileJob;
use ireko_protocol::frame::{Frame, FrameError, FrameKind};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::addresses::addresses;
use crate::apply_tar;
use crate::configure::{Machine, configure};
use crate::failure::{During, Failure, Result};
use crate::files::{self, Scene};
use crate::freeze::{Freezer, mounted_disks};
use crate::generalize::{Generalized, generalize_disk};
use crate::install::prepare_disk;
use crate::port::{Event, Port};
use crate::process::{Part, Process};
use crate::rehearse::rehearse;
use crate::spawn::{self, Child, Target};
use crate::thaw_guard::ThawGuard;
use crate::{clock, kmsg, network, power_off, processes, usage, view};

/// What the agent is in its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its first process: the machine is ours.
    Init,
    /// A service of a system that is somebody's own.
    Service,
}

/// Serves the host until it powers the machine off; returns only where waiting itself fails.
pub fn serve(port: Port, role: Role) -> Result<()> {
    Agent::new(port, role)?.run()
}

struct Agent {
    port: Port,
    role: Role,
    reporter: Reporter,
    outcomes: Receiver<Outcome>,
    machine: Option<Arc<Machine>>,
    freezer: Arc<Freezer>,
    processes: BTreeMap<ProcessId, Process>,
    /// The container's first process was asked for; it gets no second.
    first_asked: bool,
}

/// What a thread reports.
enum Outcome {
    Replied { request: u64, reply: Reply },
    Started { request: u64, process: ProcessId, result: Result<Child> },
    Worked { request: u64, process: ProcessId, reply: Reply },
}

/// The file system that is held still last.
enum Top {
    Disk(Arc<Machine>),
    System,
}

impl Top {
    fn open(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match self {
            Self::Disk(machine) => machine.disk.try_clone().during(|| "hold the root disk"),
            Self::System => {
                rustix::fs::open("/", flags, Mode::empty()).during(|| "hold the root file system")
            }
        }
    }
}

/// Hands outcomes to the main loop and wakes it.
#[derive(Clone)]
struct Reporter {
    outcomes: Sender<Outcome>,
    wake: Arc<OwnedFd>,
}

impl Reporter {
    fn report(&self, outcome: Outcome) {
        // The main loop lives as long as the machine.
        let _ = self.outcomes.send(outcome);
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

#[derive(Clone, Copy)]
enum Token {
    Wake,
    Port,
    Process(ProcessId, Part),
}

impl Agent {
    fn new(port: Port, role: Role) -> Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .during(|| "make an event counter")?;
        let (sender, outcomes) = channel();
        Ok(Self {
            port,
            role,
            reporter: Reporter { outcomes: sender, wake: Arc::new(wake) },
            outcomes,
            machine: None,
            freezer: Arc::default(),
            processes: BTreeMap::new(),
            first_asked: false,
        })
    }

    fn run(mut self) -> Result<()> {
        loop {
            for token in self.wait()? {
                match token {
                    Token::Wake => self.take_outcomes(),
                    Token::Port => self.turn_port(),
                    Token::Process(id, part) => {
                        let room = self.port.has_room() || !matches!(part, Part::Output(_));
                        if let Some(process) = self.processes.get_mut(&id).filter(|_| room) {
                            process.advance(part, &mut self.port);
                        }
                    }
                }
            }
            self.bury();
        }
    }

    /// Waits until something can be done.
    fn wait(&self) -> Result<Vec<Token>> {
        let (port, port_flags) = self.port.interest();
        let mut tokens = vec![Token::Wake, Token::Port];
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.reporter.wake.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(port, port_flags),
        ];
        let room = self.port.has_room();
        for (id, process) in &self.processes {
            for (part, fd, flags) in process.interests(room) {
                tokens.push(Token::Process(*id, part));
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(cause) => return Err(Failure::of("wait for events", cause)),
        }
        let ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok(tokens
            .into_iter()
            .zip(ready)
            .filter_map(|(token, ready)| ready.then_some(token))
            .collect())
    }

    fn turn_port(&mut self) {
        let mut events = Vec::new();
        self.port.turn(&mut events);
        for event in events {
            match event {
                Event::NewSession => self.greet(),
                Event::Frame(frame) => self.take_frame(frame),
            }
        }
    }

    fn greet(&mut self) {
        for process in self.processes.values_mut() {
            match self.role {
                Role::Init => process.renew(),
                Role::Service => process.abandon(),
            }
        }
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        if let Ok(frame) = Frame::message(&GuestMessage::Hello { version: VERSION, kernel }) {
            self.port.send_first(&frame);
        }
    }

    fn take_frame(&mut self, frame: Frame) {
        if frame.kind == FrameKind::Message {
            match frame.parse::<Request>() {
                Ok(request) => self.take_request(request),
                Err(cause) => self.take_unknown(&frame, &cause),
            }
            return;
        }
        // Frames about a process that is gone may still be on their way.
        let Some((id, stdio)) = owner_of(frame.stream) else { return };
        let Some(process) = self.processes.get_mut(&id) else { return };
        match (frame.kind, stdio) {
            (FrameKind::Data, Stdio::Stdin) => process.input(&frame.payload, &mut self.port),
            (FrameKind::Eof, Stdio::Stdin) => process.end_input(),
            (FrameKind::Credit, stdio) => {
                process.grant(stdio, frame.credit_bytes().unwrap_or_default());
            }
            _ => {}
        }
    }

    /// A host may be newer than an agent on a disk is, and must not wait in vain.
    fn take_unknown(&mut self, frame: &Frame, cause: &FrameError) {
        kmsg::warn(format_args!("a request is not understood: {cause}"));
        if let Ok(Numbered { id }) = frame.parse() {
            let message = "the agent in this machine is older, and does not understand this";
            self.reply(id, Failure::new(FailureKind::BadInput, message).into());
        }
    }

    fn take_request(&mut self, Request { id, body }: Request) {
        match self.answer(id, body) {
            Ok(Some(reply)) => self.reply(id, reply),
            Ok(None) => {}
            Err(failure) => self.reply(id, failure.into()),
        }
    }

    /// Answers at once, or `None` where a thread will.
    fn answer(&mut self, id: u64, body: RequestBody) -> Result<Option<Reply>> {
        self.check_role(&body)?;
        match body {
            RequestBody::Configure(wanted) => {
                if self.machine.is_some() {
                    return Err(Failure::new(FailureKind::BadInput, "the machine is configured"));
                }
                self.machine = Some(Arc::new(configure(*wanted)?));
            }
            RequestBody::Rehearse(wanted) => {
                if self.machine.is_some() {
                    return Err(Failure::new(FailureKind::BadInput, "the machine is configured"));
                }
                self.work(id, move || rehearse(*wanted).map(|()| Reply::Done));
                return Ok(None);
            }
            RequestBody::Spawn(wanted) => {
                self.spawn(id, *wanted)?;
                return Ok(None);
            }
            RequestBody::Signal { process, signal } => {
                if !(1..=64).contains(&signal) {
                    let message = format!("{signal} is no signal");
                    return Err(Failure::new(FailureKind::BadInput, message));
                }
                self.process_mut(process)?.signal(signal)?;
            }
            RequestBody::Resize { process, rows, columns } => {
                self.process_mut(process)?.resize((rows, columns))?;
            }
            RequestBody::Pause => self.machine()?.workload.set_frozen(true)?,
            RequestBody::Unpause => self.machine()?.workload.set_frozen(false)?,
            RequestBody::Limit(shares) => self.machine()?.workload.limit(&shares)?,
            RequestBody::ListProcesses => {
                self.work(id, || Ok(Reply::Processes { processes: processes::list()? }));
                return Ok(None);
            }
            RequestBody::Usage => return Ok(Some(Reply::Usage(usage::usage()))),
            RequestBody::Freeze => {
                self.freeze(id)?;
                return Ok(None);
            }
            RequestBody::Thaw => {
                let freezer = Arc::clone(&self.freezer);
                self.work(id, move || Ok(Reply::Thawed { was_frozen: freezer.thaw()? }));
                return Ok(None);
            }
            RequestBody::Rewire { interfaces, files } => {
                let machine = self.machine()?;
                self.work(id, move || {
                    network::bring_all_up(&interfaces)?;
                    view::rewrite(&machine, &files)?;
                    Ok(Reply::Done)
                });
                return Ok(None);
            }
            RequestBody::ApplyTar { disk } => {
                let machine = self.machine()?;
                self.work(id, move || {
                    let applied = apply_tar::apply_disk(&disk, &machine.disk)?;
                    Ok(Reply::Applied { entries: applied.entries, bytes: applied.bytes })
                });
                return Ok(None);
            }
            RequestBody::Generalize { disk } => {
                if self.machine.is_some() {
                    return Err(Failure::new(FailureKind::BadInput, "the machine is configured"));
                }
                self.work(id, move || {
                    let Generalized { system, changed } = generalize_disk(&disk)?;
                    Ok(Reply::Generalized { system, changed })
                });
                return Ok(None);
            }
            RequestBody::Prepare { disk } => {
                if self.machine.is_some() {
                    return Err(Failure::new(FailureKind::BadInput, "the machine is configured"));
                }
                self.work(id, move || Ok(Reply::Prepared { system: prepare_disk(&disk)? }));
                return Ok(None);
            }
            RequestBody::Ping => {}
            RequestBody::Hail => {
                self.greet();
                return Ok(None);
            }
            RequestBody::SetClock { unix_nanos } => clock::set(unix_nanos)?,
            RequestBody::Addresses => {
                self.work(id, || Ok(Reply::Addresses { interfaces: addresses()? }));
                return Ok(None);
            }
            RequestBody::ShutDown => {
                let freezer = Arc::clone(&self.freezer);
                self.work(id, move || {
                    // What is frozen could not be written out.
                    let _ = freezer.thaw();
                    power_off::shut_down().map(|()| Reply::Done)
                });
                return Ok(None);
            }
            RequestBody::ReadClock => return Ok(Some(Reply::Clock { unix_nanos: clock::read() })),
            RequestBody::MoveClock { nanos } => clock::shift(nanos)?,
            RequestBody::Files { process, job } => {
                self.work_on_files(id, process, job)?;
                return Ok(None);
            }
            RequestBody::PowerOff => {
                // What is frozen could not be written out.
                let _ = self.freezer.thaw();
                power_off::power_off()
            }
        }
        Ok(Some(Reply::Done))
    }

    /// Refuses what is for an agent in the other role.
    fn check_role(&self, body: &RequestBody) -> Result<()> {
        let is_for_all = matches!(
            body,
            RequestBody::Spawn(_)
                | RequestBody::Signal { .. }
                | RequestBody::Resize { .. }
                | RequestBody::Freeze
                | RequestBody::Thaw
                | RequestBody::Files { .. }
                | RequestBody::Ping
        );
        let is_for_service = matches!(
            body,
            RequestBody::Hail
                | RequestBody::SetClock { .. }
                | RequestBody::Addresses
                | RequestBody::ShutDown
        );
        match is_for_all || is_for_service == (self.role == Role::Service) {
            true => Ok(()),
            false => {
                let message = "the agent in this machine is not in the place to do this";
                Err(Failure::new(FailureKind::BadInput, message))
            }
        }
    }

    fn machine(&self) -> Result<Arc<Machine>> {
        self.machine
            .clone()
            .ok_or_else(|| Failure::new(FailureKind::BadInput, "the machine is not configured yet"))
    }

    fn process_mut(&mut self, id: ProcessId) -> Result<&mut Process> {
        self.processes.get_mut(&id).ok_or_else(|| {
            Failure::new(FailureKind::NoSuch, format!("process {} is not running", id.0))
        })
    }

    fn spawn(&mut self, request: u64, wanted: Spawn) -> Result<()> {
        let id = wanted.process;
        if self.processes.contains_key(&id) || (id == ProcessId::INIT && self.first_asked) {
            let message = format!("process {} was started before", id.0);
            return Err(Failure::new(FailureKind::BadInput, message));
        }
        let target = match self.role {
            Role::Service => Target::System,
            Role::Init if id == ProcessId::INIT => {
                let machine = self.machine()?;
                self.first_asked = true;
                Target::First(machine)
            }
            Role::Init => {
                let machine = self.machine()?;
                let first = self.processes.get(&ProcessId::INIT).and_then(Process::running);
                let gone = || Failure::new(FailureKind::NoSuch, "the container is not running");
                let (pidfd, pid) = first.ok_or_else(gone)?;
                Target::Beside { machine, pidfd: Arc::clone(pidfd), pid }
            }
        };
        self.processes.insert(id, Process::starting(id, wanted.stdin));
        let reporter = self.reporter.clone();
        in_thread(move || {
            let result = guarded(|| spawn::spawn(&wanted, &target));
            reporter.report(Outcome::Started { request, process: id, result });
        })
        .inspect_err(|_| {
            self.processes.remove(&id);
        })
    }

    fn work_on_files(&mut self, request: u64, id: ProcessId, job: FileJob) -> Result<()> {
        let scene = match self.role {
            Role::Init => {
                let first = self.processes.get(&ProcessId::INIT).and_then(Process::running);
                Scene::Container { machine: self.machine()?, first: first.map(|(_, pid)| pid) }
            }
            Role::Service => Scene::System,
        };
        if id == ProcessId::INIT || self.processes.contains_key(&id) {
            let message = format!("process {} is another one", id.0);
            return Err(Failure::new(FailureKind::BadInput, message));
        }
        let (input, stdin) = pipe_with(PipeFlags::CLOEXEC).during(|| "make a pipe")?;
        let (stdout, output) = pipe_with(PipeFlags::CLOEXEC).during(|| "make a pipe")?;
        for end in [&stdin, &stdout] {
            fcntl_setfl(end, OFlags::NONBLOCK).during(|| "prepare a pipe")?;
        }
        let reporter = self.reporter.clone();
        in_thread(move || {
            let pipes = files::Pipes { input, output };
            let done = guarded(|| files::work(&scene, job, pipes));
            let reply = done.map_or_else(Reply::from, Reply::Files);
            reporter.report(Outcome::Worked { request, process: id, reply });
        })?;
        let mut process = Process::starting(id, true);
        process.attach_work(stdin, stdout);
        self.processes.insert(id, process);
        Ok(())
    }

    fn freeze(&self, request: u64) -> Result<()> {
        let freezer = Arc::clone(&self.freezer);
        // Nobody in a container can end its machine's first process.
        let needs_guard = self.role == Role::Service;
        let (top, beside) = match self.role {
            Role::Init => {
                let first = self.processes.get(&ProcessId::INIT).and_then(Process::running);
                (Top::Disk(self.machine()?), first.map(|(_, pid)| pid))
            }
            Role::Service => (Top::System, Some(std::process::id())),
        };
        let reporter = self.reporter.clone();
        in_thread(move || {
            let frozen = guarded(|| {
                let root = top.open()?;
                let mut disks = beside.map(|pid| mounted_disks(pid, &root)).unwrap_or_default();
                disks.push(root);
                let guard = needs_guard.then(|| ThawGuard::over(&disks)).transpose()?;
                freezer.freeze(disks, guard)
            });
            let failed = frozen.is_err();
            let reply = frozen.map_or_else(Reply::from, |()| Reply::Done);
            reporter.report(Outcome::Replied { request, reply });
            if !failed {
                freezer.guard();
            }
        })
    }

    /// Runs a request on a thread of its own.
    fn work(&mut self, request: u64, job: impl FnOnce() -> Result<Reply> + Send + 'static) {
        let reporter = self.reporter.clone();
        let started = in_thread(move || {
            let reply = guarded(job).unwrap_or_else(Reply::from);
            reporter.report(Outcome::Replied { request, reply });
        });
        if let Err(failure) = started {
            self.reply(request, failure.into());
        }
    }

    fn take_outcomes(&mut self) {
        let _ = rustix::io::read(&*self.reporter.wake, &mut [0u8; 8]);
        while let Ok(outcome) = self.outcomes.try_recv() {
            match outcome {
                Outcome::Replied { request, reply } => self.reply(request, reply),
                Outcome::Started { request, process, result } => {
                    self.take_started(request, process, result);
                }
                Outcome::Worked { request, process, reply } => {
                    if let Some(process) = self.processes.get_mut(&process) {
                        process.end_work(GuestMessage::Reply { id: request, result: reply });
                    }
                }
            }
        }
    }

    fn take_started(&mut self, request: u64, id: ProcessId, result: Result<Child>) {
        match result {
            Ok(child) => {
                self.reply(request, Reply::Spawned { pid: child.container_pid });
                if let Some(process) = self.processes.get_mut(&id) {
                    process.attach(child, &mut self.port);
                }
            }
            Err(failure) => {
                self.processes.remove(&id);
                self.reply(request, failure.into());
            }
        }
    }

    /// Says that processes ended, once all their output was sent, and forgets them.
    fn bury(&mut self) {
        let port = &mut self.port;
        self.processes.retain(|_, process| match process.farewell() {
            Some(farewell) => {
                say(port, &farewell);
                false
            }
            None => true,
        });
    }

    fn reply(&mut self, id: u64, result: Reply) {
        say(&mut self.port, &GuestMessage::Reply { id, result });
    }
}

fn say(port: &mut Port, message: &GuestMessage) {
    match (Frame::message(message), message) {
        (Ok(frame), _) => port.send(&frame),
        (Err(cause), GuestMessage::Reply { id, .. }) => {
            let failure = Failure::new(FailureKind::Other, format!("write the answer: {cause}"));
            let reply = GuestMessage::Reply { id: *id, result: failure.into() };
            if let Ok(frame) = Frame::message(&reply) {
                port.send(&frame);
            }
        }
        (Err(cause), _) => kmsg::warn(format_args!("write a message: {cause}")),
    }
}

fn in_thread(job: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new().spawn(job).during(|| "start a thread").map(drop)
}

/// A fault of ours fails one request, not the machine.
fn guarded<T>(job: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(job))
        .unwrap_or_else(|_| Err(Failure::new(FailureKind::Other, "internal error of the agent")))
}
