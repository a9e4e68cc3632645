//! One client: several workers read its requests, do them and answer.

use crate::execution::Executor;
use crate::intake::Intake;
use crate::negotiation::negotiate;
use crate::replies::{DataBuffer, Replies};
use crate::server::Export;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

/// Requests of one connection that are on the disk at the same time. Idle workers cost nothing but
/// their stacks; a disk that takes a millisecond for a read needs many.
const WORKERS: usize = 8;

/// How long a client may be silent while it negotiates.
const NEGOTIATION_SILENCE: Duration = Duration::from_secs(30);

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

    let intake = Intake::new(&stream)?;
    let executor = Executor { export, agreed, replies: Replies::new(stream.try_clone()?) };
    thread::scope(|scope| {
        let work = || work(&intake, &executor, &stream);
        for _ in 1..WORKERS {
            let worker = thread::Builder::new().name("nbd-worker".into());
            if let Err(error) = worker.spawn_scoped(scope, work) {
                tracing::warn!(%error, "a client gets fewer workers");
            }
        }
        work();
    });
    intake.into_end()
}

/// Does requests until there are no more, or until the client cannot be answered.
fn work(intake: &Intake, executor: &Executor<UnixStream>, stream: &UnixStream) {
    let _hang_up = HangUpOnPanic(stream);
    let mut buffer = DataBuffer::new();
    while let Some(taken) = intake.next(&mut buffer) {
        if let Err(error) = executor.execute(&taken.request, &mut buffer) {
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
