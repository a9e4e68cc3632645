//! The network itself: its VMs, the switch between them, the gateway, and the ways out.
//!
//! One owner of all of it; [`crate::run`] tells it what happened and when.
//!
//! ```text
//!   VM ═frames═► Link ─► Identity::admit ─► Switch ─┬─► other VMs' queues
//!                                                   └─► Gateway ─┬─► the VM's own queue
//!                                                                └─► uplink: sockets of the host
//! ```

use crate::admission::Identity;
use crate::gateway::{Destination, Gateway, Step};
use crate::port::{Heard, Link, Port};
use crate::sources::{Source, Sources};
use crate::switch::{Guests, PortId, Switch};
use crate::uplink::HostAddress;
use crate::uplink::ping::{PingKey, Pings};
use crate::uplink::probe::Probes;
use crate::uplink::publish::{Listener, Publications};
use crate::uplink::resolver::{Asked, Resolver};
use crate::uplink::tcp::{FlowKey, HostStream, TcpFlows};
use crate::uplink::udp::{Conversations, UdpKey};
use crate::uplink::view::{FIRST_PORT, View, free_port};
use ireko_protocol::network::{Endpoint, EndpointStatus, NetworkPlan, Publish, Published};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, Ipv4Packet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;

/// VMs in one network.
const MAX_PORTS: usize = 1024;
/// How often one VM is read before others have their turn.
const TURNS: usize = 4;
/// How often tables are looked through for what is over.
const SWEEP: Duration = Duration::from_secs(10);

/// One virtual network.
#[derive(Debug)]
pub struct Switchboard {
    plan: NetworkPlan,
    gateway: Gateway,
    switch: Switch,
    ports: BTreeMap<PortId, Port>,
    next_port: u64,
    /// VMs that may have sent more.
    unread: BTreeSet<PortId>,
    tcp: TcpFlows,
    udp: Conversations,
    pings: Pings,
    probes: Probes,
    resolver: Resolver,
    publications: Publications,
    host: HostAddress,
    own_port: u16,
    swept: Instant,
    sources: Sources,
}

impl Switchboard {
    /// A network without VMs.
    pub fn new(plan: NetworkPlan, sources: Sources, now: Instant) -> Self {
        let gateway = Gateway::new(&plan);
        Self {
            switch: Switch::new(plan.mode, gateway.mac),
            gateway,
            host: HostAddress::new(plan.host_loopback),
            plan,
            ports: BTreeMap::new(),
            next_port: 0,
            unread: BTreeSet::new(),
            tcp: TcpFlows::default(),
            udp: Conversations::default(),
            pings: Pings::default(),
            probes: Probes::default(),
            resolver: Resolver::default(),
            publications: Publications::default(),
            own_port: FIRST_PORT,
            swept: now,
            sources,
        }
    }

    /// All that is waited for.
    pub fn sources(&mut self) -> &mut Sources {
        &mut self.sources
    }

    /// Takes a VM in, or changes what is known of one that is there: where its wire is the same, it
    /// and what does not change stay.
    ///
    /// # Errors
    /// A sentence for people: its address or MAC address is taken or impossible here, or a port of
    /// the host cannot be had. Then it is not there any more.
    pub fn attach(&mut self, endpoint: Endpoint, now: Instant) -> Result<Vec<Published>, String> {
        let of_container = |(_, port): &(&PortId, &Port)| {
            let old = &port.endpoint;
            old.container == endpoint.container
                && (old.mac, &old.socket) == (endpoint.mac, &endpoint.socket)
        };
        let attached = match self.ports.iter().find(of_container).map(|(id, _)| *id) {
            Some(id) => self.change(id, &endpoint),
            None => {
                self.detach(&endpoint.container);
                self.add(&endpoint, now)
            }
        };
        if attached.is_err() {
            self.detach(&endpoint.container);
        }
        attached
    }

    fn add(&mut self, endpoint: &Endpoint, now: Instant) -> Result<Vec<Published>, String> {
        self.check_address(None, endpoint.address)?;
        if self.ports.len() >= MAX_PORTS {
            return Err(format!("network {} has {MAX_PORTS} containers already", self.plan.name));
        }
        let id = PortId(self.next_port);
        let mac = EthernetAddress(endpoint.mac.0);
        if !self.switch.add(mac, id) {
            return Err(format!("MAC address {mac} is not free in network {}", self.plan.name));
        }
        let opened =
            self.publications.open(id, &endpoint.publish, self.plan.mode, &mut self.sources);
        let published = opened.inspect_err(|_| self.switch.remove(id))?;
        self.next_port += 1;
        self.gateway.add_names(&endpoint.names, endpoint.address);
        let mut link = Link::new(id, endpoint.socket.clone(), now);
        link.dial(&mut self.sources, now);
        let port = Port {
            identity: Identity { mac, address: endpoint.address },
            lease: self.gateway.lease(endpoint),
            way: self.gateway.way(mac),
            link,
            published: published.clone(),
            endpoint: endpoint.clone(),
            accepted: 0,
            refused: 0,
        };
        self.ports.insert(id, port);
        Ok(published)
    }

