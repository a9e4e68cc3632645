//! Looking names up that are not the network's own, for guests.
//!
//! ```text
//!   the switches of the container's other networks, each once ─► its name servers, or the host's,
//!                                                                where the network leads outside
//! ```
//!
//! Each question has a socket and a number of its own, so an answer can only come from the server
//! that was asked, to what was asked.

use crate::gateway::DNS;
use crate::names::failure;
use crate::port::Port;
use crate::sources::{Source, Sources};
use crate::switch::PortId;
use ireko_protocol::frame::{Frame, FrameDecoder};
use ireko_protocol::network::{Answer, Envelope, Request, VERSION};
use mio::Token;
use mio::net::{UdpSocket, UnixStream};
use simple_dns::RCODE;
use smoltcp::time::{Duration, Instant};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const MAX_PER_GUEST: usize = 64;
const MAX: usize = 256;
/// Questions to other networks at a time: a guest that asks without end must not keep their switches
/// from hearing the engine.
const MAX_TO_SIBLINGS: usize = 16;
/// A server that says nothing for so long is given up for the next.
const PATIENCE: Duration = Duration::from_secs(3);
/// Every server outside is asked so often.
const ROUNDS: usize = 2;
const MAX_SERVERS: usize = 3;
const LONGEST: usize = 65536;
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// All questions under way.
#[derive(Debug, Default)]
pub struct Resolver {
    all: HashMap<u64, Question>,
    next: u64,
    hosts: HostServers,
}

/// What a guest asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// From which of its ports.
    pub guest_port: u16,
    /// The DNS message.
    pub query: &'a [u8],
    /// Servers outside may be asked.
    pub outside: bool,
}

#[derive(Debug)]
struct Question {
    port: PortId,
    guest_port: u16,
    query: Vec<u8>,
    outside: bool,
    servers: Vec<Server>,
    /// Which of them is asked now.
    asked: usize,
    way: Way,
    token: Token,
    deadline: Instant,
}

#[derive(Clone, Debug)]
enum Server {
    /// A switch of another network, by its socket.
    Sibling(PathBuf),
    Outside(SocketAddr),
}

#[derive(Debug)]
enum Way {
    Sibling { stream: UnixStream, heard: FrameDecoder },
    Outside { socket: UdpSocket, number: [u8; 2] },
}

/// What was heard of one server.
enum Heard {
    Answer(Vec<u8>),
    Nothing,
    /// It does not know, or is not there.
    Next,
}

impl Resolver {
    /// Asks what a guest asked. What cannot be asked is answered by a failure.
    pub fn ask(
        &mut self,
        (id, port): (PortId, &mut Port),
        asked: Asked,
        gateway: Ipv4Addr,
        sources: &mut Sources,
        now: Instant,
    ) {
        let Asked { guest_port, query, outside } = asked;
        let siblings = port.endpoint.siblings.iter().cloned().map(Server::Sibling);
        let outer = if outside { self.servers(&port.endpoint.dns) } else { Vec::new() };
        let rounds = (0..ROUNDS).flat_map(|_| outer.iter().copied().map(Server::Outside));
        let servers: Vec<_> = siblings.chain(rounds).collect();
        let to_sibling = |question: &&Question| matches!(question.way, Way::Sibling { .. });
        if matches!(servers.first(), Some(Server::Sibling(_)))
            && self.all.values().filter(to_sibling).count() >= MAX_TO_SIBLINGS
        {
            // The guest asks again.
            return;
        }
        let of_guest = self.all.values().filter(|question| question.port == id).count();
        let number = self.next;
        if self.all.len() < MAX && of_guest < MAX_PER_GUEST {
            for (asked, server) in servers.iter().enumerate() {
                let Ok((way, token)) = open(number, server, query, sources) else { continue };
                let (query, deadline) = (query.to_vec(), now + PATIENCE);
                let question = Question {
                    port: id,
                    guest_port,
                    query,
                    outside,
                    servers,
                    asked,
                    way,
                    token,
                    deadline,
                };
                self.next += 1;
                self.all.insert(number, question);
                return;
            }
        }
        fail(port, asked, gateway);
    }

