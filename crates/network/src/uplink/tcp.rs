//! TCP connections between guests and the host's sockets.
//!
//! ```text
//!   guest ──SYN──► connect ──refused──► RST            host ──accept──► SYN ──► guest
//!                     └─connected─► SYN-ACK ─► Open ◄───────────────────────────┘
//!   Open: bytes both ways, each side's FIN and RST passed on, windows closed by a slow reader
//! ```
//!
//! A guest's connection is accepted only when the host's is there, so that a refusal is one.

use crate::endpoint::Endpoint;
use crate::frame::Way;
use crate::port::Port;
use crate::sources::{Source, Sources};
use crate::switch::PortId;
use mio::Token;
use mio::net::{TcpStream, UnixStream};
use smoltcp::socket::tcp::State;
use smoltcp::time::Instant;
use smoltcp::wire::{Ipv4Packet, TcpPacket};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4};

/// Connections of one guest; each holds a socket and buffers of 384 KiB once they are used.
const MAX_PER_GUEST: usize = 512;
/// Connections of all guests.
const MAX: usize = 4096;
/// No SYN with its options is longer; data in a SYN is refused.
const MAX_SYN: usize = 120;
/// How often bytes are moved for one connection before others have their turn.
const TURNS: usize = 8;

/// A connection as its guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// The guest.
    pub port: PortId,
    /// Its TCP port.
    pub guest: u16,
    /// The other end.
    pub other: SocketAddrV4,
}

/// All connections.
#[derive(Debug, Default)]
pub struct TcpFlows {
    flows: HashMap<FlowKey, Flow>,
    timers: BTreeSet<(Instant, FlowKey)>,
    /// Those with something to do.
    ready: BTreeSet<FlowKey>,
}

#[derive(Debug)]
struct Flow {
    stage: Stage,
    due: Option<Instant>,
}

#[derive(Debug)]
enum Stage {
    /// The host's side is being made for a guest's SYN.
    Connecting { host: HostSide, syn: Vec<u8> },
    /// Both sides are there, or were.
    Open { host: Option<HostSide>, guest: Box<Endpoint> },
}

/// The host's side of a connection.
#[derive(Debug)]
pub enum HostStream {
    /// What a guest reached, or a client of a published port.
    Tcp(TcpStream),
    /// A client of a socket of the engine's.
    Unix(UnixStream),
}

impl HostStream {
    fn prepare(&self) {
        if let Self::Tcp(stream) = self {
            // Small writes must not wait for each other; the guest has its own opinion about that.
            let _ = stream.set_nodelay(true);
        }
    }

    fn add(&mut self, key: FlowKey, sources: &mut Sources) -> io::Result<Token> {
        match self {
            Self::Tcp(stream) => sources.add_both(stream, Source::Tcp(key)),
            Self::Unix(stream) => sources.add_both(stream, Source::Tcp(key)),
        }
    }

    fn remove(&mut self, token: Token, sources: &mut Sources) {
        match self {
            Self::Tcp(stream) => sources.remove(stream, token),
            Self::Unix(stream) => sources.remove(stream, token),
        }
    }

    /// What made it fail, if anything; an error as well where it is not connected yet.
    fn is_connected(&self) -> io::Result<()> {
        let Self::Tcp(stream) = self else { return Ok(()) };
        match stream.take_error()? {
            Some(error) => Err(error),
            None => stream.peer_addr().map(drop),
        }
    }

    /// Makes its closing a reset.
    fn abort_at_close(&self) {
        if let Self::Tcp(stream) = self {
            // Where that fails it is closed without one.
            let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
        }
    }

    fn shut_down_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Read for HostStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        }
    }
}

impl Write for HostStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct HostSide {
    stream: HostStream,
    token: Token,
    readable: bool,
    writable: bool,
    /// The host has said all.
    ended: bool,
    /// The guest has said all, though not all of it may have been passed on.
    guest_ended: bool,
    /// The host was told that the guest has said all.
    told_end: bool,
}

