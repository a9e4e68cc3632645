//! A container's places in networks: what it asks for, and which address it gets.

use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::names::random_hex;
use crate::networks::Network;
use crate::networks::state::{EndpointRecord, EndpointSpec, NetworkRecord};
use crate::spec::ContainerSpec;
use crate::state::ContainerRecord;
use ireko_protocol::network::MacAddress;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

impl Engine {
    /// The endpoints that a new container's network mode and its further wishes come to.
    pub(crate) fn resolve_endpoints(
        &self,
        mode: &str,
        mut wishes: Vec<EndpointSpec>,
    ) -> Result<Vec<EndpointRecord>> {
        let mode = if mode.is_empty() { "default" } else { mode };
        if mode == "host" {
            return Err(Error::unsupported(
                "a container cannot use the host's network: it is a virtual machine with a network \
                 device of its own",
            )
            .hint("publish its ports with -p; it finds the host as host.docker.internal"));
        }
        if let Some(other) = mode.strip_prefix("container:") {
            return Err(Error::unsupported(format!(
                "a container cannot use the network of container {other}: each is a virtual \
                 machine with a network device of its own"
            ))
            .hint("put both in one network: docker network create"));
        }
        if mode == "none" {
            return match wishes.iter().find(|wish| wish.network != "none") {
                None => Ok(Vec::new()),
                Some(wish) => Err(Error::bad_parameter(format!(
                    "conflicting options: network none and network {}",
                    wish.network
                ))),
            };
        }
        let first = self.networks.find(mode)?;
        let is_first = |wish: &EndpointSpec| {
            self.networks.find(&wish.network).is_ok_and(|one| one.record.id == first.record.id)
        };
        match wishes.iter().position(is_first) {
            Some(index) => wishes[..=index].rotate_right(1),
            None => {
                wishes.insert(0, EndpointSpec { network: mode.to_owned(), ..Default::default() })
            }
        }
        let mut endpoints: Vec<EndpointRecord> = Vec::new();
        for wish in wishes {
            let network = self.networks.find(&wish.network)?;
            if endpoints.iter().any(|one| one.network == network.record.id) {
                return Err(Error::bad_parameter(format!(
                    "network {} is named twice",
                    network.record.name
                )));
            }
            endpoints.push(self.endpoint(&network, wish)?);
        }
        Ok(endpoints)
    }

    pub(crate) fn endpoint(&self, network: &Network, wish: EndpointSpec) -> Result<EndpointRecord> {
        let record = &network.record;
        if !record.has_names() && !wish.aliases.is_empty() {
            return Err(Error::bad_parameter(
                "network-scoped alias is supported only for containers in user defined networks",
            ));
        }
        if let Some(address) = wish.address {
            self.check_fixed(record, address)?;
        }
        Ok(EndpointRecord {
            id: random_hex(64),
            network: record.id.clone(),
            mac: wish.mac.unwrap_or_else(random_mac),
            fixed: wish.address,
            lease: None,
            aliases: wish.aliases,
            default_route: false,
            driver_options: wish.driver_options,
        })
    }

    /// Refuses name servers for a whole operating system that no gateway of ours would ask: it finds them
    /// by DHCP or has others.
    pub(crate) fn check_name_servers(
        &self,
        spec: &ContainerSpec,
        endpoints: &[EndpointRecord],
    ) -> Result<()> {
        let asks = |one: &EndpointRecord| {
            self.networks.get(&one.network).is_ok_and(|network| !network.record.is_bridged())
        };
        match spec.dns.servers.is_empty() || endpoints.iter().any(asks) {
            true => Ok(()),
            false => Err(Error::bad_parameter(format!(
                "{} is a whole operating system, and no network of Ireko's could tell it a name server",
                spec.image
            ))),
        }
    }

    fn check_fixed(&self, network: &NetworkRecord, address: Ipv4Addr) -> Result<()> {
        if !network.user_subnet {
            return Err(Error::bad_parameter(
                "invalid config for network: user specified IP address is supported only when \
                 connecting to networks with user configured subnets",
            ));
        }
        let subnet = network.subnet;
        if !subnet.contains(address) || address == subnet.first() || address == subnet.last() {
            return Err(Error::bad_parameter(format!(
                "invalid config for network {}: no configured subnet or ip-range contain the IP \
                 address {address}",
                network.name
            )));
        }
        let users = self.network_users(&network.id);
        let is_held = users.iter().any(|(_, endpoint)| endpoint.fixed == Some(address));
        let is_others =
            address == network.gateway || network.auxiliary.values().any(|other| *other == address);
        match is_held || is_others {
            true => Err(Error::new(ErrorKind::Forbidden, "Address already in use")),
            false => Ok(()),
        }
    }

