//! Guests' pings of addresses outside.
//!
//! Linux lets processes ping without privilege where the administrator allows it
//! (net.ipv4.ping_group_range); otherwise it takes the right to raw sockets. Without both, pings
//! outside stay unanswered.

use crate::port::Port;
use crate::sources::{Source, Sources};
use crate::switch::PortId;
use mio::Token;
use mio::unix::SourceFd;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Ipv4Packet};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;

const MAX_PER_GUEST: usize = 64;
const MAX: usize = 512;
/// No answer comes after so long.
const SILENCE: Duration = Duration::from_secs(30);
const LONGEST: usize = 65536;

/// A run of pings as its guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PingKey {
    /// The guest.
    pub port: PortId,
    /// Its number for the run.
    pub ident: u16,
    /// Who is pinged.
    pub to: Ipv4Addr,
}

/// All runs of pings.
#[derive(Debug, Default)]
pub struct Pings {
    all: HashMap<PingKey, Run>,
    was_told: bool,
}

#[derive(Debug)]
struct Run {
    socket: Socket,
    token: Token,
    kind: Kind,
    heard: Instant,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The kernel numbers the run and gives only its answers.
    Datagram,
    /// We number it, and see every ICMP message of the other end.
    Raw { ident: u16 },
}

impl Pings {
    /// Sends a guest's ping on.
    pub fn send(
        &mut self,
        key: PingKey,
        seq_no: u16,
        data: &[u8],
        sources: &mut Sources,
        now: Instant,
    ) {
        if !self.all.contains_key(&key) {
            let of_guest = self.all.keys().filter(|other| other.port == key.port).count();
            if self.all.len() >= MAX || of_guest >= MAX_PER_GUEST {
                return;
            }
            match open(key, sources, now) {
                Ok(run) => drop(self.all.insert(key, run)),
                Err(error) if !self.was_told => {
                    self.was_told = true;
                    tracing::warn!(%error, "pings outside stay unanswered: this user may not send any (net.ipv4.ping_group_range)");
                    return;
                }
                Err(_) => return,
            }
        }
        let Some(run) = self.all.get_mut(&key) else { return };
        run.heard = now;
        let ident = match run.kind {
            Kind::Datagram => key.ident,
            Kind::Raw { ident } => ident,
        };
        let request = Icmpv4Repr::EchoRequest { ident, seq_no, data };
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(
            &mut Icmpv4Packet::new_unchecked(&mut bytes[..]),
            &ChecksumCapabilities::default(),
        );
        // Lost, as pings may be, where the system does not take it.
        let _ = run.socket.send(&bytes);
    }

    /// Takes answers.
    pub fn event(&mut self, key: PingKey, ports: &mut BTreeMap<PortId, Port>) {
        let (Some(run), Some(port)) = (self.all.get_mut(&key), ports.get_mut(&key.port)) else {
            return;
        };
        let mut buffer = vec![0; LONGEST];
        while let Ok(count) = run.socket.read(&mut buffer) {
            let Some((seq_no, data)) = answer(&buffer[..count], run.kind) else { continue };
            let reply = Icmpv4Repr::EchoReply { ident: key.ident, seq_no, data };
            port.way.icmp(&mut port.link.out, key.to, port.identity.address, &reply);
        }
    }

    /// Forgets runs that are over.
    pub fn sweep(&mut self, sources: &mut Sources, now: Instant) {
        self.retain(sources, |_, heard| now < heard + SILENCE);
    }

    /// Forgets a guest's.
    pub fn remove_port(&mut self, port: PortId, sources: &mut Sources) {
        self.retain(sources, |key, _| key.port != port);
    }

    /// Whether nobody pings.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn retain(&mut self, sources: &mut Sources, keep: impl Fn(&PingKey, Instant) -> bool) {
        self.all.retain(|key, run| {
            let kept = keep(key, run.heard);
            if !kept {
                sources.remove(&mut SourceFd(&run.socket.as_raw_fd()), run.token);
            }
            kept
        });
    }
}

fn open(key: PingKey, sources: &mut Sources, now: Instant) -> io::Result<Run> {
    let new = |kind| Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4));
    let (socket, kind) = match new(Type::DGRAM) {
        Ok(socket) => (socket, Kind::Datagram),
        Err(denied) => {
            let raw = new(Type::RAW).map_err(|_| denied)?;
            (raw, Kind::Raw { ident: rand::random() })
        }
    };
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddrV4::new(key.to, 0).into())?;
    let token = sources.add(&mut SourceFd(&socket.as_raw_fd()), Source::Ping(key))?;
    Ok(Run { socket, token, kind, heard: now })
}

/// The number and data of an answer to a run of this kind.
fn answer(message: &[u8], kind: Kind) -> Option<(u16, &[u8])> {
    let message = match kind {
        Kind::Datagram => message,
        Kind::Raw { .. } => Ipv4Packet::new_checked(message).ok()?.payload(),
    };
    let packet = Icmpv4Packet::new_checked(message).ok()?;
    match (Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).ok()?, kind) {
        (Icmpv4Repr::EchoReply { ident, .. }, Kind::Raw { ident: own }) if ident != own => None,
        (Icmpv4Repr::EchoReply { seq_no, .. }, _) => Some((seq_no, message.get(8..)?)),
        _ => None,
    }
}
