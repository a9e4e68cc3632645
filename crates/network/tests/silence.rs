//! What a gateway answers or passes on to the host, port for port and protocol for protocol, so that
//! all else is known to stay unheard.

use ireko_network::admission::Identity;
use ireko_network::gateway::{Gateway, Step};
use ireko_network::queue::{Incoming, Outgoing};
use ireko_protocol::network::{Endpoint, MacAddress, Mode, NetworkPlan, VERSION};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Message, Icmpv4Packet,
    IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket,
    UdpRepr,
};
use std::net::Ipv4Addr;

const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// Nobody's, or not for a guest to speak to: a neighbour's place, loopback, all and several, the
/// unspecified one, and those that are reserved.
const NOBODY: [Ipv4Addr; 7] = [
    Ipv4Addr::new(10, 9, 0, 77),
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::BROADCAST,
    Ipv4Addr::new(10, 9, 0, 255),
    Ipv4Addr::new(224, 0, 0, 251),
    Ipv4Addr::UNSPECIFIED,
    Ipv4Addr::new(240, 0, 0, 1),
];
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const DNS_QUESTION: &[u8] = b"\x12\x67\x01\0\0\x01\0\0\0\0\0\0\x01x\0\0\x01\0\x01";

struct Network {
    gateway: Gateway,
    guest: Endpoint,
}

impl Network {
    fn new(mode: Mode) -> Self {
        let gateway = Gateway::new(&NetworkPlan {
            version: VERSION,
            network: "ab".repeat(32),
            name: "net".into(),
            mode,
            subnet: Ipv4Addr::new(10, 9, 0, 0),
            prefix: 24,
            gateway: GATEWAY,
            mtu: 1500,
            host_loopback: true,
            names: true,
            socket: "/nowhere".into(),
        });
        let guest = Endpoint {
            container: "cd".repeat(32),
            mac: MacAddress(MAC.0),
            address: ADDRESS,
            socket: "/nowhere".into(),
            hostname: "guest".into(),
            names: Vec::new(),
            default_route: true,
            dns: Vec::new(),
            siblings: Vec::new(),
            publish: Vec::new(),
        };
        Self { gateway, guest }
    }

    /// Whether anything comes of a packet but the word that it went nowhere.
    fn answers(
        &self,
        to: Ipv4Addr,
        protocol: IpProtocol,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> bool {
        let mut frame = vec![0; 14 + 20 + length];
        let ethernet = EthernetRepr {
            src_addr: MAC,
            dst_addr: self.gateway.mac,
            ethertype: EthernetProtocol::Ipv4,
        };
        ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame));
        let ip = Ipv4Repr {
            src_addr: ADDRESS,
            dst_addr: to,
            next_header: protocol,
            payload_len: length,
            hop_limit: 64,
        };
        ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &ChecksumCapabilities::default());
        fill(&mut frame[34..]);
        let identity = Identity { mac: MAC, address: ADDRESS };
        let Ok(admitted) = identity.admit(&frame) else { return false };
        let mut out = Outgoing::default();
        let lease = self.gateway.lease(&self.guest);
        let step = self.gateway.receive(&lease, admitted.content, &mut out);
        !matches!(step, Step::Done) || says_more_than_no(&out)
    }

    fn answers_udp(&self, to: Ipv4Addr, port: u16) -> bool {
        let repr = UdpRepr { src_port: 4000, dst_port: port };
        self.answers(to, IpProtocol::Udp, 8 + DNS_QUESTION.len(), |bytes| {
            repr.emit(
                &mut UdpPacket::new_unchecked(bytes),
                &ADDRESS.into(),
                &to.into(),
                DNS_QUESTION.len(),
                |payload| payload.copy_from_slice(DNS_QUESTION),
                &ChecksumCapabilities::default(),
            );
        })
    }

    fn answers_tcp(&self, to: Ipv4Addr, port: u16) -> bool {
        let repr = TcpRepr {
            src_port: 4000,
            dst_port: port,
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(1),
            ack_number: None,
            window_len: 1000,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None, None, None],
            timestamp: None,
            payload: &[],
        };
        self.answers(to, IpProtocol::Tcp, repr.buffer_len(), |bytes| {
            repr.emit(
                &mut TcpPacket::new_unchecked(bytes),
                &ADDRESS.into(),
                &to.into(),
                &ChecksumCapabilities::default(),
            );
        })
    }

    /// Zeros, which no known protocol's message begins with.
    fn answers_protocol(&self, to: Ipv4Addr, protocol: u8) -> bool {
        self.answers(to, IpProtocol::from(protocol), 64, |_| {})
    }
}

fn says_more_than_no(out: &Outgoing) -> bool {
    let mut incoming = Incoming::default();
    incoming.space()[..out.pending().len()].copy_from_slice(out.pending());
    incoming.filled(out.pending().len());
    while let Some(frame) = incoming.next_frame().expect("frames are cut right") {
        let packet = Ipv4Packet::new_checked(&frame[14..]).expect("an IP packet");
        let refusal = Icmpv4Packet::new_checked(packet.payload())
            .is_ok_and(|message| message.msg_type() == Icmpv4Message::DstUnreachable);
        if packet.next_header() != IpProtocol::Icmp || !refusal {
            return true;
        }
    }
    false
}

#[test]
fn an_internal_gateway_answers_questions_about_names_and_nothing_else() {
    let network = Network::new(Mode::Internal);
    let open: Vec<_> = (0..=u16::MAX).filter(|port| network.answers_udp(GATEWAY, *port)).collect();
    assert_eq!(open, [53]);
    let open: Vec<_> = (0..=u16::MAX).filter(|port| network.answers_tcp(GATEWAY, *port)).collect();
    assert!(open.is_empty(), "{open:?}");
    for to in NOBODY.into_iter().chain([OUTSIDE]) {
        assert!(!network.answers_udp(to, 53) && !network.answers_tcp(to, 53), "{to}");
    }
}

#[test]
fn nobody_answers_in_anothers_place_in_any_mode() {
    for mode in [Mode::Nat, Mode::Natnet, Mode::Hostonly, Mode::Internal] {
        let network = Network::new(mode);
        for to in NOBODY {
            for port in [1, 7, 22, 53, 67, 80, 137, 1900, 5353, 5355, 65535] {
                assert!(!network.answers_udp(to, port), "{mode:?}: {to}:{port}/udp");
                assert!(!network.answers_tcp(to, port), "{mode:?}: {to}:{port}/tcp");
            }
        }
        let leads_outside = matches!(mode, Mode::Nat | Mode::Natnet);
        assert_eq!(network.answers_tcp(OUTSIDE, 80), leads_outside, "{mode:?}");
        assert_eq!(network.answers_udp(OUTSIDE, 80), leads_outside, "{mode:?}");
        for to in NOBODY.into_iter().chain([GATEWAY, OUTSIDE]) {
            let open: Vec<_> =
                (0..=u8::MAX).filter(|number| network.answers_protocol(to, *number)).collect();
            assert!(open.is_empty(), "{mode:?}: protocols {open:?} of {to}");
        }
    }
}