    /// Where a guest's questions go: to its own servers, or the host's.
    pub fn servers(&mut self, own: &[IpAddr]) -> Vec<SocketAddr> {
        let servers = if own.is_empty() { self.hosts.now() } else { own };
        servers.iter().take(MAX_SERVERS).map(|server| SocketAddr::new(*server, DNS)).collect()
    }

    /// Takes an answer.
    pub fn event(
        &mut self,
        id: u64,
        gateway: Ipv4Addr,
        ports: &mut BTreeMap<PortId, Port>,
        sources: &mut Sources,
        now: Instant,
    ) {
        let Some(question) = self.all.get_mut(&id) else { return };
        match question.hear() {
            Heard::Answer(answer) => {
                if let Some(port) = ports.get_mut(&question.port) {
                    let from = SocketAddrV4::new(gateway, DNS);
                    let to = SocketAddrV4::new(port.identity.address, question.guest_port);
                    port.way.udp(&mut port.link.out, from, to, &answer);
                }
                self.remove(id, sources);
            }
            Heard::Nothing => {}
            Heard::Next => self.ask_next(id, gateway, ports, sources, now),
        }
    }

    /// Gives up servers that said nothing.
    pub fn sweep(
        &mut self,
        gateway: Ipv4Addr,
        ports: &mut BTreeMap<PortId, Port>,
        sources: &mut Sources,
        now: Instant,
    ) {
        let late: Vec<_> = self
            .all
            .iter()
            .filter_map(|(id, question)| (question.deadline <= now).then_some(*id))
            .collect();
        for id in late {
            self.ask_next(id, gateway, ports, sources, now);
        }
    }

    /// When the next server is given up.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.all.values().map(|question| question.deadline).min()
    }

    /// Forgets a guest's questions.
    pub fn remove_port(&mut self, port: PortId, sources: &mut Sources) {
        let of_guest = |(id, question): (&u64, &Question)| (question.port == port).then_some(*id);
        let ids: Vec<_> = self.all.iter().filter_map(of_guest).collect();
        for id in ids {
            self.remove(id, sources);
        }
    }

    fn ask_next(
        &mut self,
        id: u64,
        gateway: Ipv4Addr,
        ports: &mut BTreeMap<PortId, Port>,
        sources: &mut Sources,
        now: Instant,
    ) {
        let Some(mut question) = self.all.remove(&id) else { return };
        question.way.close(question.token, sources);
        for asked in question.asked + 1..question.servers.len() {
            let opened = open(id, &question.servers[asked], &question.query, sources);
            if let Ok((way, token)) = opened {
                let deadline = now + PATIENCE;
                self.all.insert(id, Question { asked, way, token, deadline, ..question });
                return;
            }
        }
        if let Some(port) = ports.get_mut(&question.port) {
            let Question { guest_port, query, outside, .. } = &question;
            let asked = Asked { guest_port: *guest_port, query, outside: *outside };
            fail(port, asked, gateway);
        }
    }

    fn remove(&mut self, id: u64, sources: &mut Sources) {
        if let Some(mut question) = self.all.remove(&id) {
            question.way.close(question.token, sources);
        }
    }
}

impl Question {
    fn hear(&mut self) -> Heard {
        let mut buffer = vec![0; LONGEST];
        loop {
            let read = match &mut self.way {
                Way::Sibling { stream, .. } => stream.read(&mut buffer),
                Way::Outside { socket, .. } => socket.recv(&mut buffer),
            };
            let count = match read {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Heard::Nothing,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // Nobody listens there.
                Err(_) => return Heard::Next,
            };
            match &mut self.way {
                Way::Outside { number, .. } if count >= 12 && buffer[..2] == *number => {
                    buffer[..2].copy_from_slice(&self.query[..2]);
                    buffer.truncate(count);
                    return Heard::Answer(buffer);
                }
                Way::Outside { .. } => {}
                Way::Sibling { .. } if count == 0 => return Heard::Next,
                Way::Sibling { heard, .. } => {
                    heard.feed(&buffer[..count]);
                    match heard.next_frame().map(|frame| frame.map(|frame| frame.parse())) {
                        Ok(None) => {}
                        Ok(Some(Ok(Answer::Resolved { reply: Some(reply) }))) => {
                            return Heard::Answer(reply);
                        }
                        _ => return Heard::Next,
                    }
                }
            }
        }
    }
}

