//! Reading one client's requests: every worker reads its own.
//!
//! ```text
//!            woken             a request            answered
//!   idle ───────────► reading ───────────► working ──────────► reading ───────────► idle
//!                               wakes the next                          nothing there
//! ```
//! No request is handed from thread to thread, and one request wakes one thread. The socket wakes one
//! idle worker when there is something to read and then nobody (epoll, one-shot), until that worker has
//! taken its request off the socket and arms it again: for the next request, or at once for the next worker.
//! A worker that has answered looks at the socket before it sleeps, and serves a busy client without
//! being woken.
//!
//! What a connection may hold is bounded by the number of its workers and by the bytes of data that they
//! have under way. A client that sends faster than the disk works waits in its socket.

use crate::budget::{Budget, Loan};
use crate::negotiation::violation;
use crate::replies::DataBuffer;
use crate::wire::{Command, MAX_PAYLOAD, REQUEST_SIZE, Request};
use parking_lot::Mutex;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// Bytes of one connection's reads and writes under way: twice the longest request's.
const BUDGET: usize = 2 * MAX_PAYLOAD as usize;

/// Wakes one worker when there is something to read, once.
const WAKES_ONE: EventFlags = EventFlags::IN.union(EventFlags::ONESHOT);

/// One client's requests, for several workers.
pub struct Intake<'a> {
    stream: &'a UnixStream,
    readable: OwnedFd,
    budget: Budget,
    turn: Mutex<Turn>,
}

/// Belongs to the worker that reads.
struct Turn {
    /// The socket wakes an idle worker, or has woken one that has not had its turn yet.
    armed: bool,
    /// Why there are no more requests.
    end: Option<io::Result<()>>,
}

/// A request to be done. A write's data is in the buffer that it was read with.
pub struct Taken<'a> {
    pub request: Request,
    _loan: Loan<'a>,
}

impl<'a> Intake<'a> {
    pub fn new(stream: &'a UnixStream) -> io::Result<Self> {
        let readable = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&readable, stream, EventData::new_u64(0), WAKES_ONE)?;
        let turn = Mutex::new(Turn { armed: true, end: None });
        Ok(Self { stream, readable, budget: Budget::new(BUDGET), turn })
    }

    /// Waits for a request and reads it; `None` when there will be no more.
    pub fn next(&self, buffer: &mut DataBuffer) -> Option<Taken<'_>> {
        let mut woken = false;
        loop {
            {
                let mut turn = self.turn.lock();
                turn.armed &= !woken;
                let taken = self.take(&mut turn, buffer);
                if !turn.armed {
                    turn.armed = true;
                    self.arm();
                }
                if taken.is_some() || turn.end.is_some() {
                    return taken;
                }
            }
            let mut event = [Event { flags: EventFlags::IN, data: EventData::new_u64(0) }];
            woken = epoll::wait(&self.readable, &mut event, None).is_ok_and(|count| count > 0);
        }
    }

    /// Returns how it ended, once every worker has seen that it did.
    ///
    /// # Errors
    /// `InvalidData` where the client broke the protocol, else the stream's own.
    pub fn into_end(self) -> io::Result<()> {
        self.turn.into_inner().end.unwrap_or(Ok(()))
    }

    /// Takes a request off the socket if there is one.
    fn take(&self, turn: &mut Turn, buffer: &mut DataBuffer) -> Option<Taken<'_>> {
        if turn.end.is_some() {
            return None;
        }
        let end = match self.read(buffer) {
            Ok(Next::Request(taken)) => return Some(taken),
            Ok(Next::NotYet) => return None,
            Ok(Next::Goodbye) => Ok(()),
            Err(error) => Err(error),
        };
        // Who has nothing more to say keeps the socket readable from now on, which wakes the idle
        // workers one after another.
        let _ = self.stream.shutdown(Shutdown::Read);
        turn.end = Some(end);
        None
    }

    fn read(&self, buffer: &mut DataBuffer) -> io::Result<Next<'_>> {
        let mut header = [0; REQUEST_SIZE];
        let present = match rustix::net::recv(self.stream, &mut header, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Ok(Next::Goodbye),
            Ok((present, _)) => present,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Next::NotYet),
            Err(error) => return Err(error.into()),
        };
        let mut stream = self.stream;
        match stream.read_exact(&mut header[present..]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Next::Goodbye),
            result => result?,
        }
        let request =
            Request::decode(&header).ok_or_else(|| violation("a request without its magic"))?;
        let payload = match request.command {
            Command::Disconnect => return Ok(Next::Goodbye),
            Command::Write if request.length > MAX_PAYLOAD => {
                return Err(violation("a write that is too long"));
            }
            Command::Write => request.length,
            _ => 0,
        };
        let loan = self.budget.lend(match request.command {
            Command::Read => request.length.min(MAX_PAYLOAD) as usize,
            _ => payload as usize,
        });
        stream.read_exact(buffer.make_room(payload as usize))?;
        Ok(Next::Request(Taken { request, _loan: loan }))
    }

    fn arm(&self) {
        epoll::modify(&self.readable, self.stream, EventData::new_u64(0), WAKES_ONE)
            .expect("the socket was added and is open");
    }
}

enum Next<'a> {
    Request(Taken<'a>),
    NotYet,
    Goodbye,
}