    fn change(&mut self, id: PortId, endpoint: &Endpoint) -> Result<Vec<Published>, String> {
        self.check_address(Some(id), endpoint.address)?;
        let sources = &mut self.sources;
        let port = self.ports.get_mut(&id).ok_or("the container is gone")?;
        if port.identity.address != endpoint.address {
            self.tcp.remove_port(id, sources);
            self.udp.remove_port(id, sources);
            self.pings.remove_port(id, sources);
            self.resolver.remove_port(id, sources);
            self.probes.remove_port(id);
        }
        let has: Vec<_> = port.published.iter().map(Publish::from).collect();
        if has != endpoint.publish {
            // Conversations with clients of the old ports hold their sockets.
            self.udp.remove_port(id, sources);
            self.publications.remove_port(id, sources);
            port.published =
                self.publications.open(id, &endpoint.publish, self.plan.mode, sources)?;
        }
        self.gateway.remove_names(port.identity.address);
        self.gateway.add_names(&endpoint.names, endpoint.address);
        port.identity.address = endpoint.address;
        port.lease = self.gateway.lease(endpoint);
        port.endpoint = endpoint.clone();
        Ok(port.published.clone())
    }

    fn check_address(&self, of: Option<PortId>, address: Ipv4Addr) -> Result<(), String> {
        let mut others = self.ports.iter().filter(|(id, _)| Some(**id) != of);
        let is_taken = others.any(|(_, port)| port.identity.address == address);
        match self.gateway.is_inside(address) && address != self.gateway.address && !is_taken {
            true => Ok(()),
            false => Err(format!("address {address} is not free in network {}", self.plan.name)),
        }
    }

    /// Lets a container's VM go; fine where it is not there.
    pub fn detach(&mut self, container: &str) {
        let of_container = |(_, port): &(&PortId, &Port)| port.endpoint.container == container;
        let Some(id) = self.ports.iter().find(of_container).map(|(id, _)| *id) else { return };
        let Some(mut port) = self.ports.remove(&id) else { return };
        port.link.hang_up(&mut self.sources, self.swept);
        self.unread.remove(&id);
        self.switch.remove(id);
        self.gateway.remove_names(port.identity.address);
        self.tcp.remove_port(id, &mut self.sources);
        self.udp.remove_port(id, &mut self.sources);
        self.pings.remove_port(id, &mut self.sources);
        self.probes.remove_port(id);
        self.resolver.remove_port(id, &mut self.sources);
        self.publications.remove_port(id, &mut self.sources);
    }

    /// Tries a port of a container's; what comes of it [`Switchboard::probed`] tells.
    ///
    /// # Errors
    /// A sentence for people: the container is not there.
    pub fn probe(
        &mut self,
        client: u64,
        container: &str,
        guest_port: u16,
        now: Instant,
    ) -> Result<(), String> {
        let found = self.ports.iter_mut().find(|(_, port)| port.endpoint.container == container);
        let Some((&id, port)) = found else {
            return Err(format!("container {container} is not in network {}", self.plan.name));
        };
        let key = |other| FlowKey { port: id, guest: guest_port, other };
        let is_free = |other| !self.tcp.contains(&key(other)) && !self.probes.contains(&key(other));
        let own = free_port(self.gateway.address, &mut self.own_port, &is_free)
            .ok_or("the gateway has no port left")?;
        let guest = SocketAddrV4::new(port.identity.address, guest_port);
        self.probes.begin(key(own), client, guest, port, now);
        Ok(())
    }

    /// The answer to a question about a name of the network's own; `None` where it is none.
    pub fn resolve(&self, query: &[u8]) -> Option<Vec<u8>> {
        self.gateway.known(query)
    }

    /// Which clients can be told whether the port that they asked for is open.
    pub fn probed(&mut self) -> Vec<(u64, bool)> {
        self.probes.take_decided()
    }

    /// Listens on a unix socket for connections to a port of a container's.
    ///
    /// # Errors
    /// A sentence for people: the container is not there, or the socket cannot be made.
    pub fn open(&mut self, container: &str, guest_port: u16, path: &Path) -> Result<(), String> {
        let found = self.ports.iter().find(|(_, port)| port.endpoint.container == container);
        let Some((&id, _)) = found else {
            return Err(format!("container {container} is not in network {}", self.plan.name));
        };
        self.publications
            .open_socket(id, guest_port, path, &mut self.sources)
            .map_err(|error| format!("cannot listen on {}: {error}", path.display()))
    }

