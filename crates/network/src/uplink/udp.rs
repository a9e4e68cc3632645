//! Guests' datagrams.
//!
//! A guest's port that speaks to somebody gets a socket of the host for just that: only whom it
//! spoke to can answer, and nobody else finds it. Datagrams for a published port come the other
//! way, by the port's own socket.

use crate::frame::{IP, UDP};
use crate::port::Port;
use crate::sources::{Source, Sources};
use crate::switch::PortId;
use mio::Token;
use mio::net::UdpSocket;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{Icmpv4DstUnreachable, Ipv4Packet};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::rc::Rc;

/// Conversations of one guest, and of all.
const MAX_PER_GUEST: usize = 512;
const MAX: usize = 4096;
/// A conversation in which nothing is said for so long is over.
const SILENCE: Duration = Duration::from_secs(120);
/// Datagrams taken from one socket before others have their turn.
const TURN: usize = 64;
const LONGEST: usize = 65536;

/// A conversation as its guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UdpKey {
    /// The guest.
    pub port: PortId,
    /// Its UDP port.
    pub guest: u16,
    /// The other end.
    pub other: SocketAddrV4,
}

/// A published port's socket.
pub type SharedSocket = Rc<UdpSocket>;

/// All conversations.
#[derive(Debug)]
pub struct Conversations {
    all: HashMap<UdpKey, Conversation>,
    /// Those that clients of published ports began: the publication and the client.
    clients: HashMap<(u64, SocketAddr), UdpKey>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Conversation {
    way: HostWay,
    heard: Instant,
}

#[derive(Debug)]
enum HostWay {
    /// A guest began it.
    Own { socket: UdpSocket, token: Token },
    /// A client of a published port did.
    Client { socket: SharedSocket, publication: u64, client: SocketAddr },
}

impl Default for Conversations {
    fn default() -> Self {
        Self { all: HashMap::new(), clients: HashMap::new(), buffer: vec![0; LONGEST] }
    }
}

impl Conversations {
    /// Sends a guest's datagram on; `to` is where it leads if it begins a conversation.
    pub fn send(
        &mut self,
        key: UdpKey,
        payload: &[u8],
        to: impl FnOnce() -> Option<SocketAddr>,
        sources: &mut Sources,
        now: Instant,
    ) {
        if !self.all.contains_key(&key) {
            let Some(way) = self.has_room(key.port).then(to).flatten().and_then(|to| {
                // Where that fails the datagram is lost, as datagrams may be.
                connect(key, to, sources).ok()
            }) else {
                return;
            };
            self.all.insert(key, Conversation { way, heard: now });
        }
        let Some(conversation) = self.all.get_mut(&key) else { return };
        conversation.heard = now;
        // A full socket buffer, or an error that an earlier datagram caused: lost as well.
        let _ = match &conversation.way {
            HostWay::Own { socket, .. } => socket.send(payload),
            HostWay::Client { socket, client, .. } => socket.send_to(payload, *client),
        };
    }

    /// Takes what was answered to a guest.
    pub fn event(
        &mut self,
        key: UdpKey,
        gateway: Ipv4Addr,
        ports: &mut BTreeMap<PortId, Port>,
        now: Instant,
    ) {
        let Self { all, buffer, .. } = self;
        let (Some(conversation), Some(port)) = (all.get_mut(&key), ports.get_mut(&key.port)) else {
            return;
        };
        let HostWay::Own { socket, .. } = &conversation.way else { return };
        let guest = SocketAddrV4::new(port.identity.address, key.guest);
        loop {
            match socket.recv(buffer) {
                Ok(count) => {
                    conversation.heard = now;
                    port.way.udp(&mut port.link.out, key.other, guest, &buffer[..count]);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    refuse(port, gateway, guest, key.other);
                }
                Err(_) => return,
            }
        }
    }

