//! The container's standard streams: output to the log and to everyone attached, input from them.
//!
//! A client that reads slowly slows the container down, as docker's does; one that went away is
//! dropped. Once the process has ended, a client that reads nothing is waited for only so long.

use crate::console::{ConsoleOutput, Heard};
use crate::guest::{Guest, Output};
use crate::link::{InboundStream, Link};
use crate::log::Log;
use ireko_protocol::agent::ProcessId;
use ireko_protocol::plan::LogStream;
use ireko_protocol::shim::{STDERR, STDOUT};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Somebody attached to the container.
pub struct Client {
    /// The connection to the engine.
    pub link: Arc<Link>,
    /// Gets standard output.
    pub stdout: bool,
    /// Gets standard error.
    pub stderr: bool,
}

/// Output of the container's process, on its way to all who want it.
pub struct Fanout {
    clients: Mutex<Clients>,
    log: Mutex<Log>,
    flowing: Mutex<usize>,
    drained: Condvar,
}

#[derive(Default)]
struct Clients {
    attached: Vec<Arc<Client>>,
    ended: bool,
}

impl Fanout {
    /// Output goes to this log, and to whoever attaches.
    pub fn new(log: Log) -> Arc<Self> {
        Arc::new(Self {
            clients: Mutex::default(),
            log: Mutex::new(log),
            flowing: Mutex::new(0),
            drained: Condvar::new(),
        })
    }

    /// Adds a client, after `greet` and before any output it is to get.
    ///
    /// Where the output has ended already the client is greeted and its link closed.
    pub fn attach(
        &self,
        client: Arc<Client>,
        greet: impl FnOnce(&Link) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut clients = self.clients.lock();
        greet(&client.link)?;
        match clients.ended {
            true => client.link.close(),
            false => clients.attached.push(client),
        }
        Ok(())
    }

    /// Drops a client that went away.
    pub fn detach(&self, client: &Arc<Client>) {
        self.clients.lock().attached.retain(|other| !Arc::ptr_eq(other, client));
    }

    /// Begins to deliver a process's output.
    pub fn deliver(self: &Arc<Self>, output: Output) -> io::Result<()> {
        self.pump(output.stdout, LogStream::Stdout)?;
        match output.stderr {
            Some(stderr) => self.pump(stderr, LogStream::Stderr),
            None => Ok(()),
        }
    }

    /// Begins to deliver what a machine writes on its serial line.
    ///
    /// What has no line end is logged when nothing follows it: a prompt is worth seeing.
    pub fn deliver_console(self: &Arc<Self>, mut output: ConsoleOutput) -> io::Result<()> {
        self.flow(move |fanout| {
            let mut kept = Keeping::default();
            loop {
                let is_unfinished = fanout.log.lock().has_partial();
                match output.next(is_unfinished) {
                    Heard::Bytes(bytes) => {
                        kept.tried(fanout.log.lock().take(LogStream::Stdout, bytes));
                        fanout.send(LogStream::Stdout, bytes);
                    }
                    Heard::Silence => kept.tried(fanout.log.lock().write_partial()),
                    Heard::End => return,
                }
            }
        })
    }

    /// Waits until all output is delivered, then ends every client and the log. A client that has
    /// taken nothing for `limit` is cut off.
    pub fn finish(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut flowing = self.flowing.lock();
        while *flowing > 0 {
            if self.drained.wait_until(&mut flowing, deadline).timed_out() {
                tracing::warn!("an attached client does not read; cutting it off");
                self.clients.lock().attached.iter().for_each(|client| client.link.close());
                self.drained.wait_for(&mut flowing, limit);
                break;
            }
        }
        drop(flowing);
        if let Err(error) = self.log.lock().finish() {
            tracing::error!(%error, "cannot finish the container's log");
        }
        let clients = {
            let mut clients = self.clients.lock();
            clients.ended = true;
            std::mem::take(&mut clients.attached)
        };
        for client in clients {
            // A client that is gone needs no farewell.
            let _ = client.link.send_eof(STDOUT).and_then(|()| client.link.send_eof(STDERR));
            client.link.close();
        }
    }

    fn pump(self: &Arc<Self>, mut stream: InboundStream, name: LogStream) -> io::Result<()> {
        self.flow(move |fanout| {
            let mut kept = Keeping::default();
            while let Some(chunk) = stream.next() {
                kept.tried(fanout.log.lock().take(name, &chunk));
                fanout.send(name, &chunk);
            }
        })
    }

    /// Runs a thread that delivers output, and is waited for at the end.
    fn flow(self: &Arc<Self>, deliver: impl FnOnce(&Arc<Self>) + Send + 'static) -> io::Result<()> {
        *self.flowing.lock() += 1;
        let fanout = Arc::clone(self);
        let pump = move || {
            deliver(&fanout);
            *fanout.flowing.lock() -= 1;
            fanout.drained.notify_all();
        };
        thread::Builder::new().name("output".into()).spawn(pump)?;
        Ok(())
    }

    fn send(&self, name: LogStream, chunk: &[u8]) {
        let clients = self.clients.lock().attached.clone();
        for client in clients {
            let (wanted, stream) = match name {
                LogStream::Stdout => (client.stdout, STDOUT),
                LogStream::Stderr => (client.stderr, STDERR),
            };
            if wanted && client.link.send(stream, chunk).is_err() {
                self.detach(&client);
            }
        }
    }
}

/// Whether the log can be written; a failure is told once.
#[derive(Default)]
struct Keeping {
    has_failed: bool,
}

impl Keeping {
    fn tried(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && !std::mem::replace(&mut self.has_failed, true)
        {
            tracing::error!(%error, "cannot write the container's log");
        }
    }
}

/// Copies one stream of an exec to its client; what a client that went away does not take is
/// read all the same, so that the process is not held up.
pub fn forward_output(
    mut from: InboundStream,
    to: Arc<Link>,
    stream: u32,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("exec output".into()).spawn(move || {
        let mut client_reads = true;
        while let Some(chunk) = from.next() {
            client_reads = client_reads && to.send(stream, &chunk).is_ok();
        }
        if client_reads {
            // The last message tells the client the same.
            let _ = to.send_eof(stream);
        }
    })
}

/// What becomes of a process's standard input when a client's ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// It ends as well.
    Close,
    /// It stays open for the next client.
    KeepOpen,
}

/// Copies a client's input to a machine's serial line until it ends or either side goes away.
pub fn copy_typing(mut from: InboundStream, write: impl Fn(&[u8]) -> io::Result<()>) {
    while let Some(chunk) = from.next() {
        if write(&chunk).is_err() {
            return;
        }
    }
}

/// Copies a client's input to a process until it ends or either side goes away.
pub fn copy_input(mut from: InboundStream, guest: &Guest, process: ProcessId, at_end: AtEnd) {
    while let Some(chunk) = from.next() {
        if guest.write_stdin(process, &chunk).is_err() {
            return;
        }
    }
    if at_end == AtEnd::Close {
        // The process may have ended meanwhile; then nobody reads it.
        let _ = guest.close_stdin(process);
    }
}
