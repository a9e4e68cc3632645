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

use smoltcp::time::{Duration, Instant};
use std::net::Ipv4Addr;

/// How long the host's address is believed to be the same. Finding it takes longer than connecting.
const FRESH: Duration = Duration::from_secs(1);

/// The address that the gateway's own stands for: that of an interface, so that what listens on the
/// loopback interface alone stays out of reach, unless that is asked for.
#[derive(Debug)]
pub struct HostAddress {
    loopback: bool,
    seen: Option<(Instant, Option<Ipv4Addr>)>,
}

impl HostAddress {
    /// That of the host's loopback interface, or of another.
    pub fn new(loopback: bool) -> Self {
        Self { loopback, seen: None }
    }

    /// What it is; `None` where the host has no such address.
    pub fn now(&mut self, now: Instant) -> Option<Ipv4Addr> {
        match self.seen {
            _ if self.loopback => Some(Ipv4Addr::LOCALHOST),
            Some((at, address)) if now < at + FRESH => address,
            _ => {
                let address = outer_address();
                self.seen = Some((now, address));
                address
            }
        }
    }
}

fn outer_address() -> Option<Ipv4Addr> {
    let interfaces = if_addrs::get_if_addrs().ok()?;
    interfaces.iter().find_map(|interface| match interface.ip() {
        std::net::IpAddr::V4(address) if !address.is_loopback() && !address.is_link_local() => {
            Some(address)
        }
        _ => None,
    })
}
