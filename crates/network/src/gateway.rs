//! The gateway's own answers: ARP, ping, DHCP, names; and what of the rest may go on to the host.
//!
//! Pure: a packet in, frames into the asker's queue, and what is left for [`crate::uplink`] to do
//! with sockets.
//!
//! ```text
//!                 the gateway's address     other addresses
//!   nat, natnet   the host                  outside
//!   hostonly      the host                  nothing
//!   internal      DHCP and names only       nothing
//! ```

use crate::admission::Content;
use crate::dhcp::{self, Lease};
use crate::frame::Way;
use crate::names::{Lookup, Names};
use crate::queue::Outgoing;
use ireko_protocol::network::{Endpoint, Mode, NetworkPlan};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Cidr,
    Ipv4Packet, TcpPacket, UdpPacket, UdpRepr,
};
use std::net::{Ipv4Addr, SocketAddrV4};

pub(crate) const DNS: u16 = 53;

/// What DNS names stand for the gateway's address where it leads to the host.
const HOST_NAMES: [&str; 2] = ["host.docker.internal", "gateway.docker.internal"];

/// The gateway of one network.
#[derive(Debug)]
pub struct Gateway {
    /// Its MAC address: made from the network's id, so that a new switch has it again.
    pub mac: EthernetAddress,
    /// Its address.
    pub address: Ipv4Addr,
    subnet: Ipv4Cidr,
    mode: Mode,
    mtu: u16,
    resolves_names: bool,
    names: Names,
}

/// The host's side of a guest's packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The host, which the gateway's address stands for.
    Host(u16),
    /// Whoever the host asks for names.
    Resolver,
    /// Any other address.
    Outside(SocketAddrV4),
    /// Nowhere, unless it is about a connection that the gateway itself made.
    Nowhere,
}

/// What is left to do with a packet.
#[derive(Debug)]
pub enum Step<'a> {
    /// Nothing.
    Done,
    /// A TCP segment.
    Tcp {
        /// Where its connection leads.
        to: Destination,
        /// The whole packet.
        packet: Ipv4Packet<&'a [u8]>,
    },
    /// A datagram.
    Udp {
        /// Where it leads.
        to: Destination,
        /// The whole packet.
        packet: Ipv4Packet<&'a [u8]>,
        /// The guest's port and whom it speaks to.
        ports: (u16, u16),
        /// What it says.
        payload: &'a [u8],
    },
    /// A ping of somebody outside.
    Ping {
        /// Whom.
        to: Ipv4Addr,
        /// The guest's number for this run of pings.
        ident: u16,
        /// The number of the ping.
        seq_no: u16,
        /// What is to be sent back.
        data: &'a [u8],
    },
    /// A question about a name that is not the network's own.
    Question {
        /// The guest's port.
        port: u16,
        /// The DNS message.
        query: &'a [u8],
    },
}

impl Gateway {
    /// The gateway that a plan asks for.
    pub fn new(plan: &NetworkPlan) -> Self {
        let mut names = Names::default();
        if plan.mode != Mode::Internal {
            let own: Vec<_> = HOST_NAMES.iter().map(|name| (*name).to_owned()).collect();
            names.add(&own, plan.gateway);
        }
        Self {
            mac: mac_of(&plan.network),
            address: plan.gateway,
            subnet: Ipv4Cidr::new(plan.subnet, plan.prefix),
            mode: plan.mode,
            mtu: plan.mtu,
            // Guests that cannot reach each other have no use for each other's names.
            resolves_names: plan.names && plan.mode != Mode::Nat,
            names,
        }
    }

    /// Whether an address is one of the network's.
    pub fn is_inside(&self, address: Ipv4Addr) -> bool {
        self.subnet.contains_addr(&address)
    }

    /// Takes a container's names in.
    pub fn add_names(&mut self, names: &[String], address: Ipv4Addr) {
        if self.resolves_names {
            self.names.add(names, address);
        }
    }

    /// Forgets a container's names.
    pub fn remove_names(&mut self, address: Ipv4Addr) {
        self.names.remove(address);
    }

    /// The answer to a question about a name of the network's; `None` where it is no such name.
    pub fn known(&self, query: &[u8]) -> Option<Vec<u8>> {
        match self.names.answer(query) {
            Lookup::Answer(answer) => Some(answer),
            Lookup::Forward | Lookup::Ignore => None,
        }
    }

    /// From the gateway to a guest.
    pub fn way(&self, guest: EthernetAddress) -> Way {
        Way { from: self.mac, to: guest, mtu: usize::from(self.mtu) }
    }

    /// What a guest's DHCP client is told.
    pub fn lease(&self, guest: &Endpoint) -> Lease {
        Lease {
            mac: EthernetAddress(guest.mac.0),
            address: guest.address,
            prefix: self.subnet.prefix_len(),
            server: self.address,
            router: (guest.default_route && self.leads_outside()).then_some(self.address),
            mtu: self.mtu,
            hostname: guest.hostname.clone(),
        }
    }