    /// Who is there.
    pub fn status(&self) -> Vec<EndpointStatus> {
        let status = |port: &Port| EndpointStatus {
            container: port.endpoint.container.clone(),
            connected: port.link.is_up(),
            published: port.published.clone(),
            accepted: port.accepted,
            refused: port.refused,
        };
        self.ports.values().map(status).collect()
    }

    /// Something happened to a socket of the network's.
    pub fn event(&mut self, source: Source, event: &mio::event::Event, now: Instant) {
        let gateway = self.gateway.address;
        match source {
            // That it takes more again is seen by whoever writes next.
            Source::Link(id)
                if event.is_readable() || event.is_read_closed() || event.is_error() =>
            {
                self.unread.insert(id);
            }
            Source::Link(_) => {}
            Source::Tcp(key) => {
                if let Some(port) = self.ports.get_mut(&key.port) {
                    self.tcp.event(key, event, port, &mut self.sources, now);
                }
            }
            Source::Udp(key) => self.udp.event(key, gateway, &mut self.ports, now),
            Source::Ping(key) => self.pings.event(key, &mut self.ports),
            Source::Lookup(id) => {
                let sources = &mut self.sources;
                self.resolver.event(id, gateway, &mut self.ports, sources, now);
            }
            Source::Published(number) => self.client(number, now),
            Source::Control | Source::Client(_) => {}
        }
    }

    /// Does what is due; how long there is nothing to do if nothing happens.
    pub fn settle(&mut self, now: Instant) -> Option<Duration> {
        for port in self.ports.values_mut() {
            port.link.dial(&mut self.sources, now);
        }
        for id in std::mem::take(&mut self.unread) {
            self.read(id, now);
        }
        self.tcp.service(&mut self.ports, &mut self.sources, now);
        self.probes.settle(&mut self.ports, now);
        self.resolver.sweep(self.gateway.address, &mut self.ports, &mut self.sources, now);
        for port in self.ports.values_mut() {
            port.link.flush(&mut self.sources, now);
        }
        if now >= self.swept + SWEEP {
            self.swept = now;
            self.udp.sweep(&mut self.sources, now);
            self.pings.sweep(&mut self.sources, now);
        }
        if !self.unread.is_empty() || self.tcp.is_ready(&self.ports) {
            return Some(Duration::ZERO);
        }
        let has_leases = !self.udp.is_empty() || !self.pings.is_empty();
        let next = self
            .ports
            .values()
            .filter_map(|port| port.link.redial_at())
            .chain(self.tcp.next_timer())
            .chain(self.probes.next_timer())
            .chain(self.resolver.next_deadline())
            .chain(has_leases.then(|| self.swept + SWEEP))
            .min()?;
        Some(if next > now { next - now } else { Duration::ZERO })
    }

    fn read(&mut self, id: PortId, now: Instant) {
        for _ in 0..TURNS {
            let Some(port) = self.ports.get_mut(&id) else { return };
            if port.link.read(&mut self.sources, now) == Heard::Nothing {
                return;
            }
            let mut incoming = std::mem::take(&mut port.link.incoming);
            let cut = loop {
                match incoming.next_frame() {
                    Ok(Some(frame)) => self.frame(id, frame, now),
                    Ok(None) => break Ok(()),
                    Err(overlong) => break Err(overlong),
                }
            };
            let Some(port) = self.ports.get_mut(&id) else { return };
            port.link.incoming = incoming;
            if cut.is_err() {
                tracing::warn!(
                    container = port.endpoint.container,
                    "a VM claims a frame that cannot be: its link is made anew"
                );
                port.link.hang_up(&mut self.sources, now);
                return;
            }
        }
        self.unread.insert(id);
    }

    /// A frame from a VM.
    fn frame(&mut self, from: PortId, frame: &[u8], now: Instant) {
        let Some(port) = self.ports.get_mut(&from) else { return };
        let admitted = match port.identity.admit(frame) {
            Ok(admitted) => admitted,
            Err(_) => {
                port.refused += 1;
                return;
            }
        };
        port.accepted += 1;
        let targets = self.switch.targets(from, &admitted);
        let copy = |port: &mut Port| {
            port.link.out.push(frame.len(), |space| space.copy_from_slice(frame));
        };
        match targets.guests {
            Guests::None => {}
            Guests::One(to) => {
                if let Some(port) = self.ports.get_mut(&to) {
                    copy(port);
                }
            }
            Guests::Others => {
                let others = self.ports.iter_mut().filter(|(id, _)| **id != from);
                others.for_each(|(_, port)| copy(port));
            }
        }
        if targets.gateway
            && let Some(port) = self.ports.get_mut(&from)
        {
            let step = self.gateway.receive(&port.lease, admitted.content, &mut port.link.out);
            self.step(from, step, now);
        }
    }

