//! A network that really runs, and guests with a TCP/IP stack of their own at its ports.
#![allow(dead_code, reason = "each test file uses a part of it")]

use ireko_network::queue::{Incoming, Outgoing};
use ireko_protocol::frame::{Frame, FrameDecoder};
use ireko_protocol::network::{
    Answer, Endpoint, Envelope, MacAddress, Mode, NetworkPlan, Publish, Published, Request, VERSION,
};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpCidr, IpEndpoint,
};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::Duration;

/// Nothing that is waited for takes longer, even on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(60);

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// A network in a thread of this process.
pub struct Network {
    pub folder: tempfile::TempDir,
    plan: NetworkPlan,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    pub fn start(mode: Mode, change: impl FnOnce(&mut NetworkPlan)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = NetworkPlan {
            version: VERSION,
            network: "0123456789abcdef".repeat(4),
            name: "net".into(),
            mode,
            subnet: Ipv4Addr::new(10, 9, 0, 0),
            prefix: 24,
            gateway: GATEWAY,
            mtu: 1500,
            host_loopback: true,
            names: true,
            socket: folder.path().join("switch.sock"),
        };
        change(&mut plan);
        let mut network = Self { folder, plan, thread: None };
        network.begin();
        network
    }

    /// Starts it, again.
    pub fn begin(&mut self) {
        let plan = self.plan.clone();
        self.thread = Some(std::thread::spawn(move || ireko_network::run(plan).unwrap()));
        let deadline = std::time::Instant::now() + DEADLINE;
        while UnixStream::connect(&self.plan.socket).is_err() {
            assert!(std::time::Instant::now() < deadline, "the switch does not listen");
            std::thread::yield_now();
        }
    }

    /// Where it takes requests.
    pub fn socket(&self) -> std::path::PathBuf {
        self.plan.socket.clone()
    }

    pub fn ask(&self, request: Request) -> Answer {
        let mut stream = UnixStream::connect(&self.plan.socket).unwrap();
        let envelope = Envelope { version: VERSION, request };
        stream.write_all(&Frame::message(&envelope).unwrap().encode()).unwrap();
        let mut decoder = FrameDecoder::default();
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = decoder.next_frame().unwrap() {
                return frame.parse().unwrap();
            }
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the switch hung up");
            decoder.feed(&buffer[..count]);
        }
    }

    pub fn end(&mut self) {
        assert_eq!(self.ask(Request::End), Answer::Done);
        self.thread.take().unwrap().join().unwrap();
    }

    pub fn endpoint(&self, last: u8) -> Endpoint {
        Endpoint {
            container: format!("{last:064x}"),
            mac: MacAddress([2, 0, 0, 0, 0, last]),
            address: Ipv4Addr::new(10, 9, 0, last),
            socket: self.folder.path().join(format!("guest{last}.sock")),
            hostname: format!("guest{last}"),
            names: vec![format!("guest{last}.net"), format!("guest{last}")],
            default_route: true,
            dns: Vec::new(),
            siblings: Vec::new(),
            publish: Vec::new(),
        }
    }

    /// A guest with the address 10.9.0.`last`.
    pub fn guest(&self, last: u8) -> Guest {
        self.publishing_guest(last, Vec::new()).0
    }

    pub fn publishing_guest(&self, last: u8, publish: Vec<Publish>) -> (Guest, Vec<Published>) {
        let endpoint = Endpoint { publish, ..self.endpoint(last) };
        self.guest_at(endpoint)
    }

    pub fn guest_at(&self, endpoint: Endpoint) -> (Guest, Vec<Published>) {
        let (mac, address, socket) = (endpoint.mac, endpoint.address, endpoint.socket.clone());
        let listener = UnixListener::bind(socket).unwrap();
        let Answer::Attached { published } = self.ask(Request::Attach(Box::new(endpoint))) else {
            panic!("the guest is not taken in")
        };
        (Guest::new(listener, mac, address, self.plan.mtu), published)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if self.thread.is_some() && !std::thread::panicking() {
            self.end();
        }
    }
}

/// A guest: an Ethernet device, a stack, an address, the gateway as its default route.
pub struct Guest {
    pub address: Ipv4Addr,
    pub mac: EthernetAddress,
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    pub wire: Wire,
    began: std::time::Instant,
    next_port: u16,
}

/// Its device.
pub struct Wire {
    listener: UnixListener,
    stream: UnixStream,
    incoming: Incoming,
    received: VecDeque<Vec<u8>>,
    out: Outgoing,
    mtu: usize,
}

impl Guest {
    fn new(listener: UnixListener, mac: MacAddress, address: Ipv4Addr, mtu: u16) -> Self {
        let stream = accept(&listener);
        let mut wire = Wire {
            listener,
            stream,
            incoming: Incoming::default(),
            received: VecDeque::new(),
            out: Outgoing::default(),
            mtu: usize::from(mtu) + 14,
        };
        let mac = EthernetAddress(mac.0);
        let config = Config::new(HardwareAddress::Ethernet(mac));
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.update_ip_addrs(|all| all.push(IpCidr::new(address.into(), 24)).unwrap());
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        Self {
            address,
            mac,
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            began: std::time::Instant::now(),
            next_port: 40_000,
        }
    }

    /// Takes the connection of a switch that replaced the first.
    pub fn reconnect(&mut self) {
        self.wire.stream = accept(&self.wire.listener);
        self.wire.incoming = Incoming::default();
        self.wire.out.clear();
    }