impl HostSide {
    fn new(mut stream: HostStream, key: FlowKey, sources: &mut Sources) -> io::Result<Self> {
        stream.prepare();
        let token = stream.add(key, sources)?;
        Ok(Self {
            stream,
            token,
            readable: false,
            writable: false,
            ended: false,
            guest_ended: false,
            told_end: false,
        })
    }

    /// Closes it; with a reset where it is not over on both sides.
    fn close(mut self, sources: &mut Sources) {
        self.stream.remove(self.token, sources);
        if !(self.ended && self.told_end) {
            self.stream.abort_at_close();
        }
    }
}

/// Whether a connection is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    Remove,
}

impl TcpFlows {
    /// Takes a segment from a guest; `to` is where its connection leads, `None` where nowhere.
    pub fn segment(
        &mut self,
        key: FlowKey,
        packet: &Ipv4Packet<&[u8]>,
        to: impl FnOnce() -> Option<SocketAddr>,
        port: &mut Port,
        sources: &mut Sources,
        now: Instant,
    ) {
        let Ok(segment) = TcpPacket::new_checked(packet.payload()) else { return };
        let begins = segment.syn() && !segment.ack() && !segment.rst();
        if let Some(flow) = self.flows.get_mut(&key) {
            let is_over = match &mut flow.stage {
                Stage::Connecting { .. } => segment.rst(),
                Stage::Open { guest, .. } => {
                    begins && matches!(guest.socket().state(), State::TimeWait | State::Closed)
                }
            };
            match &mut flow.stage {
                _ if is_over => self.remove(key, sources),
                // The guest is impatient.
                Stage::Connecting { .. } => return,
                Stage::Open { guest, .. } => {
                    guest.receive(packet.clone().into_inner(), &mut port.link.out, now);
                    self.ready.insert(key);
                    return;
                }
            }
        }
        if !begins {
            return port.way.reset(&mut port.link.out, packet);
        }
        let syn = packet.clone().into_inner();
        let began = (syn.len() <= MAX_SYN && self.make_room(key.port, sources))
            .then(to)
            .flatten()
            .map(|to| self.begin(key, syn, to, sources));
        if !matches!(began, Some(Ok(()))) {
            port.way.reset(&mut port.link.out, packet);
        }
    }

    fn begin(
        &mut self,
        key: FlowKey,
        syn: &[u8],
        to: SocketAddr,
        sources: &mut Sources,
    ) -> io::Result<()> {
        let host = HostSide::new(HostStream::Tcp(TcpStream::connect(to)?), key, sources)?;
        let stage = Stage::Connecting { host, syn: syn.to_vec() };
        self.flows.insert(key, Flow { stage, due: None });
        Ok(())
    }

    /// Connects a client of a published port to its guest. `key.other` is what the guest sees.
    pub fn accept(
        &mut self,
        key: FlowKey,
        stream: HostStream,
        guest: SocketAddrV4,
        way: Way,
        sources: &mut Sources,
        now: Instant,
    ) {
        if self.flows.contains_key(&key) || !self.make_room(key.port, sources) {
            return;
        }
        let Ok(host) = HostSide::new(stream, key, sources) else { return };
        let guest = Box::new(Endpoint::connecting(key.other, guest, way, now));
        self.flows.insert(key, Flow { stage: Stage::Open { host: Some(host), guest }, due: None });
        self.ready.insert(key);
    }

    /// Whether there is such a connection.
    pub fn contains(&self, key: &FlowKey) -> bool {
        self.flows.contains_key(key)
    }

    /// Notes what happened to the host's side.
    pub fn event(
        &mut self,
        key: FlowKey,
        event: &mio::event::Event,
        port: &mut Port,
        sources: &mut Sources,
        now: Instant,
    ) {
        let Some(flow) = self.flows.get_mut(&key) else { return };
        match &mut flow.stage {
            Stage::Connecting { host, .. } => {
                if event.is_writable() || event.is_error() || event.is_write_closed() {
                    host.writable = true;
                    host.readable |= event.is_readable();
                    self.connected(key, port, sources, now);
                }
            }
            Stage::Open { host: Some(host), .. } => {
                host.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
                host.writable |= event.is_writable() || event.is_write_closed();
                self.ready.insert(key);
            }
            Stage::Open { host: None, .. } => {}
        }
    }

