//! The gateway's end of one TCP connection with a guest.
//!
//! Each connection has a small smoltcp interface of its own: the work for a segment does not grow
//! with the number of connections, and the end may have any address, since it speaks for the whole
//! world outside. Pure: packets and the time in, packets into the guest's queue out.

use crate::frame::{ETHERNET, Way};
use crate::queue::Outgoing;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpCidr};
use std::net::SocketAddrV4;

/// Bytes from a guest to the host's socket, and back, which is as much as can be on the way at once.
const FROM_GUEST: usize = 128 << 10;
const TO_GUEST: usize = 256 << 10;
/// How long a guest may leave data unacknowledged before its connection is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// One connection.
pub struct Endpoint {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    way: Way,
}

impl Endpoint {
    /// The end that a guest connects to at `own`; give its SYN to [`Endpoint::receive`].
    pub fn accepting(own: SocketAddrV4, way: Way, now: Instant) -> Self {
        let mut endpoint = Self::new(own, way, now);
        // Fails only for port 0, which no segment has.
        let _ = endpoint.socket().listen(own);
        endpoint
    }

    /// The end that connects from `own` to a guest.
    pub fn connecting(own: SocketAddrV4, guest: SocketAddrV4, way: Way, now: Instant) -> Self {
        let mut endpoint = Self::new(own, way, now);
        let socket = endpoint.sockets.get_mut::<Socket>(endpoint.handle);
        // Fails only for port 0 and unspecified addresses; then it is closed, and seen to be.
        let _ = socket.connect(endpoint.interface.context(), guest, own);
        endpoint
    }

    fn new(own: SocketAddrV4, way: Way, now: Instant) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = rand::random();
        let mut idle = Outgoing::default();
        let mut interface =
            Interface::new(config, &mut Wire { way, incoming: None, out: &mut idle }, now);
        // With an empty prefix everybody is a neighbour: there is one guest to send to.
        interface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::new((*own.ip()).into(), 0));
        });
        let buffer = |size| SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(FROM_GUEST), buffer(TO_GUEST));
        socket.set_nagle_enabled(false);
        socket.set_timeout(Some(PATIENCE));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self { interface, sockets, handle, way }
    }

    /// The connection's state and buffers.
    pub fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Takes an IP packet of this connection from the guest. Data in order is acknowledged by the next
    /// [`Endpoint::poll`], all that came together at once; everything else is answered here, since
    /// what was lost is found by such answers.
    pub fn receive(&mut self, packet: &[u8], out: &mut Outgoing, now: Instant) {
        let held = self.socket().recv_queue();
        let mut wire = Wire { way: self.way, incoming: Some(packet), out };
        self.interface.poll_ingress_single(now, &mut wire, &mut self.sockets);
        if self.socket().recv_queue() == held {
            self.poll(out, now);
        }
    }

    /// Sends what is due, as far as the queue has room; when to come again.
    pub fn poll(&mut self, out: &mut Outgoing, now: Instant) -> Option<Instant> {
        let mut wire = Wire { way: self.way, incoming: None, out };
        self.interface.poll(now, &mut wire, &mut self.sockets);
        self.interface.poll_at(now, &self.sockets)
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let socket = self.sockets.get::<Socket>(self.handle);
        f.debug_struct("Endpoint").field("state", &socket.state()).finish_non_exhaustive()
    }
}

/// The guest's queue as smoltcp sees it, with at most one packet from the guest.
struct Wire<'a> {
    way: Way,
    incoming: Option<&'a [u8]>,
    out: &'a mut Outgoing,
}

impl Device for Wire<'_> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Send<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Send<'_>)> {
        // Each packet may be answered, and the answers must not pile up without end.
        let packet = self.incoming.take().filter(|_| !self.out.is_full())?;
        Some((Received(packet), Send { way: self.way, out: self.out }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Send<'_>> {
        self.out.has_room().then_some(Send { way: self.way, out: self.out })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.way.mtu;
        capabilities
    }
}

struct Received<'a>(&'a [u8]);

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

struct Send<'a> {
    way: Way,
    out: &'a mut Outgoing,
}

impl phy::TxToken for Send<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        self.out.push_always(ETHERNET + length, |frame| f(self.way.header(frame)))
    }
}
