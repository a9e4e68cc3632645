//! `networks/<id>/network.json`: all that is known about a network, and the only copy of it.

use crate::error::{Error, Result};
use crate::networks::subnet::Subnet;
use ireko_protocol::network::{MacAddress, Mode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The version of `network.json`; a reader refuses a newer one.
pub const VERSION: u32 = 1;

/// A network, as it is on disk and in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// 64 lower-case hex digits.
    pub id: String,
    /// Unique among networks.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// The driver as it was asked for.
    pub driver: String,
    /// What that and `internal` come to.
    #[serde(rename = "mode")]
    pub fabric: Fabric,
    /// Docker's `--internal` was given.
    pub internal: bool,
    /// Its addresses.
    pub subnet: Subnet,
    /// The subnet was asked for, so that addresses in it may be.
    pub user_subnet: bool,
    /// Its gateway's address.
    pub gateway: Ipv4Addr,
    /// Where the addresses of containers come from that ask for none; `None` is all of it.
    pub ip_range: Option<Subnet>,
    /// The longest IP packet.
    pub mtu: u16,
    /// The gateway's address stands for the host's loopback address too.
    pub host_loopback: bool,
    /// The user's.
    pub labels: BTreeMap<String, String>,
    /// Driver options, as they were given.
    pub options: BTreeMap<String, String>,
    /// Addresses that are others' and given to no container, each with what it is called.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub auxiliary: BTreeMap<String, Ipv4Addr>,
    /// Docker's `--attachable` was given, which any network is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attachable: bool,
}

/// What connects a network's containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fabric {
    /// A switch of ours.
    Switch(Mode),
    /// A bridge of the host's, which is there without us.
    Bridge {
        /// The bridge's name.
        bridge: String,
    },
}

impl NetworkRecord {
    /// Whether its containers find each other by name: docker's default network has no names, and a
    /// bridge is other people's.
    pub fn has_names(&self) -> bool {
        self.name != super::DEFAULT && !self.is_bridged()
    }

    /// Whether its gateway leads outside.
    pub fn leads_outside(&self) -> bool {
        !matches!(self.fabric, Fabric::Switch(Mode::Hostonly | Mode::Internal))
    }

    /// Whether ports of the host can lead to its containers.
    pub fn publishes(&self) -> bool {
        matches!(self.fabric, Fabric::Switch(Mode::Nat | Mode::Natnet | Mode::Hostonly))
    }

    /// Whether its containers are where the host's bridge leads.
    pub fn is_bridged(&self) -> bool {
        matches!(self.fabric, Fabric::Bridge { .. })
    }

    /// Refuses a record of a newer Ireko.
    pub(crate) fn check_version(self) -> Result<Self> {
        match self.version {
            VERSION => Ok(self),
            other => Err(Error::internal(format!(
                "network {} was written by a newer Ireko (network.json version {other}, this one \
                 reads {VERSION})",
                self.id
            ))),
        }
    }
}

/// A container's place in a network; part of its `config.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// 64 lower-case hex digits.
    pub id: String,
    /// The network's id.
    pub network: String,
    /// Its MAC address, for its life.
    pub mac: MacAddress,
    /// The address that was asked for.
    pub fixed: Option<Ipv4Addr>,
    /// The address it has, or had last.
    pub lease: Option<Ipv4Addr>,
    /// What else others in the network may call it.
    pub aliases: Vec<String>,
    /// Of the container's networks that lead outside, this is the one by which it goes there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default_route: bool,
    /// Driver options, as they were given: no driver here knows any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub driver_options: BTreeMap<String, String>,
}

/// A container's wish for a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSpec {
    /// The network by name, id or prefix of it.
    pub network: String,
    /// An address.
    pub address: Option<Ipv4Addr>,
    /// A MAC address.
    pub mac: Option<MacAddress>,
    /// Driver options, which no driver here knows.
    pub driver_options: BTreeMap<String, String>,
    /// What else others in the network may call it.
    pub aliases: Vec<String>,
}
