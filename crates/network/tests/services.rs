//! DHCP, names, datagrams and published ports, through a network that really runs.

mod bench;

use bench::{GATEWAY, Network};
use ireko_protocol::network::{Answer, Endpoint, Mode, Protocol, Publish, Request};
use simple_dns::rdata::{A, RData};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
};
use smoltcp::socket::dhcpv4;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::thread;

const DNS: SocketAddrV4 = SocketAddrV4::new(GATEWAY, 53);

fn publish(protocol: Protocol, guest_port: u16, host_ports: (u16, u16)) -> Publish {
    let host_address = Some(Ipv4Addr::LOCALHOST.into());
    Publish { protocol, guest_port, host_address, host_ports }
}

fn question(name: &str) -> Vec<u8> {
    let mut packet = Packet::new_query(4711);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let (kind, class) = (QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN));
    packet.questions.push(Question::new(Name::new(name).unwrap(), kind, class, false));
    packet.build_bytes_vec().unwrap()
}

/// The code and the addresses of an answer.
fn read(answer: &[u8]) -> (RCODE, Vec<Ipv4Addr>) {
    let packet = Packet::parse(answer).unwrap();
    assert_eq!(packet.id(), 4711);
    let addresses = packet.answers.iter().filter_map(|record| match &record.rdata {
        RData::A(A { address }) => Some(Ipv4Addr::from(*address)),
        _ => None,
    });
    (packet.rcode(), addresses.collect())
}

#[test]
fn a_dhcp_client_gets_the_containers_address() {
    for (mode, router) in [
        (Mode::Nat, Some(GATEWAY)),
        (Mode::Natnet, Some(GATEWAY)),
        (Mode::Hostonly, None),
        (Mode::Internal, None),
    ] {
        let network = Network::start(mode, |_| {});
        let mut guest = network.guest(5);
        let handle = guest.sockets.add(dhcpv4::Socket::new());
        let lease =
            guest.until(|guest| match guest.sockets.get_mut::<dhcpv4::Socket>(handle).poll() {
                Some(dhcpv4::Event::Configured(lease)) => Some((lease.address, lease.router)),
                _ => None,
            });
        assert_eq!(lease.0.to_string(), "10.9.0.5/24", "{mode:?}");
        assert_eq!(lease.1, router, "{mode:?}");
    }
}

#[test]
fn containers_find_each_other_and_the_host_by_name() {
    let network = Network::start(Mode::Natnet, |_| {});
    let (mut first, _second) = (network.guest(2), network.guest(3));
    let mut ask = |name: &str| read(&first.ask_udp(DNS, &question(name)).0);
    assert_eq!(ask("guest3"), (RCODE::NoError, vec![Ipv4Addr::new(10, 9, 0, 3)]));
    assert_eq!(ask("GUEST3.net"), (RCODE::NoError, vec![Ipv4Addr::new(10, 9, 0, 3)]));
    assert_eq!(ask("host.docker.internal"), (RCODE::NoError, vec![GATEWAY]));
}

#[test]
fn without_a_way_out_an_unknown_name_is_known_to_be_unknown() {
    let network = Network::start(Mode::Internal, |_| {});
    let (mut first, _second) = (network.guest(2), network.guest(3));
    let mut ask = |name: &str| read(&first.ask_udp(DNS, &question(name)).0);
    assert_eq!(ask("guest3").1, [Ipv4Addr::new(10, 9, 0, 3)]);
    assert_eq!(ask("example.org"), (RCODE::NameError, vec![]));
    assert_eq!(ask("host.docker.internal"), (RCODE::NameError, vec![]));
}

#[test]
fn the_names_of_a_containers_other_networks_are_known_too() {
    let other = Network::start(Mode::Natnet, |_| {});
    let _known = other.guest(77);
    let network = Network::start(Mode::Internal, |_| {});
    // One of the others has no switch at the moment.
    let gone = network.folder.path().join("gone");
    let siblings = vec![gone, other.socket()];
    let (mut guest, _) = network.guest_at(Endpoint { siblings, ..network.endpoint(2) });
    let mut lone = network.guest(3);
    let mut ask = |name: &str| read(&guest.ask_udp(DNS, &question(name)).0);
    assert_eq!(ask("guest77"), (RCODE::NoError, vec![Ipv4Addr::new(10, 9, 0, 77)]));
    assert_eq!(ask("guest3").1, [Ipv4Addr::new(10, 9, 0, 3)], "its own network's come first");
    assert_eq!(ask("guest78"), (RCODE::NameError, vec![]));
    let answer = read(&lone.ask_udp(DNS, &question("guest77")).0);
    assert_eq!(answer, (RCODE::NameError, vec![]), "who is not in the other does not hear of it");
}

#[test]
fn lone_guests_do_not_hear_of_each_other() {
    let network = Network::start(Mode::Nat, |_| {});
    // Nobody to ask: the questions come back.
    let nobody = vec![IpAddr::V4(Ipv4Addr::new(127, 77, 0, 9))];
    let (mut first, _) = network.guest_at(Endpoint { dns: nobody, ..network.endpoint(2) });
    let _second = network.guest(3);
    assert_eq!(read(&first.ask_udp(DNS, &question("guest3")).0), (RCODE::ServerFailure, vec![]));
}