    /// The addresses of a container's endpoints for its next run: those that were asked for, then
    /// those it had, then free ones. The caller holds [`super::Networks::addressing`].
    pub(crate) fn choose_addresses(
        &self,
        record: &ContainerRecord,
    ) -> Result<Vec<Option<Ipv4Addr>>> {
        record.endpoints.iter().map(|one| self.choose_address(record, one)).collect()
    }

    /// The addresses of a network that are not free for this container.
    pub(crate) fn addresses_in_use(&self, network: &NetworkRecord, of: &str) -> BTreeSet<Ipv4Addr> {
        let users = self.network_users(&network.id);
        let others = users.iter().filter(|(record, _)| record.id != of);
        others
            .flat_map(|(record, other)| {
                [other.fixed, other.lease.filter(|_| record.vm().is_some())]
            })
            .flatten()
            .chain([network.gateway])
            .chain(network.auxiliary.values().copied())
            .collect()
    }

    /// The address of one endpoint; `None` where it is others who give one.
    pub(crate) fn choose_address(
        &self,
        of: &ContainerRecord,
        endpoint: &EndpointRecord,
    ) -> Result<Option<Ipv4Addr>> {
        let network = Arc::clone(&self.networks.get(&endpoint.network)?.record);
        if network.is_bridged() && of.process.is_machine() {
            return match endpoint.fixed {
                None => Ok(None),
                Some(_) => Err(nobody_to_tell(of, &network)),
            };
        }
        self.free_address(of, endpoint, &network).map(Some)
    }

    fn free_address(
        &self,
        of: &ContainerRecord,
        endpoint: &EndpointRecord,
        network: &NetworkRecord,
    ) -> Result<Ipv4Addr> {
        let users = self.network_users(&network.id);
        let in_use = self.addresses_in_use(network, &of.id);
        if let Some(fixed) = endpoint.fixed {
            return match in_use.contains(&fixed) {
                true => Err(Error::internal("Address already in use")
                    .hint(format!("docker network inspect {} shows who has it", network.name))),
                false => Ok(fixed),
            };
        }
        if let Some(lease) = endpoint.lease.filter(|lease| !in_use.contains(lease)) {
            return Ok(lease);
        }
        // Addresses that containers at rest had are left to them as long as there are others.
        let others = users.iter().filter(|(record, _)| record.id != of.id);
        let had: BTreeSet<_> = others.filter_map(|(_, other)| other.lease).collect();
        let range = network.ip_range.unwrap_or(network.subnet);
        let usable = |address: &Ipv4Addr| {
            *address != network.subnet.first()
                && *address != network.subnet.last()
                && !in_use.contains(address)
        };
        let first = |taken: &BTreeSet<Ipv4Addr>| {
            range.addresses().find(|address| usable(address) && !taken.contains(address))
        };
        first(&had).or_else(|| first(&BTreeSet::new())).ok_or_else(|| {
            Error::internal(format!(
                "no available IPv4 addresses on this network's address pools: {} ({})",
                network.name, network.id
            ))
        })
    }
}

/// A whole operating system asks for its address, and on a bridge it is not Ireko who answers.
pub(crate) fn nobody_to_tell(record: &ContainerRecord, network: &NetworkRecord) -> Error {
    Error::unsupported(format!(
        "container {} is a whole operating system, and in the bridged network {} it has the address \
         that its own settings or a DHCP server there give it",
        record.name, network.name
    ))
}

/// A locally administered address of one device.
fn random_mac() -> MacAddress {
    let [a, b, c, d] = rand::random();
    MacAddress([0x02, 0x42, a, b, c, d])
}

/// What a container may be called in a network, its full name first.
pub(crate) fn names(
    record: &ContainerRecord,
    endpoint: &EndpointRecord,
    network: &str,
) -> Vec<String> {
    let own =
        [format!("{}.{network}", record.name), record.name.clone(), record.id[..12].to_owned()];
    let mut names: Vec<_> = own.into_iter().chain(endpoint.aliases.clone()).collect();
    names.extend(record.spec.hostname.clone().filter(|name| !name.is_empty()));
    names
}
