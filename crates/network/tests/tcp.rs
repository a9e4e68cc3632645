//! TCP between guests and the host, through a network that really runs.

mod bench;

use bench::{GATEWAY, Guest, Network};
use ireko_protocol::network::{Mode, Protocol, Publish};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use std::hash::{DefaultHasher, Hasher};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;

const BULK: usize = 16 << 20;

/// A service on the host's loopback address, and where guests reach it.
fn service() -> (TcpListener, SocketAddrV4) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, SocketAddrV4::new(GATEWAY, port))
}

fn publish(guest_port: u16) -> Publish {
    Publish {
        protocol: Protocol::Tcp,
        guest_port,
        host_address: Some(Ipv4Addr::LOCALHOST.into()),
        host_ports: (0, 0),
    }
}

/// A guest that listens on a published port, and where the host's clients find it.
fn server(network: &Network) -> (Guest, SocketHandle, SocketAddr) {
    let (mut guest, published) = network.publishing_guest(2, vec![publish(80)]);
    let handle = guest.tcp();
    guest.stream(handle).listen(80).unwrap();
    (guest, handle, published[0].host)
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[test]
fn a_guest_uploads_and_downloads_in_bulk_byte_for_byte() {
    let network = Network::start(Mode::Natnet, |_| {});
    let mut guest = network.guest(2);
    let (listener, at) = service();
    let host = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
        all.len()
    });
    let sent = noise(BULK);
    let handle = guest.connect(at).unwrap();
    guest.send(handle, &sent);
    guest.stream(handle).close();
    let received = guest.receive_all(handle);
    assert_eq!((received.len(), hash(&received)), (BULK, hash(&sent)));
    assert_eq!(host.join().unwrap(), BULK);
}

#[test]
fn a_client_of_a_published_port_uploads_and_downloads_in_bulk() {
    let network = Network::start(Mode::Natnet, |_| {});
    let (mut guest, handle, at) = server(&network);
    let sent = noise(BULK);
    let expected = hash(&sent);
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(at).unwrap();
        let mut reader = stream.try_clone().unwrap();
        let back = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        hash(&back.join().unwrap())
    });
    guest.until(|guest| guest.stream(handle).may_recv().then_some(()));
    let all = guest.receive_all(handle);
    assert_eq!((all.len(), hash(&all)), (BULK, expected));
    guest.send(handle, &all);
    guest.stream(handle).close();
    guest.until(|guest| guest.stream(handle).state().eq(&State::Closed).then_some(()));
    assert_eq!(client.join().unwrap(), expected);
}

#[test]
fn a_refused_connection_is_refused_and_a_reset_is_a_reset() {
    let network = Network::start(Mode::Natnet, |_| {});
    let mut guest = network.guest(2);
    let (listener, at) = service();
    let handle = guest.connect(at).unwrap();
    let (stream, _) = listener.accept().unwrap();
    drop(listener);
    assert!(guest.connect(at).is_err(), "nobody listens any more");

    let option = rustix::net::sockopt::set_socket_linger;
    option(&stream, Some(std::time::Duration::ZERO)).unwrap();
    drop(stream);
    guest.until(|guest| guest.stream(handle).state().eq(&State::Closed).then_some(()));
}

#[test]
fn a_guests_reset_reaches_the_host() {
    let network = Network::start(Mode::Natnet, |_| {});
    let mut guest = network.guest(2);
    let (listener, at) = service();
    let handle = guest.connect(at).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    guest.stream(handle).abort();
    guest.turn();
    let error = stream.read(&mut [0; 16]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn one_side_goes_on_after_the_other_has_ended() {
    let network = Network::start(Mode::Natnet, |_| {});
    let mut guest = network.guest(2);
    let (listener, at) = service();
    let handle = guest.connect(at).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    // The host ends first, the guest goes on.
    stream.write_all(b"bye").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.receive_all(handle), b"bye");
    guest.send(handle, b"still here");
    guest.stream(handle).close();
    guest.until(|guest| guest.stream(handle).state().eq(&State::Closed).then_some(()));
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all, "still here");
}

#[test]
fn a_reader_that_is_slow_holds_up_its_own_connection_only() {
    let network = Network::start(Mode::Natnet, |_| {});
    let mut guest = network.guest(2);
    let (listener, at) = service();
    let stuck = guest.connect(at).unwrap();
    let (_not_read, _) = listener.accept().unwrap();
    let lots = noise(64 << 10);
    // Until the window is closed: what the guest sends is not taken any more.
    let mut quiet = 0;
    while quiet < 50 {
        let sent = guest.stream(stuck).send_slice(&lots).unwrap();
        guest.turn();
        quiet = if sent == 0 { quiet + 1 } else { 0 };
    }
    let handle = guest.connect(at).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"through").unwrap();
    drop(stream);
    assert_eq!(guest.receive_all(handle), b"through");
}

#[test]
fn a_thousand_short_connections_and_two_hundred_at_once() {
    let network = Network::start(Mode::Natnet, |_| {});
    let mut guest = network.guest(2);
    let (listener, at) = service();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // Echoes one small message, in a thread of its own.
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut word = [0; 8];
                stream.read_exact(&mut word).unwrap();
                stream.write_all(&word).unwrap();
            });
        }
    });
    for round in 0..5 {
        let mut open: Vec<_> = (0..200).map(|_| guest.connect(at).unwrap()).collect();
        for (number, handle) in open.iter().enumerate() {
            guest.send(*handle, format!("{round:04}{number:04}").as_bytes());
            guest.stream(*handle).close();
        }
        for (number, handle) in open.drain(..).enumerate() {
            assert_eq!(guest.receive_all(handle), format!("{round:04}{number:04}").as_bytes());
            let is_over = |state| matches!(state, State::Closed | State::TimeWait);
            guest.until(|guest| is_over(guest.stream(handle).state()).then_some(()));
            guest.sockets.remove(handle);
        }
    }
}

#[test]
fn what_listens_on_the_hosts_loopback_alone_is_out_of_reach() {
    let network = Network::start(Mode::Natnet, |plan| plan.host_loopback = false);
    let mut guest = network.guest(2);
    let (_listener, at) = service();
    assert!(guest.connect(at).is_err(), "by the gateway's address");
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(127, 9, 9, 9)] {
        let to = SocketAddrV4::new(address, at.port());
        let handle = guest.tcp();
        let port = guest.port();
        // A stack with some decency refuses to send this at all.
        let socket = guest.sockets.get_mut::<smoltcp::socket::tcp::Socket>(handle);
        if socket.connect(guest.interface.context(), to, port).is_ok() {
            (0..20).for_each(|_| assert!(guest.turn()));
            assert_ne!(guest.stream(handle).state(), State::Established);
        }
    }
}
