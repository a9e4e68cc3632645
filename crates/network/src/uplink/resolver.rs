//! Looking names up outside, for guests.
//!
//! Each question has a socket and a number of its own, so an answer can only come from the server
//! that was asked, to what was asked.

use crate::gateway::DNS;
use crate::names::failure;
use crate::port::Port;
use crate::sources::{Source, Sources};
use crate::switch::PortId;
use mio::Token;
use mio::net::UdpSocket;
use simple_dns::RCODE;
use smoltcp::time::{Duration, Instant};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::SystemTime;

const MAX_PER_GUEST: usize = 64;
const MAX: usize = 256;
/// A server that says nothing for so long is given up for the next.
const PATIENCE: Duration = Duration::from_secs(3);
/// Every server is asked so often.
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

#[derive(Debug)]
struct Question {
    port: PortId,
    guest_port: u16,
    query: Vec<u8>,
    servers: Vec<SocketAddr>,
    asked: usize,
    number: [u8; 2],
    socket: UdpSocket,
    token: Token,
    deadline: Instant,
}

impl Resolver {
    /// Asks what a guest asked. What cannot be asked is answered by a failure.
    pub fn ask(
        &mut self,
        (id, port): (PortId, &mut Port),
        guest_port: u16,
        query: &[u8],
        gateway: Ipv4Addr,
        sources: &mut Sources,
        now: Instant,
    ) {
        let of_guest = self.all.values().filter(|question| question.port == id).count();
        let servers = self.servers(&port.endpoint.dns);
        if self.all.len() < MAX && of_guest < MAX_PER_GUEST {
            for asked in 0..servers.len() * ROUNDS {
                let number = self.next;
                let Ok(question) =
                    Question::begin(number, id, guest_port, query, &servers, asked, sources, now)
                else {
                    continue;
                };
                self.next += 1;
                self.all.insert(number, question);
                return;
            }
        }
        fail(port, guest_port, query, gateway);
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
        let mut buffer = vec![0; LONGEST];
        loop {
            match question.socket.recv(&mut buffer) {
                Ok(count) if count >= 12 && buffer[..2] == question.number => {
                    buffer[..2].copy_from_slice(&question.query[..2]);
                    if let Some(port) = ports.get_mut(&question.port) {
                        let from = SocketAddrV4::new(gateway, DNS);
                        let to = SocketAddrV4::new(port.identity.address, question.guest_port);
                        port.way.udp(&mut port.link.out, from, to, &buffer[..count]);
                    }
                    return self.remove(id, sources);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody listens there.
                Err(_) => return self.ask_next(id, gateway, ports, sources, now),
            }
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
        let Some(mut old) = self.all.remove(&id) else { return };
        sources.remove(&mut old.socket, old.token);
        let Question { port, guest_port, query, servers, .. } = &old;
        for asked in old.asked + 1..servers.len() * ROUNDS {
            let again =
                Question::begin(id, *port, *guest_port, query, servers, asked, sources, now);
            if let Ok(question) = again {
                self.all.insert(id, question);
                return;
            }
        }
        if let Some(port) = ports.get_mut(port) {
            fail(port, *guest_port, query, gateway);
        }
    }

    fn remove(&mut self, id: u64, sources: &mut Sources) {
        if let Some(mut question) = self.all.remove(&id) {
            sources.remove(&mut question.socket, question.token);
        }
    }
}

impl Question {
    #[expect(clippy::too_many_arguments, reason = "they are the question")]
    fn begin(
        id: u64,
        port: PortId,
        guest_port: u16,
        query: &[u8],
        servers: &[SocketAddr],
        asked: usize,
        sources: &mut Sources,
        now: Instant,
    ) -> io::Result<Self> {
        let server = servers[asked % servers.len()];
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut socket = UdpSocket::bind((any, 0).into())?;
        socket.connect(server)?;
        let number: [u8; 2] = rand::random();
        let mut asking = query.to_vec();
        asking.get_mut(..2).ok_or(io::ErrorKind::InvalidData)?.copy_from_slice(&number);
        socket.send(&asking)?;
        let token = sources.add(&mut socket, Source::Lookup(id))?;
        Ok(Self {
            port,
            guest_port,
            query: query.to_vec(),
            servers: servers.to_vec(),
            asked,
            number,
            socket,
            token,
            deadline: now + PATIENCE,
        })
    }
}

/// Tells a guest that nobody could be asked.
fn fail(port: &mut Port, guest_port: u16, query: &[u8], gateway: Ipv4Addr) {
    if let Some(answer) = failure(query, RCODE::ServerFailure) {
        let to = SocketAddrV4::new(port.identity.address, guest_port);
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