    /// Lets the stack work once, waiting a moment for frames; false where the switch hung up.
    pub fn turn(&mut self) -> bool {
        let now = Instant::from_micros(self.began.elapsed().as_micros() as i64);
        let polled = self.interface.poll(now, &mut self.wire, &mut self.sockets);
        if polled == PollResult::SocketStateChanged {
            // Somebody may have waited for just that.
            return self.wire.flush();
        }
        self.wire.flush() && {
            let now = Instant::from_micros(self.began.elapsed().as_micros() as i64);
            let pause = self.interface.poll_delay(now, &self.sockets);
            let pause = pause.map_or(Duration::from_millis(20), Into::into);
            self.wire.receive(pause.min(Duration::from_millis(20)))
        }
    }

    /// Lets the stack work until `done` gives something.
    #[track_caller]
    pub fn until<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = std::time::Instant::now() + DEADLINE;
        loop {
            if let Some(result) = done(self) {
                return result;
            }
            assert!(std::time::Instant::now() < deadline, "it takes too long");
            assert!(self.turn(), "the switch hung up");
        }
    }

    pub fn port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    pub fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 64 << 10]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        // A socket that is removed has acknowledged all it got.
        socket.set_ack_delay(None);
        self.sockets.add(socket)
    }

    pub fn stream(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Connects; `Err` where that is refused.
    #[track_caller]
    pub fn connect(&mut self, to: SocketAddrV4) -> Result<SocketHandle, ()> {
        let (handle, port) = (self.tcp(), self.port());
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), to, port).unwrap();
        self.until(|guest| match guest.stream(handle).state() {
            tcp::State::Established | tcp::State::CloseWait => Some(Ok(handle)),
            tcp::State::Closed => Some(Err(())),
            _ => None,
        })
    }

    /// Sends all of it.
    #[track_caller]
    pub fn send(&mut self, handle: SocketHandle, mut bytes: &[u8]) {
        self.until(|guest| {
            let socket = guest.stream(handle);
            let sent = socket.send_slice(bytes).expect("the stream is open");
            bytes = &bytes[sent..];
            bytes.is_empty().then_some(())
        });
    }

    /// Receives up to the other side's end.
    #[track_caller]
    pub fn receive_all(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        self.until(|guest| {
            let socket = guest.stream(handle);
            while socket.can_recv() {
                let count = socket.recv_slice(&mut buffer).unwrap();
                all.extend_from_slice(&buffer[..count]);
            }
            (!socket.may_recv()).then_some(())
        });
        all
    }

    pub fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 32], vec![0; 65536]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    pub fn datagrams(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Sends one datagram and waits for an answer.
    #[track_caller]
    pub fn ask_udp(&mut self, to: SocketAddrV4, payload: &[u8]) -> (Vec<u8>, IpEndpoint) {
        let port = self.port();
        let handle = self.udp(port);
        self.datagrams(handle).send_slice(payload, IpEndpoint::from(to)).unwrap();
        self.until(|guest| {
            let (answer, from) = guest.datagrams(handle).recv().ok()?;
            Some((answer.to_vec(), from.endpoint))
        })
    }

    /// Pings so often until an answer comes; false where an ICMP error or nothing comes in `turns`.
    pub fn ping(&mut self, to: Ipv4Addr, turns: usize) -> bool {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(0x77)).unwrap();
        let sums = self.wire.capabilities().checksum;
        let request = Icmpv4Repr::EchoRequest { ident: 0x77, seq_no: 1, data: b"ping" };
        let space = socket.send(request.buffer_len(), to.into()).unwrap();
        request.emit(&mut Icmpv4Packet::new_unchecked(space), &sums);
        let handle = self.sockets.add(socket);
        let answered = (0..turns).any(|_| {
            self.turn();
            let socket = self.sockets.get_mut::<icmp::Socket>(handle);
            let Ok((answer, _)) = socket.recv() else { return false };
            let answer = Icmpv4Packet::new_checked(answer).unwrap();
            matches!(Icmpv4Repr::parse(&answer, &sums), Ok(Icmpv4Repr::EchoReply { seq_no: 1, .. }))
        });
        self.sockets.remove(handle);
        answered
    }

    /// Puts a frame on the wire as it is.
    pub fn send_frame(&mut self, frame: &[u8]) {
        self.wire.out.push(frame.len(), |space| space.copy_from_slice(frame));
        assert!(self.wire.flush());
    }
}

fn accept(listener: &UnixListener) -> UnixStream {
    let (stream, _) = listener.accept().unwrap();
    stream
}

impl Wire {
    fn flush(&mut self) -> bool {
        while !self.out.pending().is_empty() {
            match self.stream.write(self.out.pending()) {
                Ok(count) => self.out.written(count),
                Err(_) => return false,
            }
        }
        true
    }

    fn receive(&mut self, patience: Duration) -> bool {
        let patience = patience.max(Duration::from_micros(1));
        self.stream.set_read_timeout(Some(patience)).unwrap();
        match self.stream.read(self.incoming.space()) {
            Ok(0) => return false,
            Ok(count) => self.incoming.filled(count),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return false,
        }
        while let Some(frame) = self.incoming.next_frame().unwrap() {
            self.received.push_back(frame.to_vec());
        }
        true
    }

    /// Frames that came and that the stack has not seen.
    pub fn received(&mut self) -> Vec<Vec<u8>> {
        self.receive(Duration::from_millis(1));
        self.received.drain(..).collect()
    }
}

impl Device for Wire {
    type RxToken<'a> = Frames;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Frames, Sender<'_>)> {
        Some((Frames(self.received.pop_front()?), Sender(&mut self.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sender<'_>> {
        Some(Sender(&mut self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

pub struct Frames(Vec<u8>);

impl RxToken for Frames {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub struct Sender<'a>(&'a mut Outgoing);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut result = None;
        self.0.push(length, |space| result = Some(f(space)));
        result.expect("the queue has room")
    }
}
