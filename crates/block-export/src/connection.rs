//! One client: its requests are read on one thread and done on several.
//!
//! What a connection may hold is bounded twice: by the queue's length and by the bytes of payload
//! in it. A client that sends faster than the disk works waits in its socket.

use crate::budget::{Budget, Loan};
use crate::execution::Executor;
use crate::negotiation::{negotiate, violation};
use crate::replies::{DataBuffer, Replies};
use crate::server::Export;
use crate::wire::{Command, MAX_PAYLOAD, REQUEST_SIZE, Request};
use parking_lot::Mutex;
use std::io::{self, BufReader, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// Requests of one connection that are on the disk at the same time.
const WORKERS: usize = 4;

/// Requests of one connection that wait for a worker.
const QUEUE: usize = 32;

/// Bytes of one connection's writes, waiting and under way: twice the longest request's.
const PAYLOAD_BUDGET: usize = 2 * MAX_PAYLOAD as usize;

/// How long a client may be silent while it negotiates.
const NEGOTIATION_SILENCE: Duration = Duration::from_secs(30);

struct Job<'a> {
    request: Request,
    payload: Vec<u8>,
    _loan: Loan<'a>,
}

/// Serves one client to its end.
///
/// # Errors
/// `InvalidData` where the client broke the protocol, else the stream's own. What was under way is
/// finished in any case.
pub fn serve_client(mut stream: UnixStream, export: &Export) -> io::Result<()> {
    stream.set_read_timeout(Some(NEGOTIATION_SILENCE))?;
    stream.set_write_timeout(Some(NEGOTIATION_SILENCE))?;
    let Some(agreed) = negotiate(&mut stream, export)? else { return Ok(()) };
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    tracing::debug!(export = export.name, ?agreed, "a client is connected");

    let budget = Budget::new(PAYLOAD_BUDGET);
    let replies = Replies::new(stream.try_clone()?);
    let executor = Executor { export, agreed, replies };
    let (queue, waiting) = sync_channel(QUEUE);
    let waiting = Mutex::new(waiting);
    thread::scope(|scope| {
        let work = || work(&waiting, &executor, &stream);
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            workers
                .push(thread::Builder::new().name("nbd-worker".into()).spawn_scoped(scope, work)?);
        }
        let result = read_requests(BufReader::with_capacity(64 << 10, &stream), queue, &budget);
        for worker in workers {
            // A worker that panicked has hung up on the client and said why.
            let _ = worker.join();
        }
        result
    })
}

/// Reads requests until the client disconnects, hangs up or breaks the protocol.
fn read_requests<'a>(
    mut stream: impl Read,
    queue: SyncSender<Job<'a>>,
    budget: &'a Budget,
) -> io::Result<()> {
    let mut header = [0; REQUEST_SIZE];
    loop {
        match stream.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            result => result?,
        }
        let request =
            Request::decode(&header).ok_or_else(|| violation("a request without its magic"))?;
        let payload_length = match request.command {
            Command::Disconnect => return Ok(()),
            Command::Write if request.length > MAX_PAYLOAD => {
                return Err(violation("a write that is too long"));
            }
            Command::Write => request.length,
            _ => 0,
        };
        let loan = budget.lend(payload_length as usize);
        let payload = read_payload(&mut stream, payload_length)?;
        if queue.send(Job { request, payload, _loan: loan }).is_err() {
            return Ok(()); // no worker is left
        }
    }
}

fn read_payload(stream: &mut impl Read, length: u32) -> io::Result<Vec<u8>> {
    let mut payload = Vec::with_capacity(length as usize);
    stream.take(length.into()).read_to_end(&mut payload)?;
    if payload.len() == length as usize {
        Ok(payload)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Does requests until there are no more, or until the client cannot be answered.
fn work(waiting: &Mutex<Receiver<Job>>, executor: &Executor<UnixStream>, stream: &UnixStream) {
    let _hang_up = HangUpOnPanic(stream);
    let mut buffer = DataBuffer::new();
    loop {
        let next = waiting.lock().recv();
        let Ok(job) = next else { return };
        if let Err(error) = executor.execute(&job.request, &job.payload, &mut buffer) {
            tracing::debug!(%error, "a client went away unanswered");
            hang_up(stream);
        }
    }
}

/// Wakes whoever reads from or writes to the client.
fn hang_up(stream: &UnixStream) {
    let _ = stream.shutdown(Shutdown::Both);
}

/// A request whose worker panicked will never be answered; better no connection than a hung one.
struct HangUpOnPanic<'a>(&'a UnixStream);

impl Drop for HangUpOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            hang_up(self.0);
        }
    }
}
