//! One process and its streams: bytes between its pipes or terminal and the port.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ireko_protocol::agent::{ExitStatus, GuestMessage, ProcessId, Stdio, stream_of};
use ireko_protocol::frame::{Frame, MAX_DATA};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};

use crate::failure::{During, Failure, Result};
use crate::port::Port;
use crate::spawn::{Child, Ends};
use crate::streams::{Inlet, Outlet};
use crate::tty;

/// A process the host asked for, from the request until its `Exited`.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    stdin: Option<Input>,
    outputs: Vec<Output>,
    state: State,
    /// Nobody asks for it any more.
    is_abandoned: bool,
}

#[derive(Debug)]
enum State {
    Starting,
    Running {
        pidfd: Arc<OwnedFd>,
        pid: u32,
        terminal: Option<Arc<OwnedFd>>,
    },
    /// It is no process but a thread of ours that works with files.
    Working,
    /// What is said last.
    Ended(GuestMessage),
}

#[derive(Debug, Default)]
struct Input {
    inlet: Inlet,
    sink: Sink,
}

#[derive(Debug, Default)]
enum Sink {
    /// The process is not there yet.
    #[default]
    Pending,
    Pipe(OwnedFd),
    /// The end of the input does not close a terminal.
    Terminal(Arc<OwnedFd>),
    /// Nobody reads any more: bytes are taken and dropped.
    Closed,
}

#[derive(Debug)]
struct Output {
    stdio: Stdio,
    outlet: Outlet,
    source: Arc<OwnedFd>,
}

/// One of the things of a process that can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its end.
    Life,
    /// Its stdin takes bytes.
    Input,
    /// One of its outputs has bytes.
    Output(Stdio),
}

impl Process {
    /// A process that is being started; bytes for its stdin may come already.
    pub fn starting(id: ProcessId, stdin: bool) -> Self {
        let stdin = stdin.then(Input::default);
        Self { id, stdin, outputs: Vec::new(), state: State::Starting, is_abandoned: false }
    }

    /// It was started.
    pub fn attach(&mut self, child: Child, port: &mut Port) {
        let terminal = self.join(child.ends);
        self.state = State::Running { pidfd: child.pidfd, pid: child.pid, terminal };
        match self.is_abandoned {
            true => self.abandon(),
            false => self.write_input(port),
        }
    }

    /// A thread works between these ends.
    pub fn attach_work(&mut self, stdin: OwnedFd, stdout: OwnedFd) {
        if let Some(input) = &mut self.stdin {
            input.sink = Sink::Pipe(stdin);
        }
        let source = Arc::new(stdout);
        self.outputs = vec![Output { stdio: Stdio::Stdout, outlet: Outlet::default(), source }];
        self.state = State::Working;
    }

    /// The thread ended; `farewell` goes out after its last byte.
    pub fn end_work(&mut self, farewell: GuestMessage) {
        self.end(farewell);
    }

    fn join(&mut self, ends: Ends) -> Option<Arc<OwnedFd>> {
        let mut terminal = None;
        let output = |stdio, source| Output { stdio, outlet: Outlet::default(), source };
        match ends {
            Ends::Pipes { stdin, stdout, stderr } => {
                if let (Some(input), Some(pipe)) = (&mut self.stdin, stdin) {
                    input.sink = Sink::Pipe(pipe);
                }
                self.outputs = vec![
                    output(Stdio::Stdout, Arc::new(stdout)),
                    output(Stdio::Stderr, Arc::new(stderr)),
                ];
            }
            Ends::Terminal(master) => {
                let master = Arc::new(master);
                if let Some(input) = &mut self.stdin {
                    input.sink = Sink::Terminal(Arc::clone(&master));
                }
                self.outputs = vec![output(Stdio::Stdout, Arc::clone(&master))];
                terminal = Some(master);
            }
        }
        terminal
    }

    /// Nobody reads or writes its streams any more: a terminal hangs up, pipes are closed. It runs on.
    pub fn abandon(&mut self) {
        self.is_abandoned = true;
        self.stdin = None;
        self.outputs.clear();
        if let State::Running { terminal, .. } = &mut self.state {
            *terminal = None;
        }
    }