    /// The host's side is there, or is not going to be: the guest's SYN is answered.
    fn connected(&mut self, key: FlowKey, port: &mut Port, sources: &mut Sources, now: Instant) {
        let Some(Flow { stage: Stage::Connecting { host, syn }, due }) = self.flows.remove(&key)
        else {
            return;
        };
        match host.stream.is_connected() {
            Ok(()) => {
                let mut guest = Box::new(Endpoint::accepting(key.other, port.way, now));
                guest.receive(&syn, &mut port.link.out, now);
                let stage = Stage::Open { host: Some(host), guest };
                self.flows.insert(key, Flow { stage, due });
                self.ready.insert(key);
            }
            // Not yet.
            Err(error) if error.kind() == ErrorKind::NotConnected => {
                self.flows.insert(key, Flow { stage: Stage::Connecting { host, syn }, due });
            }
            _ => {
                port.way.reset(&mut port.link.out, &Ipv4Packet::new_unchecked(&syn));
                host.close(sources);
            }
        }
    }

    /// Moves bytes for all that are ready. Those whose guest does not read stay so.
    pub fn service(
        &mut self,
        ports: &mut BTreeMap<PortId, Port>,
        sources: &mut Sources,
        now: Instant,
    ) {
        while let Some(&(due, key)) = self.timers.first() {
            if due > now {
                break;
            }
            self.timers.remove(&(due, key));
            self.ready.insert(key);
        }
        for key in std::mem::take(&mut self.ready) {
            let (Some(flow), Some(port)) = (self.flows.get_mut(&key), ports.get_mut(&key.port))
            else {
                continue;
            };
            let Stage::Open { host, guest } = &mut flow.stage else { continue };
            if let Some(due) = flow.due.take() {
                self.timers.remove(&(due, key));
            }
            let (fate, more) = exchange(host, guest, port, sources, now);
            let due = guest.poll(&mut port.link.out, now);
            if fate == Fate::Remove {
                self.remove(key, sources);
            } else if more || !port.link.out.has_room() {
                self.ready.insert(key);
            } else if let Some(due) = due {
                let due = due.max(now + smoltcp::time::Duration::from_millis(1));
                flow.due = Some(due);
                self.timers.insert((due, key));
            }
        }
    }

    /// Whether [`TcpFlows::service`] has something to do at once for a guest that reads.
    pub fn is_ready(&self, ports: &BTreeMap<PortId, Port>) -> bool {
        let reads = |port: &PortId| ports.get(port).is_some_and(|port| port.link.out.has_room());
        self.ready.iter().any(|key| reads(&key.port))
    }

    /// When the next connection has something to do.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Ends all connections of a guest.
    pub fn remove_port(&mut self, port: PortId, sources: &mut Sources) {
        let keys: Vec<_> = self.flows.keys().filter(|key| key.port == port).copied().collect();
        for key in keys {
            self.remove(key, sources);
        }
    }

    fn remove(&mut self, key: FlowKey, sources: &mut Sources) {
        self.ready.remove(&key);
        let Some(flow) = self.flows.remove(&key) else { return };
        if let Some(due) = flow.due {
            self.timers.remove(&(due, key));
        }
        match flow.stage {
            Stage::Connecting { host, .. } | Stage::Open { host: Some(host), .. } => {
                host.close(sources);
            }
            Stage::Open { host: None, .. } => {}
        }
    }

