//! Which port a frame leaves by.
//!
//! Addresses are told, not learned: each port has the one MAC address that the engine gave its VM,
//! and frames from others were dropped before they came here. So the table is as large as the
//! network has VMs, and no guest can fill it or draw another's traffic to itself.
//!
//! ```text
//!   to the gateway's MAC          ► gateway
//!   to a VM's MAC                 ► that port            not in a network of lone guests (nat)
//!   to a group                    ► every other port     likewise
//!                                 ► and the gateway
//! ```

use crate::admission::{Admitted, Content};
use ireko_protocol::network::Mode;
use smoltcp::wire::EthernetAddress;
use std::collections::BTreeMap;

/// One VM's place at the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u64);

/// Which port is whose.
#[derive(Debug)]
pub struct Switch {
    mode: Mode,
    gateway: EthernetAddress,
    ports: BTreeMap<EthernetAddress, PortId>,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// To the gateway.
    pub gateway: bool,
    /// To VMs.
    pub guests: Guests,
}

/// Which VMs a frame goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guests {
    /// None.
    None,
    /// This one.
    One(PortId),
    /// All but the sender.
    Others,
}

impl Switch {
    /// A switch without ports.
    pub fn new(mode: Mode, gateway: EthernetAddress) -> Self {
        Self { mode, gateway, ports: BTreeMap::new() }
    }

    /// Adds a port, unless another has its MAC address.
    pub fn add(&mut self, mac: EthernetAddress, port: PortId) -> bool {
        let is_free = mac.is_unicast() && mac != self.gateway && !self.ports.contains_key(&mac);
        if is_free {
            self.ports.insert(mac, port);
        }
        is_free
    }

    /// Takes a port away.
    pub fn remove(&mut self, port: PortId) {
        self.ports.retain(|_, other| *other != port);
    }

    /// Where a frame that came in on `from` goes.
    pub fn targets(&self, from: PortId, frame: &Admitted) -> Targets {
        let alone = self.mode == Mode::Nat;
        if frame.to == self.gateway {
            return Targets { gateway: true, guests: Guests::None };
        }
        // A client's DHCP messages are nobody's business but the server's.
        let private = alone || matches!(frame.content, Content::Dhcp(_));
        if !frame.to.is_unicast() {
            let guests = if private { Guests::None } else { Guests::Others };
            return Targets { gateway: true, guests };
        }
        let guests = match self.ports.get(&frame.to) {
            Some(port) if !private && *port != from => Guests::One(*port),
            _ => Guests::None,
        };
        Targets { gateway: false, guests }
    }
}
