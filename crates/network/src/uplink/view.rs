//! Which address a guest sees somebody by who comes to it: a client of a published port, or the
//! gateway itself.

use crate::gateway::Gateway;
use ireko_protocol::network::Mode;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

/// Ports that the gateway itself speaks from to guests; this is the first.
pub const FIRST_PORT: u16 = 32768;
const LAST_PORT: u16 = 60999;

/// What guests see of clients of their published ports.
pub struct View<'a> {
    /// Whose address stands for clients that a guest could not answer.
    pub gateway: &'a Gateway,
    /// Who may reach whom.
    pub mode: Mode,
}

impl View<'_> {
    /// The client's own address where the guest's answer to it comes back by the gateway, else the
    /// gateway's with a port of its own. `None` where all those are in use.
    pub fn of(
        &self,
        client: SocketAddr,
        own_port: &mut u16,
        is_free: &dyn Fn(SocketAddrV4) -> bool,
    ) -> Option<SocketAddrV4> {
        let leads_back = |address: Ipv4Addr| {
            self.mode != Mode::Hostonly
                && !address.is_loopback()
                && !self.gateway.is_inside(address)
                && !is_own(address)
        };
        if let SocketAddr::V4(client) = client
            && leads_back(*client.ip())
            && is_free(client)
        {
            return Some(client);
        }
        free_port(self.gateway.address, own_port, is_free)
    }
}

/// The next of the gateway's own ports that is free.
pub fn free_port(
    gateway: Ipv4Addr,
    next: &mut u16,
    is_free: &dyn Fn(SocketAddrV4) -> bool,
) -> Option<SocketAddrV4> {
    (FIRST_PORT..=LAST_PORT).find_map(|_| {
        let port = *next;
        *next = if port == LAST_PORT { FIRST_PORT } else { port + 1 };
        let own = SocketAddrV4::new(gateway, port);
        is_free(own).then_some(own)
    })
}

/// Whether an address is the host's: a guest knows the host by the gateway's.
fn is_own(address: Ipv4Addr) -> bool {
    if_addrs::get_if_addrs().is_ok_and(|all| all.iter().any(|one| one.ip() == IpAddr::V4(address)))
}
