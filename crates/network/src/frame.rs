//! Frames the gateway makes, written straight into a VM's queue.

use crate::queue::Outgoing;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, Ipv4Repr,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};
use std::net::{Ipv4Addr, SocketAddrV4};

pub(crate) const ETHERNET: usize = 14;
pub(crate) const IP: usize = 20;
pub(crate) const UDP: usize = 8;
const HOP_LIMIT: u8 = 64;

/// From the gateway to one guest.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// The gateway's MAC address.
    pub from: EthernetAddress,
    /// The guest's.
    pub to: EthernetAddress,
    /// The longest IP packet.
    pub mtu: usize,
}

impl Way {
    /// Writes the Ethernet header of an IPv4 packet; what is behind it in `frame`.
    pub(crate) fn header<'a>(&self, frame: &'a mut [u8]) -> &'a mut [u8] {
        let repr = EthernetRepr {
            src_addr: self.from,
            dst_addr: self.to,
            ethertype: EthernetProtocol::Ipv4,
        };
        repr.emit(&mut EthernetFrame::new_unchecked(&mut *frame));
        &mut frame[ETHERNET..]
    }

    fn ip(&self, out: &mut Outgoing, repr: Ipv4Repr, fill: impl FnOnce(&mut [u8])) {
        let length = IP + repr.payload_len;
        // Ireko makes no fragments; whoever sends so much is not answered.
        if length > self.mtu {
            return;
        }
        out.push(ETHERNET + length, |frame| {
            let packet = self.header(frame);
            repr.emit(
                &mut Ipv4Packet::new_unchecked(&mut *packet),
                &ChecksumCapabilities::default(),
            );
            fill(&mut packet[IP..]);
        });
    }

    /// A datagram; dropped where it does not fit one packet.
    pub fn udp(&self, out: &mut Outgoing, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
        let header = ip_header(*from.ip(), *to.ip(), IpProtocol::Udp, UDP + payload.len());
        let repr = UdpRepr { src_port: from.port(), dst_port: to.port() };
        self.ip(out, header, |bytes| {
            repr.emit(
                &mut UdpPacket::new_unchecked(bytes),
                &(*from.ip()).into(),
                &(*to.ip()).into(),
                payload.len(),
                |space| space.copy_from_slice(payload),
                &ChecksumCapabilities::default(),
            );
        });
    }

    /// An ICMP message.
    pub fn icmp(&self, out: &mut Outgoing, from: Ipv4Addr, to: Ipv4Addr, message: &Icmpv4Repr) {
        let header = ip_header(from, to, IpProtocol::Icmp, message.buffer_len());
        self.ip(out, header, |bytes| {
            message.emit(&mut Icmpv4Packet::new_unchecked(bytes), &ChecksumCapabilities::default());
        });
    }

    /// Tells the sender of `packet` that it cannot be delivered.
    pub fn unreachable(
        &self,
        out: &mut Outgoing,
        from: Ipv4Addr,
        packet: &Ipv4Packet<&[u8]>,
        reason: Icmpv4DstUnreachable,
    ) {
        let (payload, to) = (packet.payload(), packet.src_addr());
        let header = ip_header(to, packet.dst_addr(), packet.next_header(), payload.len());
        let data = &payload[..payload.len().min(8)];
        self.icmp(out, from, to, &Icmpv4Repr::DstUnreachable { reason, header, data });
    }

    /// Answers a segment of a connection that is not there. Source: RFC 9293, 3.10.7.1.
    pub fn reset(&self, out: &mut Outgoing, packet: &Ipv4Packet<&[u8]>) {
        let Ok(segment) = TcpPacket::new_checked(packet.payload()) else { return };
        if segment.rst() {
            return;
        }
        let (from, to) = (packet.dst_addr(), packet.src_addr());
        let (seq_number, ack_number) = match segment.ack() {
            true => (segment.ack_number(), None),
            false => (TcpSeqNumber(0), Some(segment.seq_number() + segment.segment_len())),
        };
        let repr = TcpRepr {
            src_port: segment.dst_port(),
            dst_port: segment.src_port(),
            control: TcpControl::Rst,
            seq_number,
            ack_number,
            window_len: 0,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None, None, None],
            timestamp: None,
            payload: &[],
        };
        let header = ip_header(from, to, IpProtocol::Tcp, repr.buffer_len());
        self.ip(out, header, |bytes| {
            repr.emit(
                &mut TcpPacket::new_unchecked(bytes),
                &from.into(),
                &to.into(),
                &ChecksumCapabilities::default(),
            );
        });
    }

    /// Says that `address` is the gateway's, to a guest that asked as `sender`.
    pub fn arp_reply(&self, out: &mut Outgoing, address: Ipv4Addr, sender: Ipv4Addr) {
        let repr = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: self.from,
            source_protocol_addr: address,
            target_hardware_addr: self.to,
            target_protocol_addr: sender,
        };
        out.push(ETHERNET + repr.buffer_len(), |bytes| {
            let ethernet = EthernetRepr {
                src_addr: self.from,
                dst_addr: self.to,
                ethertype: EthernetProtocol::Arp,
            };
            let mut frame = EthernetFrame::new_unchecked(bytes);
            ethernet.emit(&mut frame);
            repr.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
        });
    }
}

fn ip_header(from: Ipv4Addr, to: Ipv4Addr, protocol: IpProtocol, payload_len: usize) -> Ipv4Repr {
    Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: protocol,
        payload_len,
        hop_limit: HOP_LIMIT,
    }
}