impl Way {
    fn close(&mut self, token: Token, sources: &mut Sources) {
        match self {
            Self::Sibling { stream, .. } => sources.remove(stream, token),
            Self::Outside { socket, .. } => sources.remove(socket, token),
        }
    }
}

/// Asks one server.
fn open(id: u64, server: &Server, query: &[u8], sources: &mut Sources) -> io::Result<(Way, Token)> {
    match server {
        Server::Sibling(path) => ask_sibling(id, path, query, sources),
        Server::Outside(address) => ask_outside(id, *address, query, sources),
    }
}

fn ask_sibling(
    id: u64,
    path: &Path,
    query: &[u8],
    sources: &mut Sources,
) -> io::Result<(Way, Token)> {
    let request = Request::Resolve { query: query.to_vec() };
    let envelope = Envelope { version: VERSION, request };
    let bytes = Frame::message(&envelope).map_err(io::Error::other)?.encode();
    let mut stream = UnixStream::connect(path)?;
    // A new socket has room for it.
    if stream.write(&bytes)? < bytes.len() {
        return Err(ErrorKind::WriteZero.into());
    }
    let token = sources.add(&mut stream, Source::Lookup(id))?;
    Ok((Way::Sibling { stream, heard: FrameDecoder::default() }, token))
}

fn ask_outside(
    id: u64,
    server: SocketAddr,
    query: &[u8],
    sources: &mut Sources,
) -> io::Result<(Way, Token)> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut socket = UdpSocket::bind((any, 0).into())?;
    socket.connect(server)?;
    let number: [u8; 2] = rand::random();
    let mut asking = query.to_vec();
    asking.get_mut(..2).ok_or(ErrorKind::InvalidData)?.copy_from_slice(&number);
    socket.send(&asking)?;
    let token = sources.add(&mut socket, Source::Lookup(id))?;
    Ok((Way::Outside { socket, number }, token))
}

/// Tells a guest that nobody could be asked, or that nobody has such a name.
fn fail(port: &mut Port, asked: Asked, gateway: Ipv4Addr) {
    let code = if asked.outside { RCODE::ServerFailure } else { RCODE::NameError };
    if let Some(answer) = failure(asked.query, code) {
        let to = SocketAddrV4::new(port.identity.address, asked.guest_port);
        port.way.udp(&mut port.link.out, SocketAddrV4::new(gateway, DNS), to, &answer);
    }
}

/// Whom the host asks, as long as its resolv.conf stays as it is.
#[derive(Debug, Default)]
struct HostServers {
    read: Option<SystemTime>,
    servers: Vec<IpAddr>,
}

impl HostServers {
    fn now(&mut self) -> &[IpAddr] {
        let changed = fs::metadata(RESOLV_CONF).and_then(|file| file.modified()).ok();
        if changed.is_none() || changed != self.read {
            self.read = changed;
            self.servers = name_servers(&fs::read_to_string(RESOLV_CONF).unwrap_or_default());
        }
        &self.servers
    }
}

/// The servers a resolv.conf names; the one on this host where it names none, by resolv.conf(5).
fn name_servers(text: &str) -> Vec<IpAddr> {
    let servers: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
        })
        .take(MAX_SERVERS)
        .collect();
    if servers.is_empty() { vec![Ipv4Addr::LOCALHOST.into()] } else { servers }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_servers_are_those_of_its_resolv_conf() {
        let servers = name_servers("# x\nnameserver 10.0.0.1\nsearch a\nnameserver ::1 # y\n");
        assert_eq!(servers, ["10.0.0.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        assert_eq!(name_servers(""), [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }
}