    /// The handle and the PID in the agent's namespace, while it runs.
    pub fn running(&self) -> Option<(&Arc<OwnedFd>, u32)> {
        match &self.state {
            State::Running { pidfd, pid, .. } => Some((pidfd, *pid)),
            _ => None,
        }
    }

    /// What can be waited for now. `room`: the port takes more output.
    pub fn interests(&self, room: bool) -> impl Iterator<Item = (Part, BorrowedFd<'_>, PollFlags)> {
        let life = self.running().map(|(pidfd, _)| (Part::Life, pidfd.as_fd(), PollFlags::IN));
        let input = self.stdin.as_ref().filter(|input| !input.inlet.front().is_empty());
        let input =
            input.and_then(|input| input.sink.fd()).map(|fd| (Part::Input, fd, PollFlags::OUT));
        let outputs = self
            .outputs
            .iter()
            .filter(move |output| room && output.outlet.allowance() > 0)
            .map(|output| (Part::Output(output.stdio), output.source.as_fd(), PollFlags::IN));
        life.into_iter().chain(input).chain(outputs)
    }

    /// Does what the part is ready for.
    pub fn advance(&mut self, part: Part, port: &mut Port) {
        match part {
            Part::Life => self.collect(),
            Part::Input => self.write_input(port),
            Part::Output(stdio) => self.read_output(stdio, port),
        }
    }

    /// Bytes from the host for its stdin.
    pub fn input(&mut self, bytes: &[u8], port: &mut Port) {
        let Some(input) = &mut self.stdin else { return };
        if input.inlet.push(bytes).is_err() {
            // The host broke the rule of the window; what it sends can no longer be whole.
            input.sink = Sink::Closed;
        }
        self.write_input(port);
    }

    /// The host's input is over.
    pub fn end_input(&mut self) {
        if let Some(input) = &mut self.stdin {
            input.inlet.end();
        }
        self.close_finished_input();
    }

    /// The host took bytes of an output.
    pub fn grant(&mut self, stdio: Stdio, count: u32) {
        if let Some(output) = self.outputs.iter_mut().find(|output| output.stdio == stdio) {
            output.outlet.grant(count);
        }
    }

    /// A new host is at the other end.
    pub fn renew(&mut self) {
        if let Some(input) = &mut self.stdin {
            input.inlet.renew();
        }
        for output in &mut self.outputs {
            output.outlet.renew();
        }
    }