    /// Makes room for one more connection of a guest, by forgetting some that are over.
    fn make_room(&mut self, port: PortId, sources: &mut Sources) -> bool {
        let count = |flows: &Self| flows.flows.keys().filter(|key| key.port == port).count();
        if self.flows.len() >= MAX || count(self) >= MAX_PER_GUEST {
            // All was said and passed on; what is missing is the guest's last word that it knows.
            let is_over = |flow: &mut Flow| match &mut flow.stage {
                Stage::Open { host, guest } => {
                    let state = guest.socket().state();
                    matches!(state, State::TimeWait | State::LastAck | State::Closing)
                        && host.as_ref().is_none_or(|side| side.ended && side.told_end)
                        && guest.socket().send_queue() == 0
                }
                Stage::Connecting { .. } => false,
            };
            let over: Vec<_> = self
                .flows
                .iter_mut()
                .filter_map(|(key, flow)| is_over(flow).then_some(*key))
                .collect();
            for key in over {
                self.remove(key, sources);
            }
        }
        self.flows.len() < MAX && count(self) < MAX_PER_GUEST
    }
}

/// Moves bytes between both sides, and what each has to say about its end. Whether the connection is
/// to be kept, and whether there is more to do at once.
fn exchange(
    host: &mut Option<HostSide>,
    guest: &mut Endpoint,
    port: &mut Port,
    sources: &mut Sources,
    now: Instant,
) -> (Fate, bool) {
    let out = &mut port.link.out;
    let mut more = false;
    if let Some(side) = host {
        for turn in 0..TURNS {
            let moved =
                match from_host(side, guest).and_then(|read| Ok((read, to_host(side, guest)?))) {
                    Ok((read, written)) => read | written,
                    Err(_) => {
                        guest.socket().abort();
                        false
                    }
                };
            guest.poll(out, now);
            more = moved && turn + 1 == TURNS;
            if !moved || !out.has_room() {
                break;
            }
        }
    }
    match guest.socket().state() {
        // The guest's last bytes may still wait for the host.
        State::Closed if host.as_ref().is_none_or(|side| side.told_end || !side.guest_ended) => {
            (Fate::Remove, false)
        }
        // Both sides have said and heard all.
        State::TimeWait | State::Closing => {
            if let Some(side) = host.take_if(|side| side.ended && side.told_end) {
                side.close(sources);
            }
            (Fate::Keep, more)
        }
        _ => (Fate::Keep, more),
    }
}

/// Reads from the host what the guest has room for: all that is there, so that an end that is known
/// goes with the last bytes.
fn from_host(host: &mut HostSide, guest: &mut Endpoint) -> io::Result<bool> {
    let socket = guest.socket();
    let mut moved = false;
    while host.readable && !host.ended && socket.can_send() {
        let read = socket.send(|space| match host.stream.read(space) {
            Ok(count) => (count, Ok((count, count == space.len()))),
            Err(error) => (0, Err(error)),
        });
        match read {
            Ok(Ok((0, _))) => {
                host.ended = true;
                socket.close();
                moved = true;
            }
            Ok(Ok((_, true))) => return Ok(true),
            Ok(Ok(_)) => moved = true,
            Ok(Err(error)) => {
                host.readable = error.kind() != ErrorKind::WouldBlock;
                return Ok(harmless(error)? || moved);
            }
            Err(_) => break,
        }
    }
    Ok(moved)
}

/// Writes to the host what the guest sent, and its end.
fn to_host(host: &mut HostSide, guest: &mut Endpoint) -> io::Result<bool> {
    let socket = guest.socket();
    host.guest_ended |= matches!(
        socket.state(),
        State::CloseWait | State::Closing | State::LastAck | State::TimeWait
    );
    if host.writable && socket.can_recv() {
        let written = socket.recv(|bytes| match host.stream.write(bytes) {
            Ok(count) => (count, Ok(count)),
            Err(error) => (0, Err(error)),
        });
        return match written {
            Ok(Ok(count)) => Ok(count > 0),
            Ok(Err(error)) => {
                host.writable = error.kind() != ErrorKind::WouldBlock;
                harmless(error)
            }
            Err(_) => Ok(false),
        };
    }
    if host.guest_ended && !host.told_end && !socket.can_recv() {
        host.told_end = true;
        host.stream.shut_down_write()?;
    }
    Ok(false)
}

/// An error that only says "not now".
fn harmless(error: io::Error) -> io::Result<bool> {
    match error.kind() {
        ErrorKind::WouldBlock => Ok(false),
        ErrorKind::Interrupted => Ok(true),
        _ => Err(error),
    }
}