    /// What the gateway left to do.
    fn step(&mut self, from: PortId, step: Step, now: Instant) {
        let Some(port) = self.ports.get_mut(&from) else { return };
        let sources = &mut self.sources;
        let host = &mut self.host;
        match step {
            Step::Done => {}
            Step::Tcp { to, packet } => {
                let Some((guest, other)) = tcp_ports(&packet) else { return };
                let other = SocketAddrV4::new(packet.dst_addr(), other);
                let key = FlowKey { port: from, guest, other };
                if self.probes.segment(&key, &packet, port, now)
                    || (to == Destination::Nowhere && !self.tcp.contains(&key))
                {
                    return;
                }
                let resolver = match to {
                    Destination::Resolver => self.resolver.servers(&port.endpoint.dns),
                    _ => Vec::new(),
                };
                let to = || reach(to, host, now).or_else(|| resolver.first().copied());
                self.tcp.segment(key, &packet, to, port, sources, now);
            }
            Step::Udp { to, packet, ports: (guest, other), payload } => {
                let other = SocketAddrV4::new(packet.dst_addr(), other);
                let key = UdpKey { port: from, guest, other };
                self.udp.send(key, payload, || reach(to, host, now), sources, now);
            }
            Step::Ping { to, ident, seq_no, data } => {
                let key = PingKey { port: from, ident, to };
                self.pings.send(key, seq_no, data, sources, now);
            }
            Step::Question { port: guest, query } => {
                let outside = self.gateway.leads_outside();
                let asked = Asked { guest_port: guest, query, outside };
                self.resolver.ask((from, port), asked, self.gateway.address, sources, now);
            }
        }
    }

    /// Clients came to a published port.
    fn client(&mut self, number: u64, now: Instant) {
        let Some(publication) = self.publications.all.get(&number) else { return };
        let (id, guest_port) = (publication.port, publication.guest_port);
        let Some(port) = self.ports.get_mut(&id) else { return };
        let view = View { gateway: &self.gateway, mode: self.plan.mode };
        match &publication.listener {
            Listener::Unix(listener, _) => {
                while let Ok((stream, _)) = listener.accept() {
                    let key = |other| FlowKey { port: id, guest: guest_port, other };
                    let is_free = |other| {
                        !self.tcp.contains(&key(other)) && !self.probes.contains(&key(other))
                    };
                    let own = free_port(self.gateway.address, &mut self.own_port, &is_free);
                    let Some(own) = own else { continue };
                    let guest = SocketAddrV4::new(port.identity.address, guest_port);
                    let stream = HostStream::Unix(stream);
                    self.tcp.accept(key(own), stream, guest, port.way, &mut self.sources, now);
                }
            }
            Listener::Tcp(listener) => {
                while let Ok((stream, client)) = listener.accept() {
                    let key = |other| FlowKey { port: id, guest: guest_port, other };
                    let is_free = |other| {
                        !self.tcp.contains(&key(other)) && !self.probes.contains(&key(other))
                    };
                    let Some(other) = view.of(client, &mut self.own_port, &is_free) else {
                        continue;
                    };
                    let guest = SocketAddrV4::new(port.identity.address, guest_port);
                    let stream = HostStream::Tcp(stream);
                    self.tcp.accept(key(other), stream, guest, port.way, &mut self.sources, now);
                }
            }
            Listener::Udp(socket) => {
                let own_port = &mut self.own_port;
                let mut visible = |client, is_free: &dyn Fn(SocketAddrV4) -> bool| {
                    view.of(client, own_port, is_free)
                };
                while self.udp.receive(number, socket, (id, port), guest_port, now, &mut visible) {}
            }
        }
    }
}

/// The socket address of a destination; `None` where the host has none.
fn reach(to: Destination, host: &mut HostAddress, now: Instant) -> Option<SocketAddr> {
    match to {
        Destination::Outside(address) => Some(SocketAddr::V4(address)),
        Destination::Host(port) => Some(SocketAddrV4::new(host.now(now)?, port).into()),
        Destination::Resolver | Destination::Nowhere => None,
    }
}

/// The ports of a TCP segment whose header was checked.
fn tcp_ports(packet: &Ipv4Packet<&[u8]>) -> Option<(u16, u16)> {
    let &[a, b, c, d] = packet.payload().first_chunk::<4>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}
