//! The guest agent as the shim sees it: requests with a deadline, processes, their streams.
//!
//! The guest is untrusted. Replies to nothing we asked, exits of processes we did not start and
//! streams nobody opened are dropped; a broken frame ends the link, and with it the VM.

use crate::link::{InboundStream, Link};
use ireko_protocol::agent::{
    self, ExitStatus, FailureKind, GuestMessage, ProcessId, Reply, Request, RequestBody, Spawn,
    Stdio, stream_of,
};
use ireko_protocol::files::FileJob;
use ireko_protocol::frame::Frame;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long the guest may take over an ordinary request. Software emulation on a loaded host
/// needs seconds for a fork and exec that hardware does in a millisecond.
pub const ORDINARY: Duration = Duration::from_secs(60);

/// A request to the guest that was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The agent says why.
    #[error("{message}")]
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// The agent's sentence.
        message: String,
    },
    /// The channel is gone: the VM ended or broke the protocol.
    #[error("the guest is gone")]
    Gone,
    /// No answer in time.
    #[error("the guest did not answer within {} s", .0.as_secs())]
    Late(Duration),
    /// The agent speaks another version.
    #[error("the guest agent speaks version {theirs}, this shim {}", agent::VERSION)]
    Version {
        /// The agent's version.
        theirs: u32,
    },
    /// A reply that does not fit its request.
    #[error("the guest answered something else than was asked")]
    Confused,
    /// The request could not be sent.
    #[error("cannot send to the guest")]
    Io(#[from] io::Error),
}

/// The output of a process that was just started.
pub struct Output {
    /// Standard output, or all output of a terminal.
    pub stdout: InboundStream,
    /// Standard error; `None` with a terminal.
    pub stderr: Option<InboundStream>,
}

/// A request that is not answered yet.
#[must_use]
pub struct Asked(u64);

/// The connection to the guest agent.
pub struct Guest {
    link: Arc<Link>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    gone: bool,
    hello: Option<(u32, String)>,
    next_request: u64,
    replies: HashMap<u64, Option<Reply>>,
    next_process: u32,
    exits: HashMap<ProcessId, Option<ExitStatus>>,
}

impl Guest {
    /// Takes over the connected agent port and starts to listen.
    pub fn connect(socket: UnixStream) -> io::Result<Arc<Self>> {
        Self::listening(socket, State { next_process: ProcessId::INIT.0 + 1, ..State::default() })
    }

    /// The same where the agent is a service, which may remember an earlier host: it is hailed, and no
    /// number that is said to it, or by it, is one of before.
    pub fn connect_to_service(socket: UnixStream) -> io::Result<Arc<Self>> {
        let next_process = getrandom::u32()? % (ProcessId::MAX.0 / 2) + ProcessId::INIT.0 + 1;
        let next_request = u64::from(getrandom::u32()?) << 16;
        let guest =
            Self::listening(socket, State { next_process, next_request, ..State::default() })?;
        guest.link.send_message(&Request { id: 0, body: RequestBody::Hail })?;
        Ok(guest)
    }

    fn listening(socket: UnixStream, state: State) -> io::Result<Arc<Self>> {
        let reader = socket.try_clone()?;
        let guest = Arc::new(Self {
            link: Link::new(socket)?,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let listening = Arc::clone(&guest);
        thread::Builder::new().name("guest".into()).spawn(move || listening.listen(reader))?;
        Ok(guest)
    }

    /// Waits for the agent's greeting and checks its version; the guest kernel's release.
    pub fn await_hello(&self, limit: Duration) -> Result<String, GuestError> {
        let (version, kernel) = self.wait(limit, |state| state.hello.clone())?;
        match version {
            agent::VERSION => Ok(kernel),
            theirs => Err(GuestError::Version { theirs }),
        }
    }

    /// Nothing will come from it any more.
    pub fn is_gone(&self) -> bool {
        self.state.lock().gone
    }

    /// Nobody waits for an answer, or for the end of a process.
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.replies.is_empty() && state.exits.is_empty()
    }

    /// Asks and waits for the answer; a `Failed` answer is an error.
    pub fn call(&self, body: RequestBody, limit: Duration) -> Result<Reply, GuestError> {
        let request = self.ask(body)?;
        self.await_reply(request, limit)
    }

    /// Asks; the answer is for [`Guest::await_reply`] or [`Guest::await_work`].
    pub fn ask(&self, body: RequestBody) -> io::Result<Asked> {
        let id = {
            let mut state = self.state.lock();
            state.next_request += 1;
            let id = state.next_request;
            state.replies.insert(id, None);
            id
        };
        self.link.send_message(&Request { id, body }).inspect_err(|_| {
            self.state.lock().replies.remove(&id);
        })?;
        Ok(Asked(id))
    }

    /// Waits for the answer; a `Failed` answer is an error.
    pub fn await_reply(&self, Asked(id): Asked, limit: Duration) -> Result<Reply, GuestError> {
        let answer = self.reply_within(id, limit);
        self.settle(id, answer)
    }

    /// The same for work that takes long, up to `limit`, unless the agent shows no life meanwhile: after
    /// each `silence` it is asked for a sign, for which it has the time `life`.
    pub fn await_work(
        &self,
        Asked(id): Asked,
        limit: Duration,
        silence: Duration,
        life: Duration,
    ) -> Result<Reply, GuestError> {
        let deadline = Instant::now() + limit;
        let answer = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.reply_within(id, silence.min(left)) {
                Err(GuestError::Late(_)) if left <= silence => break Err(GuestError::Late(limit)),
                Err(GuestError::Late(_)) => {
                    if let Err(error) = self.check_life(life) {
                        break Err(error);
                    }
                }
                answer => break answer,
            }
        };
        self.settle(id, answer)
    }

