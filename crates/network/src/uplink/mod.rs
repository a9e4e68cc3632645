//! What leaves the network: guests' connections, datagrams, pings and questions as sockets of the
//! host, and the host's ports that lead to guests.
//!
//! Everything is a socket of this process, so a guest reaches what the user who runs it reaches, the
//! host's routes and VPNs included, and needs no privilege. Each table is bounded, for each guest
//! and in all.

pub mod ping;
pub mod probe;
pub mod publish;
pub mod resolver;
pub mod tcp;
pub mod udp;
pub mod view;

use std::net::Ipv4Addr;

/// The address that the gateway's own stands for: that of an interface, so that what listens on the
/// loopback interface alone stays out of reach, unless that is asked for. `None` where the host has
/// no such address.
pub fn host_address(loopback: bool) -> Option<Ipv4Addr> {
    if loopback {
        return Some(Ipv4Addr::LOCALHOST);
    }
    let interfaces = if_addrs::get_if_addrs().ok()?;
    interfaces.iter().find_map(|interface| match interface.ip() {
        std::net::IpAddr::V4(address) if !address.is_loopback() && !address.is_link_local() => {
            Some(address)
        }
        _ => None,
    })
}
