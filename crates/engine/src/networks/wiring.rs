//! Joining a container's VM to its networks when it starts, and letting it go when it ends.

use crate::container::Container;
use crate::engine::Engine;
use crate::error::Result;
use crate::networks::endpoints::names;
use crate::networks::state::NetworkRecord;
use crate::networks::switch::as_published;
use crate::plan::hostname;
use crate::state::ContainerRecord;
use ireko_protocol::agent::Interface;
use ireko_protocol::network::{Endpoint, Mode, Publish};
use ireko_protocol::plan::Nic;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

/// One network device of a VM, and what its network offers.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) nic: Nic,
    pub(crate) interface: Interface,
    pub(crate) gateway: Ipv4Addr,
    /// The network's own name server knows its containers.
    pub(crate) has_names: bool,
}

/// All of one container's, in the order of its endpoints.
type Wired = Vec<(Wire, Endpoint, Arc<NetworkRecord>)>;

impl Engine {
    /// Gives a container that is to run in this VM its addresses, and attaches the VM to the
    /// switches, which wait for it from then on. Where that fails nothing is attached.
    pub(crate) async fn wire(&self, container: &Arc<Container>, vm: &str) -> Result<Vec<Wire>> {
        if container.record().endpoints.is_empty() {
            return Ok(Vec::new());
        }
        {
            let _one = self.networks.addressing.lock().await;
            let addresses = self.choose_addresses(&container.record())?;
            container
                .update(move |record| {
                    for (endpoint, address) in record.endpoints.iter_mut().zip(addresses) {
                        endpoint.lease = Some(address);
                    }
                })
                .await?;
        }
        let record = container.record();
        let wired = self.wires(&record, vm, wanted_ports(&record))?;
        let mut published = Vec::new();
        for (_, endpoint, network) in &wired {
            let attached = match self.networks.get(&network.id) {
                Ok(network) => network.switch.attach(endpoint.clone()).await,
                Err(error) => Err(error),
            };
            match attached {
                Ok(ports) => published.extend(ports),
                Err(error) => {
                    self.unwire(container).await;
                    return Err(error);
                }
            }
            self.emit_network(network, "connect", Some(&record.id));
        }
        if !published.is_empty() {
            container.update(move |record| record.published = published).await?;
        }
        Ok(wired.into_iter().map(|(wire, ..)| wire).collect())
    }

    /// Lets a VM that is gone, or never came, go.
    pub(crate) async fn unwire(&self, container: &Arc<Container>) {
        for endpoint in &container.record().endpoints {
            let Ok(network) = self.networks.get(&endpoint.network) else { continue };
            network.switch.detach(&container.id).await;
            self.emit_network(&network.record, "disconnect", Some(&container.id));
        }
    }

    /// Takes over the switches of a former daemon, with the containers that run.
    pub(crate) async fn take_over_switches(&self) {
        let mut endpoints: BTreeMap<String, Vec<Endpoint>> = BTreeMap::new();
        for record in self.containers() {
            let Some(vm) = record.vm() else { continue };
            match self.wires(&record, vm, as_published(&record.published)) {
                Ok(wired) => {
                    for (_, endpoint, network) in wired {
                        endpoints.entry(network.id.clone()).or_default().push(endpoint);
                    }
                }
                Err(error) => {
                    tracing::error!(error = error.chain(), id = record.id, "without its networks");
                }
            }
        }
        for network in self.networks.list() {
            let endpoints = endpoints.remove(&network.record.id).unwrap_or_default();
            network.switch.take_over(endpoints).await;
        }
    }

    /// What a container that has its addresses gets in a VM.
    fn wires(&self, record: &ContainerRecord, vm: &str, ports: Vec<Publish>) -> Result<Wired> {
        let folder = self.places().vm_dir(vm);
        let mut wired = Vec::new();
        let mut ports = Some(ports);
        let mut has_route = false;
        for (number, endpoint) in record.endpoints.iter().enumerate() {
            let network = Arc::clone(&self.networks.get(&endpoint.network)?.record);
            let Some(address) = endpoint.lease else { continue };
            // The first network that leads somewhere publishes the ports and has the default route.
            let publish = match network.mode {
                Mode::Internal if number + 1 < record.endpoints.len() => None,
                _ => ports.take(),
            };
            let leads_out = network.leads_outside() && !has_route;
            has_route |= leads_out;
            let socket = folder.join(format!("net{number}.sock"));
            wired.push((
                wire(endpoint.mac, address, leads_out, &network, &socket),
                Endpoint {
                    container: record.id.clone(),
                    mac: endpoint.mac,
                    address,
                    socket,
                    hostname: hostname(record),
                    names: names(record, endpoint, &network.name),
                    // In the default network these are the container's own business.
                    dns: if network.has_names() {
                        record.spec.dns.servers.clone()
                    } else {
                        Vec::new()
                    },
                    publish: publish.unwrap_or_default(),
                },
                network,
            ));
        }
        Ok(wired)
    }
}

fn wire(
    mac: ireko_protocol::network::MacAddress,
    address: Ipv4Addr,
    leads_out: bool,
    network: &NetworkRecord,
    socket: &Path,
) -> Wire {
    Wire {
        nic: Nic { mac, socket: socket.to_owned() },
        interface: Interface {
            mac,
            address,
            prefix: network.subnet.prefix(),
            default_route: leads_out.then_some(network.gateway),
            mtu: network.mtu,
        },
        gateway: network.gateway,
        has_names: network.has_names(),
    }
}

/// The ports a container asks to have published, those it exposes included where it asks for all.
fn wanted_ports(record: &ContainerRecord) -> Vec<Publish> {
    let mut wanted = record.spec.publish.clone();
    if record.spec.publish_all {
        let exposed = record.spec.exposed_ports.iter().filter_map(|port| exposed_port(port));
        for port in exposed {
            let is_there =
                |one: &Publish| (one.protocol, one.guest_port) == (port.protocol, port.guest_port);
            if !wanted.iter().any(is_there) {
                wanted.push(port);
            }
        }
    }
    wanted
}

/// `80/tcp` as a wish for any port of the host.
fn exposed_port(text: &str) -> Option<Publish> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => ireko_protocol::network::Protocol::Tcp,
        "udp" => ireko_protocol::network::Protocol::Udp,
        _ => return None,
    };
    let guest_port = port.parse().ok()?;
    Some(Publish { protocol, guest_port, host_address: None, host_ports: (0, 0) })
}
