//! What a guest keeps, and what it loses, when the engine attaches it anew.

mod bench;

use bench::{GATEWAY, Network};
use ireko_protocol::network::{Answer, Endpoint, Mode, Protocol, Publish, Request};
use std::net::{Ipv4Addr, TcpListener};

fn publish(host_ports: (u16, u16)) -> Publish {
    let host_address = Some(Ipv4Addr::LOCALHOST.into());
    Publish { protocol: Protocol::Tcp, guest_port: 80, host_address, host_ports }
}

#[test]
fn with_new_names_its_connections_and_published_ports_stay() {
    let network = Network::start(Mode::Natnet, |_| {});
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (mut guest, published) = network.publishing_guest(2, vec![publish((0, 0))]);
    let to = std::net::SocketAddrV4::new(GATEWAY, listener.local_addr().unwrap().port());
    let handle = guest.connect(to).unwrap();
    let (mut stream, _) = listener.accept().unwrap();

    let publish: Vec<_> = published.iter().map(Publish::from).collect();
    let renamed = Endpoint { names: vec!["new.net".into()], publish, ..network.endpoint(2) };
    assert_eq!(network.ask(Request::Attach(Box::new(renamed))), Answer::Attached { published });
    std::io::Write::write_all(&mut stream, b"still here").unwrap();
    drop(stream);
    assert_eq!(guest.receive_all(handle), b"still here");
}

#[test]
fn with_another_address_it_is_heard_by_that_alone() {
    let network = Network::start(Mode::Natnet, |_| {});
    let mut guest = network.guest(2);
    assert!(guest.ping(GATEWAY, 200));
    let moved = Endpoint { address: Ipv4Addr::new(10, 9, 0, 9), ..network.endpoint(2) };
    network.ask(Request::Attach(Box::new(moved.clone())));
    assert!(!guest.ping(GATEWAY, 20), "by its old address");
    guest.interface.update_ip_addrs(|all| {
        all.clear();
        all.push(smoltcp::wire::IpCidr::new(moved.address.into(), 24)).unwrap();
    });
    assert!(guest.ping(GATEWAY, 200));
    let mut other = network.guest(2 + 1);
    assert!(other.ping(GATEWAY, 200));
    let taken = Endpoint { address: other.address, ..moved };
    assert!(matches!(network.ask(Request::Attach(Box::new(taken))), Answer::Refused { .. }));
}

#[test]
fn its_published_ports_move() {
    let network = Network::start(Mode::Natnet, |_| {});
    let (_guest, first) = network.publishing_guest(2, vec![publish((0, 0))]);
    let moved = Endpoint { publish: vec![publish((0, 0))], ..network.endpoint(2) };
    let Answer::Attached { published } = network.ask(Request::Attach(Box::new(moved))) else {
        panic!("not attached")
    };
    assert_ne!(first, published);
    assert!(TcpListener::bind(first[0].host).is_ok(), "the old port is free");
    assert!(TcpListener::bind(published[0].host).is_err(), "the new one is not");
}
