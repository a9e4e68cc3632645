//! Ports of the host that lead to guests.

use crate::sources::{Source, Sources};
use crate::switch::PortId;
use crate::uplink::udp::SharedSocket;
use ireko_protocol::network::{Mode, Protocol, Publish, Published};
use mio::Token;
use mio::net::{TcpListener, UdpSocket, UnixListener};
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How often another port is tried where any will do.
const TRIES: usize = 16;
const BACKLOG: i32 = 512;

/// One port of the host.
#[derive(Debug)]
pub struct Publication {
    /// Whose it is.
    pub port: PortId,
    /// The guest's port.
    pub guest_port: u16,
    /// Its socket.
    pub listener: Listener,
    token: Token,
}

/// A published port's socket.
#[derive(Debug)]
pub enum Listener {
    /// For connections.
    Tcp(TcpListener),
    /// For datagrams.
    Udp(SharedSocket),
    /// For connections of the engine's, to a TCP port.
    Unix(UnixListener, PathBuf),
}

/// All published ports.
#[derive(Debug, Default)]
pub struct Publications {
    /// By number.
    pub all: HashMap<u64, Publication>,
    next: u64,
}

impl Publications {
    /// Listens for a guest on all the ports that are asked for, or on none.
    ///
    /// # Errors
    /// A sentence in docker's words about the first port that could not be had.
    pub fn open(
        &mut self,
        port: PortId,
        wanted: &[Publish],
        mode: Mode,
        sources: &mut Sources,
    ) -> Result<Vec<Published>, String> {
        let mut got = Vec::new();
        let mut bound = Vec::new();
        for publish in wanted {
            let addresses = addresses(publish.host_address, mode)?;
            for (socket, host) in bind_any(publish, &addresses)? {
                let Publish { protocol, guest_port, .. } = *publish;
                got.push(Published { protocol, guest_port, host });
                bound.push((socket, publish.protocol, publish.guest_port));
            }
        }
        for (socket, protocol, guest_port) in bound {
            let added = self.add(port, socket, protocol, guest_port, sources);
            if let Err(error) = added {
                self.remove_port(port, sources);
                return Err(format!("cannot listen for connections: {error}"));
            }
        }
        Ok(got)
    }

    fn add(
        &mut self,
        port: PortId,
        socket: Socket,
        protocol: Protocol,
        guest_port: u16,
        sources: &mut Sources,
    ) -> io::Result<()> {
        let number = self.next;
        self.next += 1;
        let source = Source::Published(number);
        let (listener, token) = match protocol {
            Protocol::Tcp => {
                let mut listener = TcpListener::from_std(socket.into());
                let token = sources.add(&mut listener, source)?;
                (Listener::Tcp(listener), token)
            }
            Protocol::Udp => {
                let mut socket = UdpSocket::from_std(socket.into());
                let token = sources.add(&mut socket, source)?;
                (Listener::Udp(Rc::new(socket)), token)
            }
        };
        self.all.insert(number, Publication { port, guest_port, listener, token });
        Ok(())
    }

    /// Listens at `path` for connections to a TCP port of a guest; fine where that is done already.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open_socket(
        &mut self,
        port: PortId,
        guest_port: u16,
        path: &Path,
        sources: &mut Sources,
    ) -> io::Result<()> {
        let is_it = |one: &Publication| {
            (one.port, one.guest_port) == (port, guest_port)
                && matches!(&one.listener, Listener::Unix(_, at) if at == path)
        };
        if self.all.values().any(is_it) {
            return Ok(());
        }
        // A switch before this one may have left it.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut listener = UnixListener::bind(path)?;
        let number = self.next;
        self.next += 1;
        let token = sources.add(&mut listener, Source::Published(number))?;
        let listener = Listener::Unix(listener, path.to_owned());
        self.all.insert(number, Publication { port, guest_port, listener, token });
        Ok(())
    }

    /// Closes all ports of a guest, whose conversations are over already.
    pub fn remove_port(&mut self, port: PortId, sources: &mut Sources) {
        self.all.retain(|_, publication| {
            if publication.port == port {
                match &mut publication.listener {
                    Listener::Tcp(listener) => sources.remove(listener, publication.token),
                    Listener::Unix(listener, path) => {
                        sources.remove(listener, publication.token);
                        // It may be gone with the VM's folder.
                        let _ = std::fs::remove_file(path);
                    }
                    Listener::Udp(socket) => {
                        if let Some(socket) = Rc::get_mut(socket) {
                            sources.remove(socket, publication.token);
                        }
                    }
                }
            }
            publication.port != port
        });
    }
}

/// Where the host listens for a published port.
fn addresses(asked: Option<IpAddr>, mode: Mode) -> Result<Vec<IpAddr>, String> {
    let own = |address: IpAddr| address.is_loopback();
    match (mode, asked) {
        (Mode::Internal, _) => Err("an internal network publishes no ports: use a hostonly, nat \
                                    or natnet network for them"
            .to_owned()),
        (Mode::Hostonly, Some(address)) if !own(address) => Err(format!(
            "a hostonly network publishes its ports on the host's loopback addresses only, not on \
             {address}"
        )),
        (_, Some(address)) => Ok(vec![address]),
        (Mode::Hostonly, None) => Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        (_, None) => Ok(vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]),
    }
}

/// Binds the first port of those asked for that is free on all addresses.
fn bind_any(publish: &Publish, addresses: &[IpAddr]) -> Result<Vec<(Socket, SocketAddr)>, String> {
    let (first, last) = publish.host_ports;
    let candidates: Vec<u16> = match first {
        0 => vec![0; TRIES],
        _ => (first..=last).collect(),
    };
    let mut failure = None;
    for port in candidates {
        match bind_all(publish.protocol, addresses, port) {
            Ok(bound) => return Ok(bound),
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    Err(failure.unwrap_or_else(|| format!("no port of the host was asked for: {first}-{last}")))
}

fn bind_all(
    protocol: Protocol,
    addresses: &[IpAddr],
    mut port: u16,
) -> Result<Vec<(Socket, SocketAddr)>, String> {
    let mut bound = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let wanted = SocketAddr::new(*address, port);
        match bind(protocol, wanted) {
            Ok((socket, got)) => {
                port = got.port();
                bound.push((socket, got));
            }
            // A host without IPv6 has all it can have.
            Err(error) if index > 0 && is_unknown_family(&error) => {}
            Err(error) => return Err(refusal(wanted, protocol, &error)),
        }
    }
    Ok(bound)
}

fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections of an earlier listener may still be closing.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    let got = socket.local_addr()?.as_socket().ok_or(ErrorKind::InvalidData)?;
    Ok((socket, got))
}

fn is_unknown_family(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let known = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    known(Errno::AFNOSUPPORT) || known(Errno::ADDRNOTAVAIL)
}

fn refusal(address: SocketAddr, protocol: Protocol, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => format!("Bind for {address} failed: port is already allocated"),
        ErrorKind::PermissionDenied => format!(
            "failed to bind host port {address}/{protocol}: permission denied\nhint: ports below \
             net.ipv4.ip_unprivileged_port_start need privilege: publish another one"
        ),
        _ => format!("failed to bind host port {address}/{protocol}: {error}"),
    }
}