#[test]
fn other_names_are_asked_of_the_containers_own_servers() {
    let server = Ipv4Addr::new(127, 77, 0, 1);
    let Ok(socket) = UdpSocket::bind((server, 53)) else {
        eprintln!("skipped: port 53 takes privilege");
        return;
    };
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            let (count, client) = socket.recv_from(&mut buffer).unwrap();
            let query = Packet::parse(&buffer[..count]).unwrap();
            let mut reply = Packet::new_reply(query.id());
            let name = query.questions[0].qname.clone();
            let address = A { address: u32::from(Ipv4Addr::new(203, 0, 113, 9)) };
            reply.questions = query.questions.clone();
            reply.answers.push(ResourceRecord::new(name, CLASS::IN, 60, RData::A(address)));
            // One who guesses answers first; nobody asked under this number.
            let mut forged = reply.build_bytes_vec().unwrap();
            forged[0] ^= 0xff;
            socket.send_to(&forged, client).unwrap();
            socket.send_to(&reply.build_bytes_vec().unwrap(), client).unwrap();
        }
    });
    let network = Network::start(Mode::Natnet, |_| {});
    // The first says nothing at all.
    let silent = UdpSocket::bind((Ipv4Addr::new(127, 77, 0, 2), 53)).unwrap();
    let dns = vec![silent.local_addr().unwrap().ip(), server.into()];
    let (mut guest, _) = network.guest_at(Endpoint { dns, ..network.endpoint(2) });
    let answer = read(&guest.ask_udp(DNS, &question("example.org")).0);
    assert_eq!(answer, (RCODE::NoError, vec![Ipv4Addr::new(203, 0, 113, 9)]));
}

#[test]
fn datagrams_reach_the_host_and_their_answers_the_guest() {
    let network = Network::start(Mode::Natnet, |_| {});
    let mut guest = network.guest(2);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = SocketAddrV4::new(GATEWAY, socket.local_addr().unwrap().port());
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        let (count, client) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..count], client).unwrap();
    });
    let (answer, from) = guest.ask_udp(at, b"echo");
    assert_eq!((answer.as_slice(), from), (&b"echo"[..], at.into()));
}

#[test]
fn datagrams_for_a_published_port_are_answered_to_the_client_that_sent_them() {
    let network = Network::start(Mode::Natnet, |_| {});
    let wanted = vec![publish(Protocol::Udp, 99, (0, 0))];
    let (mut guest, published) = network.publishing_guest(2, wanted);
    let clients: Vec<_> = (0..3u8)
        .map(|number| {
            let at = published[0].host;
            thread::spawn(move || {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                socket.send_to(&[number], at).unwrap();
                let mut buffer = [0; 16];
                let (count, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..count], from), (&[number + 100][..], at));
            })
        })
        .collect();
    let handle = guest.udp(99);
    for _ in 0..clients.len() {
        guest.until(|guest| {
            let socket = guest.datagrams(handle);
            let (payload, from) = socket.recv().ok()?;
            let answer = [payload[0] + 100];
            assert_eq!(from.endpoint.addr, GATEWAY.into(), "a client on the host is the gateway");
            socket.send_slice(&answer, from.endpoint).unwrap();
            Some(())
        });
    }
    guest.until(|_| clients.iter().all(thread::JoinHandle::is_finished).then_some(()));
    clients.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
fn a_port_that_is_in_use_is_refused_and_a_range_takes_the_next() {
    let network = Network::start(Mode::Natnet, |_| {});
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let attach = |host_ports| {
        let publish = vec![publish(Protocol::Tcp, 80, host_ports)];
        network.ask(Request::Attach(Box::new(Endpoint { publish, ..network.endpoint(2) })))
    };
    let expected = format!("Bind for 127.0.0.1:{port} failed: port is already allocated");
    assert_eq!(attach((port, port)), Answer::Refused { message: expected });
    let Answer::Attached { published } = attach((port, port.saturating_add(20))) else {
        panic!("no port of twenty is free")
    };
    assert_ne!(published[0].host.port(), port);
}

#[test]
fn without_an_address_a_port_is_published_on_all_of_them() {
    let network = Network::start(Mode::Natnet, |_| {});
    let wanted = Publish { host_address: None, ..publish(Protocol::Tcp, 80, (0, 0)) };
    let (_guest, published) = network.publishing_guest(2, vec![wanted.clone()]);
    let port = published[0].host.port();
    let all: SocketAddr = (Ipv4Addr::UNSPECIFIED, port).into();
    assert_eq!(published[0].host, all);
    assert!(published.iter().skip(1).all(|six| six.host.is_ipv6() && six.host.port() == port));

    let hostonly = Network::start(Mode::Hostonly, |_| {});
    let (_guest, published) = hostonly.publishing_guest(2, vec![wanted.clone()]);
    assert!(published.iter().all(|one| one.host.ip().is_loopback()), "{published:?}");

    let internal = Network::start(Mode::Internal, |_| {});
    let endpoint = Endpoint { publish: vec![wanted], ..internal.endpoint(2) };
    let Answer::Refused { message } = internal.ask(Request::Attach(Box::new(endpoint))) else {
        panic!("an internal network publishes a port")
    };
    assert!(message.contains("publishes no ports"), "{message}");
}
