//! What a guest may put on the wire: frames from its own MAC and its own address only.
//!
//! A guest's address is a lease bound to its place at the switch, so everything that claims another
//! is a mistake or an attack, and dropped. IPv4 and ARP are all there is: IPv6, VLANs and other
//! protocols are dropped too, since nothing here could vouch for their addresses.

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol,
    Ipv4Packet, UdpPacket,
};
use std::net::Ipv4Addr;

pub(crate) const DHCP_SERVER: u16 = 67;
pub(crate) const DHCP_CLIENT: u16 = 68;

/// Whom frames on one port must be from.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Its MAC address.
    pub mac: EthernetAddress,
    /// Its lease.
    pub address: Ipv4Addr,
}

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is cut short, or its lengths contradict each other.
    Malformed,
    /// It claims another's MAC address.
    ForeignMac,
    /// It claims another's IP address.
    ForeignAddress,
    /// It speaks as a DHCP server.
    DhcpServer,
    /// It is neither IPv4 nor ARP.
    OtherProtocol,
}

/// A frame that is what it claims to be.
#[derive(Debug)]
pub struct Admitted<'a> {
    /// Whom it is for.
    pub to: EthernetAddress,
    /// What it carries.
    pub content: Content<'a>,
}

/// What a frame carries.
#[derive(Debug)]
pub enum Content<'a> {
    /// Who has `target`?
    ArpRequest {
        /// The address asked for.
        target: Ipv4Addr,
        /// The asker's own; unspecified where it only probes.
        sender: Ipv4Addr,
    },
    /// An answer to such a question, about the sender itself.
    ArpReply,
    /// A DHCP client's message.
    Dhcp(&'a [u8]),
    /// Any other IPv4 packet, its header sound and its padding cut off.
    Ip(Ipv4Packet<&'a [u8]>),
}

impl Identity {
    /// Looks at a frame that came in on the port.
    ///
    /// # Errors
    /// The frame is to be dropped.
    pub fn admit<'a>(&self, frame: &'a [u8]) -> Result<Admitted<'a>, Refusal> {
        let frame = EthernetFrame::new_checked(frame).map_err(|_| Refusal::Malformed)?;
        if frame.src_addr() != self.mac {
            return Err(Refusal::ForeignMac);
        }
        let content = match frame.ethertype() {
            EthernetProtocol::Arp => self.admit_arp(frame.payload())?,
            EthernetProtocol::Ipv4 => self.admit_ip(frame.payload())?,
            _ => return Err(Refusal::OtherProtocol),
        };
        Ok(Admitted { to: frame.dst_addr(), content })
    }

    fn admit_arp<'a>(&self, packet: &[u8]) -> Result<Content<'a>, Refusal> {
        let packet = ArpPacket::new_checked(packet).map_err(|_| Refusal::Malformed)?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = ArpRepr::parse(&packet).map_err(|_| Refusal::Malformed)?
        else {
            return Err(Refusal::Malformed);
        };
        if source_hardware_addr != self.mac {
            return Err(Refusal::ForeignMac);
        }
        let is_probe = source_protocol_addr.is_unspecified();
        match operation {
            _ if source_protocol_addr != self.address && !is_probe => Err(Refusal::ForeignAddress),
            ArpOperation::Request => Ok(Content::ArpRequest {
                target: target_protocol_addr,
                sender: source_protocol_addr,
            }),
            ArpOperation::Reply if !is_probe => Ok(Content::ArpReply),
            _ => Err(Refusal::Malformed),
        }
    }

    fn admit_ip<'a>(&self, packet: &'a [u8]) -> Result<Content<'a>, Refusal> {
        let packet = Ipv4Packet::new_checked(packet).map_err(|_| Refusal::Malformed)?;
        if packet.version() != 4 || packet.header_len() < 20 {
            return Err(Refusal::Malformed);
        }
        let packet = {
            // A short frame is padded; nobody behind this needs to see that.
            let length = usize::from(packet.total_len());
            Ipv4Packet::new_unchecked(&packet.into_inner()[..length])
        };
        let is_udp = packet.next_header() == IpProtocol::Udp && packet.frag_offset() == 0;
        let udp = is_udp.then(|| UdpPacket::new_checked(packet.payload()).ok()).flatten();
        if is_udp && udp.is_none() && !packet.more_frags() {
            return Err(Refusal::Malformed);
        }
        // The ports are in the first eight bytes: of a fragment too, which is all that matters here.
        let ports = is_udp.then(|| packet.payload().first_chunk::<4>()).flatten();
        if ports.is_some_and(|&[a, b, _, _]| u16::from_be_bytes([a, b]) == DHCP_SERVER) {
            return Err(Refusal::DhcpServer);
        }
        let is_dhcp =
            |udp: &UdpPacket<&[u8]>| udp.src_port() == DHCP_CLIENT && udp.dst_port() == DHCP_SERVER;
        let from = packet.src_addr();
        match udp.filter(is_dhcp) {
            // From whatever address it had until the engine gave it another: nobody but the server
            // sees it, which answers to this port alone.
            Some(udp) => Ok(Content::Dhcp(udp.payload())),
            None if from == self.address => Ok(Content::Ip(packet)),
            _ => Err(Refusal::ForeignAddress),
        }
    }
}
