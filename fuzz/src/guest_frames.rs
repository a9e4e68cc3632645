//! What a guest puts on the wire, up to where the host's sockets would come in.

use std::net::Ipv4Addr;

use ireko_network::admission::Identity;
use ireko_network::endpoint::Endpoint;
use ireko_network::gateway::{Gateway, Step};
use ireko_network::queue::{Incoming, Outgoing};
use ireko_network::switch::{PortId, Switch};
use ireko_protocol::network::{MacAddress, Mode, NetworkPlan, VERSION};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, TcpPacket};
use std::net::SocketAddrV4;

const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 2]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// What a session can make the gateway say, and more.
const MAX_ANSWER: usize = 4 << 20;

/// The first byte chooses the network's mode; the rest is what QEMU sends, frames after their
/// lengths. A frame's addresses are made right where the first byte says so, since a fuzzer would
/// not guess them.
pub fn run(data: &[u8]) {
    let (control, session) = data.split_first().unwrap_or((&0, &[]));
    let mode = [Mode::Nat, Mode::Natnet, Mode::Hostonly, Mode::Internal][usize::from(control & 3)];
    let honest = control & 4 == 0;
    let mut gateway = Gateway::new(&plan(mode));
    gateway.add_names(&["guest.net".into(), "guest".into()], ADDRESS);
    let mut switch = Switch::new(mode, gateway.mac);
    assert!(switch.add(MAC, PortId(1)));
    let lease = gateway.lease(&guest());
    let identity = Identity { mac: MAC, address: ADDRESS };
    let (mut incoming, mut out) = (Incoming::default(), Outgoing::default());
    let mut connection: Option<Endpoint> = None;
    let mut said = 0;
    let mut time = 0;
    for piece in session.chunks(1 << 10) {
        incoming.space()[..piece.len()].copy_from_slice(piece);
        incoming.filled(piece.len());
        loop {
            let frame = match incoming.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => return,
            };
            let mut frame = frame.to_vec();
            if honest {
                make_honest(&mut frame, gateway.mac);
            }
            time += 1000;
            let now = Instant::from_micros(time);
            let Ok(admitted) = identity.admit(&frame) else { continue };
            if !switch.targets(PortId(1), &admitted).gateway {
                continue;
            }
            let step = gateway.receive(&lease, admitted.content, &mut out);
            if let Step::Tcp { packet, .. } = step {
                let Ok(segment) = TcpPacket::new_checked(packet.payload()) else { continue };
                let other = SocketAddrV4::new(packet.dst_addr(), segment.dst_port());
                let way = gateway.way(MAC);
                let end = connection.get_or_insert_with(|| Endpoint::accepting(other, way, now));
                end.receive(packet.into_inner(), &mut out, now);
                let mut word = [0; 256];
                // Closed, or not open yet: there is nothing to read.
                let _ = end.socket().recv_slice(&mut word);
                let _ = end.socket().send_slice(&word);
                end.poll(&mut out, now);
            }
            said += out.pending().len();
            assert!(said <= MAX_ANSWER, "the gateway does not stop talking");
            out.clear();
        }
    }
}

fn guest() -> ireko_protocol::network::Endpoint {
    ireko_protocol::network::Endpoint {
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
    }
}

/// Writes the addresses and the header's checksum that the frame would need to be looked at.
fn make_honest(frame: &mut [u8], gateway: EthernetAddress) {
    if frame.len() < 34 {
        return;
    }
    if frame[0] & 1 == 0 {
        frame[..6].copy_from_slice(&gateway.0);
    }
    frame[6..12].copy_from_slice(&MAC.0);
    match frame[12..14] {
        [8, 0] => {
            frame[26..30].copy_from_slice(&ADDRESS.octets());
            let mut packet = smoltcp::wire::Ipv4Packet::new_unchecked(&mut frame[14..]);
            packet.set_version(4);
            packet.set_header_len(20);
            packet.fill_checksum();
        }
        [8, 6] => {
            frame[22..28].copy_from_slice(&MAC.0);
            frame[28..32].copy_from_slice(&ADDRESS.octets());
        }
        _ => {}
    }
}

fn plan(mode: Mode) -> NetworkPlan {
    NetworkPlan {
        version: VERSION,
        network: "ab".repeat(32),
        name: "net".into(),
        mode,
        subnet: Ipv4Addr::new(10, 9, 0, 0),
        prefix: 24,
        gateway: Ipv4Addr::new(10, 9, 0, 1),
        mtu: 1500,
        host_loopback: false,
        names: true,
        socket: "/nowhere".into(),
    }
}