    fn reply_within(&self, id: u64, limit: Duration) -> Result<Reply, GuestError> {
        self.wait(limit, |state| state.replies.get_mut(&id)?.take())
    }

    /// Nobody waits for this answer any more.
    fn settle(&self, id: u64, answer: Result<Reply, GuestError>) -> Result<Reply, GuestError> {
        self.state.lock().replies.remove(&id);
        match answer? {
            Reply::Failed { kind, message } => Err(GuestError::Failed { kind, message }),
            reply => Ok(reply),
        }
    }

    /// Asks for a sign of life.
    pub fn check_life(&self, limit: Duration) -> Result<(), GuestError> {
        match self.call(RequestBody::Ping, limit) {
            // One that does not know the question is there as well.
            Ok(_) | Err(GuestError::Failed { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Says something, without hearing what becomes of it.
    pub fn tell(&self, body: RequestBody) -> Result<(), GuestError> {
        Ok(self.link.send_message(&Request { id: 0, body })?)
    }

    /// Ends what is heard of a process's streams.
    pub fn stop_listening(&self, process: ProcessId) {
        self.link.close_stream(stream_of(process, Stdio::Stdout));
    }

    /// Asks for something whose only good answer is `Done`.
    pub fn order(&self, body: RequestBody) -> Result<(), GuestError> {
        match self.call(body, ORDINARY)? {
            Reply::Done => Ok(()),
            _ => Err(GuestError::Confused),
        }
    }

    /// Sends the request that has no answer; the caller watches the VM end.
    pub fn power_off(&self) -> Result<(), GuestError> {
        self.tell(RequestBody::PowerOff)
    }

    /// Ends the connection: every waiting call fails.
    pub fn hang_up(&self) {
        self.link.close();
    }

    /// Chooses an id for one more process.
    pub fn new_process(&self) -> ProcessId {
        let mut state = self.state.lock();
        let chosen = ProcessId(state.next_process);
        state.next_process = chosen.0 % ProcessId::MAX.0 + 1;
        chosen
    }

    /// Starts a process; its PID in the container and its output, from the first byte on.
    pub fn spawn(&self, spawn: Spawn) -> Result<(u32, Output), GuestError> {
        let process = spawn.process;
        let output = Output {
            stdout: self.link.open_stream(stream_of(process, Stdio::Stdout)),
            stderr: match spawn.tty {
                None => Some(self.link.open_stream(stream_of(process, Stdio::Stderr))),
                Some(_) => None,
            },
        };
        self.state.lock().exits.insert(process, None);
        match self.call(RequestBody::Spawn(Box::new(spawn)), ORDINARY) {
            Ok(Reply::Spawned { pid }) => Ok((pid, output)),
            other => {
                self.state.lock().exits.remove(&process);
                Err(other.err().unwrap_or(GuestError::Confused))
            }
        }
    }

    /// Begins work with files, under the id of a process; what it writes, from the first byte on.
    pub fn begin_files(
        &self,
        process: ProcessId,
        job: FileJob,
    ) -> io::Result<(InboundStream, Asked)> {
        let output = self.link.open_stream(stream_of(process, Stdio::Stdout));
        Ok((output, self.ask(RequestBody::Files { process, job })?))
    }

    /// Waits for a process to end; `None` where the guest went first.
    pub fn await_exit(&self, process: ProcessId) -> Option<ExitStatus> {
        let mut state = self.state.lock();
        loop {
            if let Some(status) = state.exits.get(&process).copied().flatten() {
                state.exits.remove(&process);
                return Some(status);
            }
            if state.gone {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Writes to a process's standard input, waiting as the process takes it.
    pub fn write_stdin(&self, process: ProcessId, bytes: &[u8]) -> io::Result<()> {
        self.link.send(stream_of(process, Stdio::Stdin), bytes)
    }

    /// Ends a process's standard input.
    pub fn close_stdin(&self, process: ProcessId) -> io::Result<()> {
        self.link.send_eof(stream_of(process, Stdio::Stdin))
    }

    fn wait<T>(
        &self,
        limit: Duration,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, GuestError> {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        loop {
            if let Some(value) = ready(&mut state) {
                return Ok(value);
            }
            if state.gone {
                return Err(GuestError::Gone);
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Err(GuestError::Late(limit));
            }
        }
    }

    fn listen(&self, reader: UnixStream) {
        let result = self.link.read_frames(reader, |frame| self.take_message(&frame));
        if let Err(error) = result {
            tracing::warn!(%error, "the guest's channel broke");
        }
        // A guest that broke a rule is not listened to any more, nor kept waiting.
        self.link.close();
        self.state.lock().gone = true;
        self.changed.notify_all();
    }

    fn take_message(&self, frame: &Frame) -> io::Result<()> {
        let message: GuestMessage = frame.parse().map_err(io::Error::other)?;
        let mut state = self.state.lock();
        match message {
            GuestMessage::Hello { version, mut kernel } => {
                kernel.truncate(kernel.floor_char_boundary(128));
                state.hello = Some((version, kernel));
            }
            GuestMessage::Reply { id, result } => {
                if let Some(slot) = state.replies.get_mut(&id) {
                    *slot = Some(result);
                }
            }
            GuestMessage::Exited { process, status } => {
                if let Some(slot) = state.exits.get_mut(&process) {
                    *slot = Some(status);
                }
            }
        }
        self.changed.notify_all();
        Ok(())
    }
}