    /// Answers what a guest sent to the gateway, or says what is left to do.
    pub fn receive<'a>(&self, lease: &Lease, content: Content<'a>, out: &mut Outgoing) -> Step<'a> {
        let way = self.way(lease.mac);
        match content {
            Content::ArpRequest { target, sender } if target == self.address => {
                way.arp_reply(out, target, sender);
                Step::Done
            }
            Content::ArpRequest { .. } | Content::ArpReply => Step::Done,
            Content::Dhcp(request) => {
                if let Some(answer) = dhcp::answer(request, lease) {
                    let from = SocketAddrV4::new(self.address, crate::admission::DHCP_SERVER);
                    let to = SocketAddrV4::new(answer.to, crate::admission::DHCP_CLIENT);
                    way.udp(out, from, to, &answer.message);
                }
                Step::Done
            }
            Content::Ip(packet) => self.route(way, packet, out),
        }
    }

    fn route<'a>(&self, way: Way, packet: Ipv4Packet<&'a [u8]>, out: &mut Outgoing) -> Step<'a> {
        // Ireko does not put fragments together.
        if packet.more_frags() || packet.frag_offset() != 0 || !packet.verify_checksum() {
            return Step::Done;
        }
        let (to, payload) = (packet.dst_addr(), packet.payload());
        let step = match packet.next_header() {
            IpProtocol::Tcp => self.route_tcp(&packet, payload),
            IpProtocol::Udp => self.route_udp(way, &packet, payload, out),
            IpProtocol::Icmp => self.route_ping(way, &packet, payload, out),
            _ => None,
        };
        step.unwrap_or_else(|| {
            if to.is_broadcast() || to.is_multicast() || Some(to) == self.subnet.broadcast() {
                return Step::Done;
            }
            let reason = Icmpv4DstUnreachable::CommProhibited;
            way.unreachable(out, self.address, &packet, reason);
            Step::Done
        })
    }

    fn route_tcp<'a>(&self, packet: &Ipv4Packet<&'a [u8]>, payload: &'a [u8]) -> Option<Step<'a>> {
        let Ok(segment) = TcpPacket::new_checked(payload) else { return Some(Step::Done) };
        let begins = segment.syn() && !segment.ack();
        let is_answer = packet.dst_addr() == self.address && !begins;
        let to = self
            .destination(packet.dst_addr(), segment.dst_port())
            .or(is_answer.then_some(Destination::Nowhere))?;
        Some(Step::Tcp { to, packet: packet.clone() })
    }

    fn route_udp<'a>(
        &self,
        way: Way,
        packet: &Ipv4Packet<&'a [u8]>,
        payload: &'a [u8],
        out: &mut Outgoing,
    ) -> Option<Step<'a>> {
        let Ok(datagram) = UdpPacket::new_checked(payload) else { return Some(Step::Done) };
        let (from, to) = (packet.src_addr(), packet.dst_addr());
        let sums = ChecksumCapabilities::default();
        let Ok(UdpRepr { src_port, dst_port }) =
            UdpRepr::parse(&datagram, &from.into(), &to.into(), &sums)
        else {
            return Some(Step::Done);
        };
        let payload = datagram.payload();
        if to == self.address && dst_port == DNS {
            let gateway = SocketAddrV4::new(self.address, DNS);
            let guest = SocketAddrV4::new(from, src_port);
            return Some(self.resolve(way, gateway, guest, payload, out));
        }
        let to = self.destination(to, dst_port)?;
        Some(Step::Udp { to, packet: packet.clone(), ports: (src_port, dst_port), payload })
    }

    fn resolve<'a>(
        &self,
        way: Way,
        gateway: SocketAddrV4,
        guest: SocketAddrV4,
        query: &'a [u8],
        out: &mut Outgoing,
    ) -> Step<'a> {
        match self.names.answer(query) {
            Lookup::Answer(answer) => way.udp(out, gateway, guest, &answer),
            Lookup::Forward => return Step::Question { port: guest.port(), query },
            Lookup::Ignore => {}
        }
        Step::Done
    }

    fn route_ping<'a>(
        &self,
        way: Way,
        packet: &Ipv4Packet<&'a [u8]>,
        payload: &'a [u8],
        out: &mut Outgoing,
    ) -> Option<Step<'a>> {
        let Ok(message) = Icmpv4Packet::new_checked(payload) else { return Some(Step::Done) };
        let parsed = Icmpv4Repr::parse(&message, &ChecksumCapabilities::default());
        let Ok(Icmpv4Repr::EchoRequest { ident, seq_no, .. }) = parsed else {
            return Some(Step::Done);
        };
        // Not what the parse gives, which lives as long as `message`.
        let data = payload.get(8..)?;
        let to = packet.dst_addr();
        if to == self.address && self.mode != Mode::Internal {
            let reply = Icmpv4Repr::EchoReply { ident, seq_no, data };
            way.icmp(out, to, packet.src_addr(), &reply);
            return Some(Step::Done);
        }
        self.destination(to, 0)?;
        Some(Step::Ping { to, ident, seq_no, data })
    }

    /// Where packets for an address and port lead; `None` where nowhere.
    fn destination(&self, to: Ipv4Addr, port: u16) -> Option<Destination> {
        if to == self.address {
            return match self.mode {
                Mode::Internal => None,
                _ if port == DNS => self.leads_outside().then_some(Destination::Resolver),
                _ => Some(Destination::Host(port)),
            };
        }
        let is_somebody = !to.is_loopback()
            && !to.is_unspecified()
            && !to.is_multicast()
            && !to.is_broadcast()
            // This network, and addresses that are nobody's: 0/8 and 240/4.
            && !self.is_inside(to)
            && !matches!(to.octets()[0], 0 | 240..);
        (is_somebody && self.leads_outside())
            .then(|| Destination::Outside(SocketAddrV4::new(to, port)))
    }

    /// Whether there is a way outside.
    pub fn leads_outside(&self) -> bool {
        matches!(self.mode, Mode::Nat | Mode::Natnet)
    }
}

/// A locally administered address that the network always has.
fn mac_of(network: &str) -> EthernetAddress {
    let digit = |at: usize| network.get(at..at + 2).and_then(|d| u8::from_str_radix(d, 16).ok());
    let byte = |index: usize| digit(index * 2).unwrap_or_default();
    EthernetAddress([0x06, byte(0), byte(1), byte(2), byte(3), byte(4)])
}
