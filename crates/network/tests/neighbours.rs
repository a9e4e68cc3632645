//! Who reaches whom, and what nobody may send.

mod bench;

use bench::{GATEWAY, Guest, Network};
use ireko_protocol::network::{Answer, EndpointStatus, MacAddress, Mode, Request};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Enough for an answer that comes, and for one that would come.
const TURNS: usize = 60;
const MANY: usize = 2000;

fn status(network: &Network, last: u8) -> EndpointStatus {
    let Answer::Status { endpoints } = network.ask(Request::Status) else { panic!() };
    let container = format!("{last:064x}");
    endpoints.into_iter().find(|one| one.container == container).unwrap()
}

/// Lets one guest ping another, which answers by itself.
fn reaches(from: &mut Guest, mut to: Guest) -> bool {
    let address = to.address;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let answering = std::thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) && to.turn() {}
    });
    let reached = from.ping(address, TURNS);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    answering.join().unwrap();
    reached
}

#[track_caller]
fn check(mode: Mode, reach_each_other: bool, reach_gateway: bool) {
    let network = Network::start(mode, |_| {});
    let (mut first, second) = (network.guest(2), network.guest(3));
    assert_eq!(first.ping(GATEWAY, TURNS), reach_gateway, "{mode:?}: guest to gateway");
    assert_eq!(reaches(&mut first, second), reach_each_other, "{mode:?}: guest to guest");
}

#[test]
fn guests_reach_each_other_and_the_gateway_as_their_mode_says() {
    check(Mode::Nat, false, true);
    check(Mode::Natnet, true, true);
    check(Mode::Hostonly, true, true);
    check(Mode::Internal, true, false);
}

#[test]
fn without_a_way_out_only_the_gateway_answers_and_in_an_internal_network_not_even_that() {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let outside = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 77), port);
    for (mode, host) in [(Mode::Hostonly, true), (Mode::Internal, false)] {
        let network = Network::start(mode, |_| {});
        let mut guest = network.guest(2);
        let mut connects = |to| {
            let (handle, port) = (guest.tcp(), guest.port());
            let socket = guest.sockets.get_mut::<smoltcp::socket::tcp::Socket>(handle);
            socket.connect(guest.interface.context(), to, port).unwrap();
            (0..TURNS).any(|_| {
                guest.turn();
                guest.stream(handle).may_send()
            })
        };
        assert_eq!(connects(SocketAddrV4::new(GATEWAY, port)), host, "{mode:?}");
        assert!(!connects(outside), "{mode:?}");
    }
}

/// A UDP packet in an Ethernet frame.
fn datagram(
    macs: (EthernetAddress, EthernetAddress),
    from: SocketAddrV4,
    to: SocketAddrV4,
) -> Vec<u8> {
    let payload = b"hello";
    let sums = ChecksumCapabilities::default();
    let udp = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let ip = Ipv4Repr {
        src_addr: *from.ip(),
        dst_addr: *to.ip(),
        next_header: IpProtocol::Udp,
        payload_len: 8 + payload.len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; 14 + 20 + 8 + payload.len()];
    let ethernet =
        EthernetRepr { src_addr: macs.0, dst_addr: macs.1, ethertype: EthernetProtocol::Ipv4 };
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut bytes));
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[14..]), &sums);
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[34..]),
        &(*from.ip()).into(),
        &(*to.ip()).into(),
        payload.len(),
        |space| space.copy_from_slice(payload),
        &sums,
    );
    bytes
}

fn arp(
    macs: (EthernetAddress, EthernetAddress),
    operation: ArpOperation,
    sender: (EthernetAddress, Ipv4Addr),
    target: Ipv4Addr,
) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: sender.0,
        source_protocol_addr: sender.1,
        target_hardware_addr: macs.1,
        target_protocol_addr: target,
    };
    let mut bytes = vec![0; 14 + repr.buffer_len()];
    let ethernet =
        EthernetRepr { src_addr: macs.0, dst_addr: macs.1, ethertype: EthernetProtocol::Arp };
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut bytes));
    repr.emit(&mut ArpPacket::new_unchecked(&mut bytes[14..]));
    bytes
}

