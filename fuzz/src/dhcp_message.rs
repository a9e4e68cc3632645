//! What a guest says to the DHCP server.

use ireko_network::dhcp::{Lease, answer};
use smoltcp::wire::{DhcpPacket, DhcpRepr, EthernetAddress};
use std::net::Ipv4Addr;

const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The longest message that every client takes. Source: RFC 2131, 2.
const MAX_ANSWER: usize = 576 - 20 - 8;
/// Where the hardware address, the fixed part's end and the cookie behind it are.
const HARDWARE: std::ops::Range<usize> = 28..34;
const COOKIE: std::ops::Range<usize> = 236..240;

/// The first byte chooses whether there is a router, how long the host name is, and whether what the
/// fuzzer would not guess is made right; the rest is the message.
pub fn run(data: &[u8]) {
    let (control, message) = data.split_first().unwrap_or((&0, &[]));
    let lease = Lease {
        mac: MAC,
        address: ADDRESS,
        prefix: 24,
        server: SERVER,
        router: (control & 1 == 0).then_some(SERVER),
        mtu: 1500,
        hostname: "x".repeat(usize::from(control >> 2)),
    };
    let mut message = message.to_vec();
    if control & 2 == 0 && message.len() >= COOKIE.end {
        message[..4].copy_from_slice(&[1, 1, 6, 0]);
        message[HARDWARE].copy_from_slice(&MAC.0);
        message[COOKIE].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    }
    let Some(answer) = answer(&message, &lease) else { return };
    assert!(answer.message.len() <= MAX_ANSWER, "{} bytes", answer.message.len());
    assert!(answer.to == ADDRESS || answer.to.is_broadcast(), "sent to {}", answer.to);
    let packet = DhcpPacket::new_checked(&answer.message[..]).expect("a DHCP message");
    let said = DhcpRepr::parse(&packet).expect("one that can be read");
    assert_eq!(said.client_hardware_address, MAC);
    assert_eq!(said.server_identifier, Some(SERVER));
    assert!(said.your_ip == ADDRESS || said.your_ip.is_unspecified(), "{} is given", said.your_ip);
}