    /// Takes what clients sent to a published port. `visible` says what the guest sees of a client
    /// that it has not heard of; what it gives must be free.
    pub fn receive(
        &mut self,
        publication: u64,
        socket: &SharedSocket,
        (id, port): (PortId, &mut Port),
        guest_port: u16,
        now: Instant,
        mut visible: impl FnMut(SocketAddr, &dyn Fn(SocketAddrV4) -> bool) -> Option<SocketAddrV4>,
    ) -> bool {
        let guest = SocketAddrV4::new(port.identity.address, guest_port);
        for _ in 0..TURN {
            let (count, client) = match socket.recv_from(&mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // Also what an answer to a client that is gone caused.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                Err(_) => return false,
            };
            let known = self.clients.get(&(publication, client)).copied();
            let Some(key) = known.or_else(|| {
                let is_free = |other: SocketAddrV4| {
                    !self.all.contains_key(&UdpKey { port: id, guest: guest_port, other })
                };
                let other = self.has_room(id).then(|| visible(client, &is_free)).flatten()?;
                Some(UdpKey { port: id, guest: guest_port, other })
            }) else {
                continue;
            };
            let way = || HostWay::Client { socket: Rc::clone(socket), publication, client };
            let entry = self.all.entry(key);
            entry.or_insert_with(|| Conversation { way: way(), heard: now }).heard = now;
            self.clients.insert((publication, client), key);
            port.way.udp(&mut port.link.out, key.other, guest, &self.buffer[..count]);
        }
        true
    }

    /// Ends conversations in which nothing was said for long.
    pub fn sweep(&mut self, sources: &mut Sources, now: Instant) {
        self.retain(sources, |_, heard| now < heard + SILENCE);
    }

    /// Ends all conversations of a guest.
    pub fn remove_port(&mut self, port: PortId, sources: &mut Sources) {
        self.retain(sources, |key, _| key.port != port);
    }

    /// Whether nobody talks.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn retain(&mut self, sources: &mut Sources, keep: impl Fn(&UdpKey, Instant) -> bool) {
        let clients = &mut self.clients;
        self.all.retain(|key, conversation| {
            let kept = keep(key, conversation.heard);
            if !kept {
                match &mut conversation.way {
                    HostWay::Own { socket, token } => sources.remove(socket, *token),
                    HostWay::Client { publication, client, .. } => {
                        clients.remove(&(*publication, *client));
                    }
                }
            }
            kept
        });
    }

    fn has_room(&self, port: PortId) -> bool {
        self.all.len() < MAX
            && self.all.keys().filter(|key| key.port == port).count() < MAX_PER_GUEST
    }
}

fn connect(key: UdpKey, to: SocketAddr, sources: &mut Sources) -> io::Result<HostWay> {
    let mut socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
    socket.connect(to)?;
    let token = sources.add(&mut socket, Source::Udp(key))?;
    Ok(HostWay::Own { socket, token })
}

/// Tells a guest that nobody listens where it sent a datagram. Of the datagram itself only the
/// ports are known any more, which is what the guest finds its socket by.
fn refuse(port: &mut Port, gateway: Ipv4Addr, guest: SocketAddrV4, other: SocketAddrV4) {
    let mut packet = [0; IP + UDP];
    let mut sent = Ipv4Packet::new_unchecked(&mut packet[..]);
    sent.set_version(4);
    sent.set_header_len(IP as u8);
    sent.set_total_len((IP + UDP) as u16);
    sent.set_next_header(smoltcp::wire::IpProtocol::Udp);
    sent.set_src_addr(*guest.ip());
    sent.set_dst_addr(*other.ip());
    sent.payload_mut()[..2].copy_from_slice(&guest.port().to_be_bytes());
    sent.payload_mut()[2..4].copy_from_slice(&other.port().to_be_bytes());
    sent.payload_mut()[4..6].copy_from_slice(&(UDP as u16).to_be_bytes());
    let sent = Ipv4Packet::new_unchecked(&packet[..]);
    let reason = Icmpv4DstUnreachable::PortUnreachable;
    port.way.unreachable(&mut port.link.out, gateway, &sent, reason);
}
