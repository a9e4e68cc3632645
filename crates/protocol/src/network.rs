//! What the engine and a network's switch say to each other.
//!
//! A switch is started with a [`NetworkPlan`] and knows no VM at first: the engine attaches each
//! one by an [`Endpoint`], and attaches all of them again to a switch that replaces one that died.
//! Each request has a unix-socket connection of its own: one [`Envelope`], one [`Answer`], both as
//! messages of [`crate::frame`].

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The version of the plan and of these messages. A switch outlives the daemon that started it.
pub const VERSION: u32 = 1;

/// A network's switch, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The network's id: 64 lower-case hex digits.
    pub network: String,
    /// Its name: the last part of its containers' full names.
    pub name: String,
    /// Who may reach whom.
    pub mode: Mode,
    /// The subnet's first address.
    pub subnet: Ipv4Addr,
    /// How many leading bits all its addresses share, 8 to 30.
    pub prefix: u8,
    /// The address of the gateway, inside the subnet.
    pub gateway: Ipv4Addr,
    /// The longest IP packet, 576 to 65521 bytes.
    pub mtu: u16,
    /// The gateway's address stands for the host's loopback address too.
    pub host_loopback: bool,
    /// Containers find each other by name.
    pub names: bool,
    /// Where the switch takes requests; the folder is there already.
    pub socket: PathBuf,
}

/// Who may reach whom in a network; see the table in DESIGN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every guest alone with its gateway, which leads outside.
    Nat,
    /// Guests reach each other, the host and, by the gateway, the outside.
    Natnet,
    /// Guests reach each other and the host.
    Hostonly,
    /// Guests reach each other.
    Internal,
}

/// A VM's place at a switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The container's id, 64 lower-case hex digits.
    pub container: String,
    /// The one MAC address it may send from.
    pub mac: MacAddress,
    /// The one address it may send from, and its DHCP lease.
    pub address: Ipv4Addr,
    /// The unix socket on which its VM waits for the switch.
    pub socket: PathBuf,
    /// Its host name.
    pub hostname: String,
    /// What others may call it; the first is its full name.
    pub names: Vec<String>,
    /// The gateway is its default route, where it leads outside.
    pub default_route: bool,
    /// Where names outside are looked up for it; empty: where the host does.
    pub dns: Vec<IpAddr>,
    /// The switches of its container's other networks, which are asked for names that this one does
    /// not know.
    #[serde(default)]
    pub siblings: Vec<PathBuf>,
    /// Its ports that are reached by ports of the host.
    pub publish: Vec<Publish>,
}

/// A port of a guest that is to be reached by a port of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The guest's port.
    pub guest_port: u16,
    /// The host's address; `None` is every one.
    pub host_address: Option<IpAddr>,
    /// The first free one of these ports of the host, both ends included; (0, 0) is any.
    pub host_ports: (u16, u16),
}

/// A published port with the port of the host that it got.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The guest's port.
    pub guest_port: u16,
    /// Where the host listens.
    pub host: SocketAddr,
}

impl From<&Published> for Publish {
    /// A wish for just that port.
    fn from(one: &Published) -> Self {
        Self {
            protocol: one.protocol,
            guest_port: one.guest_port,
            host_address: Some(one.host.ip()),
            host_ports: (one.host.port(), one.host.port()),
        }
    }
}

/// What a port is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Six bytes; written as `02:42:ac:11:00:02`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

impl std::fmt::Display for MacAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for MacAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("invalid MAC address: {text}");
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(wrong()),
        }
    }
}

impl TryFrom<String> for MacAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

/// What `ireko ip` hears from the daemon: an address of a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HasAddress {
    /// The name of the network that it is in.
    pub network: String,
    /// Of which network device.
    pub mac: MacAddress,
    /// The address.
    pub address: IpAddr,
    /// The container says so itself; otherwise the network keeps it for it.
    pub reported: bool,
}

/// What `ireko ip set` asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAddress {
    /// In which of the container's networks; `None` is its first.
    #[serde(default)]
    pub network: Option<String>,
    /// The address that the container is to have.
    pub address: Ipv4Addr,
    /// How many leading bits all addresses of the network share.
    pub prefix: u8,
    /// The container is to go outside by this network, whose gateway this must be.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// Where names outside are to be looked up for it; `None`: as before.
    #[serde(default)]
    pub dns: Option<Vec<IpAddr>>,
}

/// A request and the version it is written in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The request.
    pub request: Request,
}

/// What the engine asks of a switch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    /// Takes a VM in. The switch goes on trying to reach its socket until it is detached. Where the
    /// container's VM is there already, by the same MAC address and socket, it gets what is new, and
    /// loses nothing else; otherwise it is replaced. Answer: `Attached`.
    Attach(Box<Endpoint>),
    /// Lets a VM go, and closes its published ports; fine where it is not there. Answer: `Done`.
    Detach {
        /// The container's id.
        container: String,
    },
    /// Tries to connect to a TCP port of a VM's, as the gateway. Answer: `Probed`, after seconds where
    /// the VM says nothing.
    Probe {
        /// The container's id.
        container: String,
        /// The VM's port.
        port: u16,
    },
    /// Listens on a unix socket whose clients are connected to a TCP port of a VM's, as clients of a
    /// published port are; until the VM is detached. Fine where it does already. Answer: `Done`.
    Open {
        /// The container's id.
        container: String,
        /// The VM's port.
        port: u16,
        /// The socket, in a folder that only the engine's user reaches.
        socket: PathBuf,
    },
    /// Looks a name up for a container that is in this network too. Answer: `Resolved`.
    Resolve {
        /// A DNS message.
        query: Vec<u8>,
    },
    /// Who is there. Answer: `Status`.
    Status,
    /// The switch ends. Answer: `Done`, then the process ends.
    End,
}

/// What a switch answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Done,
    /// The VM is taken in.
    Attached {
        /// Where the host listens for it.
        published: Vec<Published>,
    },
    /// A port was tried.
    Probed {
        /// It took the connection.
        open: bool,
    },
    /// A name was looked up.
    Resolved {
        /// A DNS message; `None` where the network does not know.
        reply: Option<Vec<u8>>,
    },
    /// Who is there.
    Status {
        /// One for each container.
        endpoints: Vec<EndpointStatus>,
    },
    /// It was not done; a sentence in docker's words.
    Refused {
        /// What was attempted, and why it failed.
        message: String,
    },
}

/// One VM at a switch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// The container's id.
    pub container: String,
    /// Its VM was reached.
    pub connected: bool,
    /// Where the host listens for it.
    pub published: Vec<Published>,
    /// Frames from its VM that were passed on or answered.
    pub accepted: u64,
    /// Frames from its VM that were dropped: spoofed, malformed or not allowed here.
    pub refused: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_read_as_it_is_written() {
        let mac: MacAddress = "02:42:AC-11:00:0f".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:0f");
        for wrong in
            ["", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "2:42:ac:11:0:2", "gg:42:ac:11:00:02"]
        {
            assert!(wrong.parse::<MacAddress>().is_err(), "{wrong}");
        }
    }
}
