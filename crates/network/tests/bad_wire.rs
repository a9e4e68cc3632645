//! A guest's connection over a wire that loses, doubles, reorders and garbles packets. No sockets
//! and no clock: the same seed gives the same run.

use ireko_network::endpoint::Endpoint;
use ireko_network::gateway::Gateway;
use ireko_network::queue::{Incoming, Outgoing};
use ireko_protocol::network::{Mode, NetworkPlan, VERSION};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const OTHER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 7), 80);
const LENGTH: usize = 96 << 10;
/// A run that is not over after so much of its own time never will be.
const LIMIT: Duration = Duration::from_secs(3600);

/// A wire in one direction.
struct Wire {
    state: u64,
    packets: VecDeque<Vec<u8>>,
    held: Option<Vec<u8>>,
}

impl Wire {
    fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(2) + 1, packets: VecDeque::new(), held: None }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % below
    }

    fn send(&mut self, mut packet: Vec<u8>) {
        match self.random(20) {
            0 | 1 => return,
            2 => self.packets.push_back(packet.clone()),
            3 if self.held.is_none() => {
                self.held = Some(packet);
                return;
            }
            4 => {
                let at = self.random(packet.len() as u64) as usize;
                packet[at] ^= 1 << self.random(8);
            }
            5 => packet.truncate(self.random(packet.len() as u64) as usize),
            _ => {}
        }
        self.packets.push_back(packet);
        self.packets.extend(self.held.take());
    }
}

/// The guest's device: packets from the gateway in, packets to it out.
struct Card {
    from: Wire,
    to: Wire,
}

impl Device for Card {
    type RxToken<'a> = Packet;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Packet, Sender<'_>)> {
        Some((Packet(self.from.packets.pop_front()?), Sender(&mut self.to)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sender<'_>> {
        Some(Sender(&mut self.to))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

struct Packet(Vec<u8>);

impl RxToken for Packet {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sender<'a>(&'a mut Wire);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.send(packet);
        result
    }
}

/// One side's bytes: what it has still to say, and what it heard.
struct Talk {
    rest: VecDeque<u8>,
    heard: Vec<u8>,
}

impl Talk {
    fn new(mut seed: u64) -> (Self, Vec<u8>) {
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        };
        let bytes: Vec<u8> = (0..LENGTH).map(|_| next()).collect();
        (Self { rest: bytes.iter().copied().collect(), heard: Vec::new() }, bytes)
    }

    /// Moves what the socket takes and gives, and says its end after the last byte.
    fn turn(&mut self, socket: &mut Socket) {
        while socket.can_send() && !self.rest.is_empty() {
            let sent = socket.send_slice(self.rest.make_contiguous()).expect("it is open");
            self.rest.drain(..sent);
        }
        if self.rest.is_empty() && matches!(socket.state(), State::Established | State::CloseWait) {
            socket.close();
        }
        let mut buffer = [0; 4096];
        while socket.can_recv() {
            let count = socket.recv_slice(&mut buffer).expect("there is something");
            self.heard.extend_from_slice(&buffer[..count]);
        }
    }
}

fn run(seed: u64) {
    let plan = NetworkPlan {
        version: VERSION,
        network: "ab".repeat(32),
        name: "net".into(),
        mode: Mode::Natnet,
        subnet: Ipv4Addr::new(10, 9, 0, 0),
        prefix: 24,
        gateway: Ipv4Addr::new(10, 9, 0, 1),
        mtu: 1500,
        host_loopback: false,
        names: true,
        socket: "/nowhere".into(),
    };
    let way = Gateway::new(&plan).way(EthernetAddress([2, 0, 0, 0, 0, 2]));
    let mut now = Instant::ZERO;
    let mut gateway = Endpoint::accepting(OTHER, way, now);
    let mut card = Card { from: Wire::new(seed), to: Wire::new(!seed) };
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut guest = Interface::new(config, &mut card, now);
    guest.update_ip_addrs(|all| all.push(IpCidr::new(GUEST.into(), 0)).expect("room for one"));
    let buffer = || SocketBuffer::new(vec![0; 32 << 10]);
    let mut sockets = SocketSet::new(Vec::new());
    let handle = sockets.add(Socket::new(buffer(), buffer()));
    let socket = sockets.get_mut::<Socket>(handle);
    socket.connect(guest.context(), OTHER, 5000).expect("an address to connect to");

    let ((mut here, sent), (mut there, answered)) = (Talk::new(seed), Talk::new(!seed));
    let mut out = Outgoing::default();
    while here.heard.len() < LENGTH || there.heard.len() < LENGTH {
        guest.poll(now, &mut card, &mut sockets);
        let socket = sockets.get_mut::<Socket>(handle);
        here.turn(socket);
        while let Some(packet) = card.to.packets.pop_front() {
            gateway.receive(&packet, &mut out, now);
        }
        there.turn(gateway.socket());
        let due = gateway.poll(&mut out, now);
        let mut incoming = Incoming::default();
        let pending = out.pending().len();
        incoming.space()[..pending].copy_from_slice(out.pending());
        incoming.filled(pending);
        out.written(pending);
        while let Some(frame) = incoming.next_frame().expect("frames are cut right") {
            card.from.send(frame[14..].to_vec());
        }
        let later = guest.poll_at(now, &sockets).into_iter().chain(due).min();
        now = later.unwrap_or(now).max(now + Duration::from_millis(1));
        assert!(now < Instant::ZERO + LIMIT, "seed {seed}: it never ends");
    }
    assert!(there.heard == sent, "seed {seed}: {} bytes arrived", there.heard.len());
    assert!(here.heard == answered, "seed {seed}: {} bytes came back", here.heard.len());
}

#[test]
fn bytes_arrive_whole_whatever_the_wire_does() {
    (1..=40).for_each(run);
}