    /// Sends a signal: to its process group where it has a terminal. Work with files loses its streams,
    /// and fails by that.
    pub fn signal(&mut self, number: i32) -> Result<()> {
        if matches!(self.state, State::Working) {
            self.outputs.clear();
            self.close_input();
            return Ok(());
        }
        let State::Running { pidfd, pid, terminal } = &self.state else {
            return Err(self.not_running());
        };
        let what = || format!("send signal {number} to the process");
        if terminal.is_some() {
            // SAFETY: kill has no memory effects. The process is not reaped yet, so its number,
            // which is its group's, is still its own.
            return match unsafe { libc::kill(-(*pid as i32), number) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()).during(what),
            };
        }
        // SAFETY: the number was checked by the caller to be 1 to 64, real-time ones included; the
        // kernel refuses those it does not know.
        let signal = unsafe { Signal::from_raw_unchecked(number) };
        rustix::process::pidfd_send_signal(pidfd.as_fd(), signal).during(what)
    }

    /// Sets the size of its terminal (rows, columns); without one there is nothing to set.
    pub fn resize(&self, size: (u16, u16)) -> Result<()> {
        match &self.state {
            State::Running { terminal: Some(master), .. } => tty::resize(master, size),
            State::Running { terminal: None, .. } => Err(Failure::new(
                ireko_protocol::agent::FailureKind::BadInput,
                "the process has no terminal",
            )),
            _ => Err(self.not_running()),
        }
    }

    /// The last word about it, once it ended and all its output was sent.
    pub fn farewell(&self) -> Option<GuestMessage> {
        match &self.state {
            State::Ended(farewell) if self.outputs.is_empty() => Some(farewell.clone()),
            _ => None,
        }
    }

    fn not_running(&self) -> Failure {
        Failure::new(
            ireko_protocol::agent::FailureKind::NoSuch,
            format!("process {} is not running", self.id.0),
        )
    }

    fn collect(&mut self) {
        let State::Running { pidfd, .. } = &self.state else { return };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = match waitid(WaitId::PidFd(pidfd.as_fd()), options) {
            Ok(None) | Err(Errno::INTR) => return,
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitStatus::Code(code),
                (None, Some(signal)) => ExitStatus::Signal(signal),
                (None, None) => return,
            },
            // Somebody else reaped it; its fate is lost, its end is not.
            Err(_) => ExitStatus::Signal(libc::SIGKILL),
        };
        self.end(GuestMessage::Exited { process: self.id, status });
    }

    fn end(&mut self, farewell: GuestMessage) {
        self.state = State::Ended(farewell);
        self.close_input();
    }

    fn close_input(&mut self) {
        if let Some(input) = &mut self.stdin {
            input.sink = Sink::Closed;
            input.inlet.discard();
        }
    }

    fn write_input(&mut self, port: &mut Port) {
        let Some(input) = &mut self.stdin else { return };
        loop {
            let bytes = input.inlet.front();
            let Some(fd) = input.sink.fd().filter(|_| !bytes.is_empty()) else { break };
            match rustix::io::write(fd, bytes) {
                Ok(count) => input.inlet.consume(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // The reader is gone: to the host its bytes go the way they would in a shell.
                Err(_) => input.sink = Sink::Closed,
            }
        }
        if matches!(input.sink, Sink::Closed) {
            input.inlet.discard();
        }
        if let Some(count) = input.inlet.take_credit() {
            port.send(&Frame::credit(stream_of(self.id, Stdio::Stdin), count));
        }
        self.close_finished_input();
    }

    fn close_finished_input(&mut self) {
        if let Some(input) = &mut self.stdin
            && input.inlet.is_finished()
            && matches!(input.sink, Sink::Pipe(_))
        {
            input.sink = Sink::Closed;
        }
    }

    fn read_output(&mut self, stdio: Stdio, port: &mut Port) {
        let Some(index) = self.outputs.iter().position(|output| output.stdio == stdio) else {
            return;
        };
        let output = &mut self.outputs[index];
        let stream = stream_of(self.id, stdio);
        let is_terminal = matches!(&self.state, State::Running { terminal: Some(_), .. });
        let mut bytes = Vec::with_capacity(output.outlet.allowance().min(MAX_DATA));
        match rustix::io::read(&*output.source, spare_capacity(&mut bytes)) {
            Ok(1..) => {
                if is_terminal && bytes.last() != Some(&b'\n') {
                    read_line_end(&output.source, &mut bytes);
                }
                output.outlet.sent(bytes.len());
                port.send(&Frame::data(stream, bytes));
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal whose last user is gone answers EIO.
            Ok(0) | Err(_) => {
                self.outputs.remove(index);
                port.send(&Frame::eof(stream));
            }
        }
    }
}

/// The kernel hands a line that is written to a terminal and its end over apart, a moment after each other:
/// what was written at once goes to the host at once.
fn read_line_end(source: &OwnedFd, bytes: &mut Vec<u8>) {
    let mut ready = [PollFd::new(source, PollFlags::IN)];
    let moment = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
    if bytes.len() < bytes.capacity() && matches!(poll(&mut ready, Some(&moment)), Ok(1..)) {
        // Whatever is wrong shows again at the next read.
        let _ = rustix::io::read(source, spare_capacity(bytes));
    }
}

impl Sink {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Pipe(pipe) => Some(pipe.as_fd()),
            Self::Terminal(master) => Some(master.as_fd()),
            Self::Pending | Self::Closed => None,
        }
    }
}
