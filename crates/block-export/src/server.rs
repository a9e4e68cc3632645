//! Accepting clients, and letting go of them.

use crate::connection::serve_client;
use ireko_disk::Disk;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Clients served at once; QEMU takes one connection, `nbdcopy` four.
const MAX_CLIENTS: usize = 8;

/// How long accepting rests when the host is out of descriptors or memory.
const EXHAUSTED_REST: Duration = Duration::from_millis(100);

/// A disk and what clients are told of it.
#[derive(Clone)]
pub struct Export {
    /// What clients ask for, at most 4096 bytes; they may also ask for the empty name.
    pub name: String,
    /// Whose bytes are served.
    pub disk: Arc<dyn Disk>,
    /// Whether writes are refused before they reach the disk.
    pub read_only: bool,
    /// For people who list exports, at most 4096 bytes.
    pub description: String,
}

impl Export {
    pub(crate) fn is_called(&self, name: &str) -> bool {
        name.is_empty() || name == self.name
    }

    /// The disk's size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.disk.geometry().virtual_size
    }
}

/// A disk that is being served. Dropping it is [`Server::shut_down`].
pub struct Server {
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    listener: UnixListener,
    export: Export,
    clients: Mutex<Clients>,
}

#[derive(Default)]
struct Clients {
    closed: bool,
    last_id: u64,
    connected: HashMap<u64, UnixStream>,
    threads: Vec<JoinHandle<()>>,
}

/// Serves `export` to everyone who connects to `listener`, on threads of its own.
///
/// # Errors
/// `InvalidInput` for a name or description that is too long; else no thread could be started.
pub fn serve(listener: UnixListener, export: Export) -> io::Result<Server> {
    if export.name.len().max(export.description.len()) > crate::wire::MAX_STRING {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an export's name or description is longer than 4096 bytes",
        ));
    }
    listener.set_nonblocking(false)?;
    let shared = Arc::new(Shared { listener, export, clients: Mutex::default() });
    let for_thread = Arc::clone(&shared);
    let accepting =
        thread::Builder::new().name("nbd-accept".into()).spawn(move || for_thread.accept_all())?;
    Ok(Server { shared, accepting: Some(accepting) })
}

impl Server {
    /// Accepts no more clients, disconnects those there are and waits for what they had under way
    /// on the disk. What they were not answered may or may not have been done.
    pub fn shut_down(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let threads = self.shared.close();
        // Wakes an accept that waits; Linux then fails it with EINVAL.
        let _ = rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            accepting.thread().unpark();
            let _ = accepting.join();
        }
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn accept_all(self: Arc<Self>) {
        loop {
            let accepted = self.listener.accept();
            if self.clients.lock().closed {
                return;
            }
            match accepted {
                Ok((stream, _)) => {
                    if let Err(error) = self.start_client(stream) {
                        tracing::warn!(%error, "a client was turned away");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client");
                    thread::park_timeout(EXHAUSTED_REST);
                }
            }
        }
    }

    fn start_client(self: &Arc<Self>, stream: UnixStream) -> io::Result<()> {
        let handle = stream.try_clone()?;
        let mut clients = self.clients.lock();
        if clients.closed {
            return Ok(());
        }
        if clients.connected.len() >= MAX_CLIENTS {
            return Err(io::Error::other("too many clients"));
        }
        clients.threads.retain(|thread| !thread.is_finished());
        clients.last_id += 1;
        let id = clients.last_id;
        let shared = Arc::clone(self);
        let thread = thread::Builder::new().name("nbd-client".into()).spawn(move || {
            let _leave = Leave { shared: &shared, id };
            if let Err(error) = serve_client(stream, &shared.export) {
                tracing::debug!(%error, "a client's connection broke");
            }
        })?;
        clients.connected.insert(id, handle);
        clients.threads.push(thread);
        Ok(())
    }

    fn close(&self) -> Vec<JoinHandle<()>> {
        let mut clients = self.clients.lock();
        clients.closed = true;
        for stream in clients.connected.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        std::mem::take(&mut clients.threads)
    }
}

/// Takes a client off the list when its thread ends, in whatever way.
struct Leave<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Some(stream) = self.shared.clients.lock().connected.remove(&self.id) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