#[test]
fn a_guest_that_claims_to_be_another_is_not_heard() {
    let network = Network::start(Mode::Natnet, |_| {});
    let (mut liar, mut victim) = (network.guest(2), network.guest(3));
    let (own, other) = (liar.mac, victim.mac);
    let (own_ip, other_ip) = (liar.address, victim.address);
    let at = SocketAddrV4::new;
    let broadcast = EthernetAddress::BROADCAST;
    let gateway_mac = EthernetAddress([0x06, 0x01, 0x23, 0x45, 0x67, 0x89]);
    let lies = [
        datagram((EthernetAddress([2, 9, 9, 9, 9, 9]), other), at(own_ip, 5), at(other_ip, 7)),
        datagram((gateway_mac, other), at(GATEWAY, 5), at(other_ip, 7)),
        datagram((own, other), at(Ipv4Addr::new(10, 9, 0, 99), 5), at(other_ip, 7)),
        datagram((own, other), at(GATEWAY, 5), at(other_ip, 7)),
        datagram((own, broadcast), at(own_ip, 67), at(Ipv4Addr::BROADCAST, 68)),
        arp((own, other), ArpOperation::Reply, (own, GATEWAY), other_ip),
        arp((own, broadcast), ArpOperation::Request, (own, GATEWAY), GATEWAY),
        arp((own, other), ArpOperation::Reply, (other, own_ip), other_ip),
        // IPv6, and a frame too short to be one.
        [&other.0[..], &own.0, &[0x86, 0xdd], &[0x60; 60]].concat(),
        vec![1, 2, 3],
    ];
    for lie in &lies {
        liar.send_frame(lie);
    }
    // An honest frame behind them: when it is there, they would have been.
    liar.send_frame(&datagram((own, other), at(own_ip, 5), at(other_ip, 7)));
    let mut seen = Vec::new();
    while !seen.iter().any(|frame: &Vec<u8>| frame.ends_with(b"hello")) {
        seen.extend(victim.wire.received());
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    let status = status(&network, 2);
    assert_eq!((status.accepted, status.refused), (1, lies.len() as u64));
}

#[test]
fn a_vm_that_breaks_the_cut_or_floods_harms_nobody_else() {
    let network = Network::start(Mode::Natnet, |_| {});
    let (mut wild, mut calm) = (network.guest(2), network.guest(3));
    let to_calm = datagram(
        (wild.mac, calm.mac),
        SocketAddrV4::new(wild.address, 5),
        SocketAddrV4::new(calm.address, 7),
    );
    // `calm` reads nothing meanwhile: far more than its queue holds.
    for _ in 0..MANY * 10 {
        wild.send_frame(&to_calm);
    }
    drop(calm.wire.received());
    assert!(calm.ping(GATEWAY, TURNS * 10), "its own traffic goes on");
}

#[test]
fn a_mac_address_or_an_address_that_is_taken_is_refused() {
    let network = Network::start(Mode::Natnet, |_| {});
    let _first = network.guest(2);
    let refused = |change: &dyn Fn(&mut ireko_protocol::network::Endpoint)| {
        let mut endpoint = network.endpoint(7);
        change(&mut endpoint);
        match network.ask(Request::Attach(Box::new(endpoint))) {
            Answer::Refused { message } => message,
            other => panic!("{other:?}"),
        }
    };
    let taken = "is not free in network net";
    assert!(refused(&|one| one.address = Ipv4Addr::new(10, 9, 0, 2)).contains(taken));
    assert!(refused(&|one| one.address = GATEWAY).contains(taken));
    assert!(refused(&|one| one.address = Ipv4Addr::new(10, 8, 0, 2)).contains(taken));
    assert!(refused(&|one| one.mac = MacAddress([2, 0, 0, 0, 0, 2])).contains(taken));
    assert!(refused(&|one| one.mac = MacAddress([0xff; 6])).contains(taken));
}

#[test]
fn guests_carry_on_with_a_switch_that_replaces_one_that_ended() {
    let mut network = Network::start(Mode::Natnet, |_| {});
    let mut guest = network.guest(2);
    assert!(guest.ping(GATEWAY, TURNS));
    network.end();
    while guest.turn() {}
    network.begin();
    let endpoint = network.endpoint(2);
    assert!(matches!(network.ask(Request::Attach(Box::new(endpoint))), Answer::Attached { .. }));
    guest.reconnect();
    assert!(guest.ping(GATEWAY, TURNS), "the gateway has the MAC address it had");
}

#[test]
fn a_container_that_is_detached_is_no_longer_there() {
    let network = Network::start(Mode::Natnet, |_| {});
    let mut guest = network.guest(2);
    let container = format!("{:064x}", 2);
    assert_eq!(network.ask(Request::Detach { container }), Answer::Done);
    while guest.turn() {}
    assert_eq!(network.ask(Request::Status), Answer::Status { endpoints: Vec::new() });
}
