//! Requests of the engine's, on a unix socket that only its user reaches.

use crate::sources::{Source, Sources};
use crate::switchboard::Switchboard;
use ireko_protocol::frame::{Frame, FrameDecoder};
use ireko_protocol::network::{Answer, Envelope, Request, VERSION};
use mio::Token;
use mio::net::{UnixListener, UnixStream};
use smoltcp::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Requests at a time: of the one engine, and of other networks' switches, which ask for names.
const MAX_CLIENTS: usize = 256;
/// A client that does not say what it wants, or does not take the answer, is hung up on.
const PATIENCE: Duration = Duration::from_secs(10);

/// The socket and who is connected to it.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    listener: UnixListener,
    clients: BTreeMap<u64, Client>,
    next: u64,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    token: Token,
    heard: FrameDecoder,
    stage: Stage,
    deadline: Instant,
}

#[derive(Debug)]
enum Stage {
    /// Its request is not whole.
    Asking,
    /// Its answer is not known.
    Waiting,
    /// What is still to be written of it.
    Hearing(Vec<u8>),
}

impl Control {
    /// Listens at `path`, in the place of a switch before this one.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(path: &Path, sources: &mut Sources) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut listener = UnixListener::bind(path)?;
        sources.add(&mut listener, Source::Control)?;
        Ok(Self { path: path.to_owned(), listener, clients: BTreeMap::new(), next: 0 })
    }

    /// Takes new clients.
    pub fn accept(&mut self, sources: &mut Sources, now: Instant) {
        while let Ok((mut stream, _)) = self.listener.accept() {
            let id = self.next;
            self.next += 1;
            if self.clients.len() >= MAX_CLIENTS {
                continue;
            }
            let Ok(token) = sources.add_both(&mut stream, Source::Client(id)) else { continue };
            let heard = FrameDecoder::default();
            let deadline = now + PATIENCE;
            let stage = Stage::Asking;
            self.clients.insert(id, Client { stream, token, heard, stage, deadline });
        }
    }

    /// Turns one client; `decide` is asked for the answer to its request, and where that is not known
    /// yet [`Control::answer`] is to be called.
    pub fn turn(
        &mut self,
        id: u64,
        network: &mut Switchboard,
        decide: impl FnOnce(&mut Switchboard, Request) -> Option<Answer>,
    ) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let is_over = match client.hear() {
            Ok(Some(request)) => {
                let refused = |message| Some(Answer::Refused { message });
                match request.map_or_else(refused, |request| decide(network, request)) {
                    Some(answer) => client.answer(&answer),
                    None => false,
                }
            }
            Ok(None) => client.write(),
            Err(_) => true,
        };
        if is_over {
            self.hang_up(id, network.sources());
        }
    }

    /// Answers a client's request; fine where it has hung up.
    pub fn answer(&mut self, id: u64, answer: &Answer, sources: &mut Sources) {
        if self.clients.get_mut(&id).is_some_and(|client| client.answer(answer)) {
            self.hang_up(id, sources);
        }
    }

    /// Hangs up on clients that take too long.
    pub fn sweep(&mut self, sources: &mut Sources, now: Instant) {
        let late = |(id, client): (&u64, &Client)| (client.deadline <= now).then_some(*id);
        let late: Vec<_> = self.clients.iter().filter_map(late).collect();
        for id in late {
            self.hang_up(id, sources);
        }
    }

    /// When the next client is hung up on.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.clients.values().map(|client| client.deadline).min()
    }

    /// Listens no more.
    pub fn close(self) {
        // It is gone already where the engine removed the folder.
        let _ = std::fs::remove_file(&self.path);
    }

    fn hang_up(&mut self, id: u64, sources: &mut Sources) {
        if let Some(mut client) = self.clients.remove(&id) {
            sources.remove(&mut client.stream, client.token);
        }
    }
}

impl Client {
    /// The request, once it is whole and the first time: itself, or why it is none.
    fn hear(&mut self) -> io::Result<Option<Result<Request, String>>> {
        if let Stage::Hearing(_) = self.stage {
            return Ok(None);
        }
        let mut buffer = [0; 16 << 10];
        loop {
            let count = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if let Stage::Waiting = self.stage {
                return Err(ErrorKind::InvalidData.into());
            }
            self.heard.feed(&buffer[..count]);
            let frame = self.heard.next_frame().map_err(io::Error::other)?;
            let Some(frame) = frame else { continue };
            self.stage = Stage::Waiting;
            return Ok(Some(match frame.parse::<Envelope>() {
                Ok(Envelope { version: VERSION, request }) => Ok(request),
                Ok(Envelope { version, .. }) => {
                    Err(format!("this switch speaks version {VERSION}, the engine {version}"))
                }
                Err(error) => Err(format!("a request is not understood: {error}")),
            }));
        }
    }

    /// Begins to answer; whether all is written.
    fn answer(&mut self, answer: &Answer) -> bool {
        // An answer is text without maps: it can always be written as JSON.
        let bytes = Frame::message(answer).map(|frame| frame.encode()).unwrap_or_default();
        self.stage = Stage::Hearing(bytes);
        self.write()
    }

    /// Goes on answering; whether that is over.
    fn write(&mut self) -> bool {
        let Stage::Hearing(answer) = &mut self.stage else { return false };
        while !answer.is_empty() {
            match self.stream.write(answer) {
                Ok(count) => drop(answer.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        true
    }
}
