//! Joining a container's VM to its networks when it starts, and letting it go when it ends.

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::networks::bridge;
use crate::networks::endpoints::names;
use crate::networks::state::{EndpointRecord, Fabric, NetworkRecord};
use crate::plan::{files, hostname};
use crate::shim_client::GUEST;
use crate::state::{ContainerRecord, RunState};
use ireko_protocol::agent::Interface;
use ireko_protocol::network::{Endpoint, Publish, Published};
use ireko_protocol::plan::{Cable, Nic};
use ireko_protocol::shim::{Request, Wiring};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// One network device of a VM, and what its network offers.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) nic: Nic,
    pub(crate) interface: Interface,
    /// The network's gateway where that is ours: it stands for the host, and is asked for names.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// The network's own name server knows its containers.
    pub(crate) has_names: bool,
}

/// All of one container's, in the order of its endpoints.
type Wired = Vec<(Wire, Endpoint, Arc<NetworkRecord>)>;

/// A VM being attached to its switches, which goes on whoever waits for it.
pub(crate) struct Attaching(Option<JoinHandle<Result<()>>>);

impl Attaching {
    /// Returns when the switches expect the VM; what became of it is told once.
    pub(crate) async fn settled(&mut self) -> Result<()> {
        let Some(task) = &mut self.0 else { return Ok(()) };
        let result = task.await;
        self.0 = None;
        result.unwrap_or_else(|error| Err(Error::caused("a task of the engine broke", error)))
    }
}

impl Engine {
    /// Changes the record of a container that is to run, and gives it its addresses.
    pub(crate) async fn change_and_address(
        &self,
        container: &Arc<Container>,
        change: impl FnOnce(&mut ContainerRecord) + Send + 'static,
    ) -> Result<()> {
        let _one = self.networks.addressing.lock().await;
        let addresses = self.choose_addresses(&container.record())?;
        let addressed = move |record: &mut ContainerRecord| {
            change(record);
            for (endpoint, address) in record.endpoints.iter_mut().zip(addresses) {
                endpoint.lease = address;
            }
        };
        container.update(addressed).await.map(drop)
    }

    /// What a container that has its addresses gets in this VM; the VM's switches are told meanwhile,
    /// and started where there are none. [`Engine::unwire`] undoes it, once that is settled.
    pub(crate) fn wire(
        &self,
        container: &Arc<Container>,
        vm: &str,
    ) -> Result<(Vec<Wire>, Attaching)> {
        let record = container.record();
        let wired = self.wires(&record, vm, wanted_ports(&record))?;
        let wires = wired.iter().map(|(wire, ..)| wire.clone()).collect();
        if wired.is_empty() {
            return Ok((wires, Attaching(None)));
        }
        let (engine, container) = (self.clone(), Arc::clone(container));
        let attach = async move {
            let published = engine.attach_all(&wired).await?;
            if !published.is_empty() {
                container.update(move |record| record.published = published).await?;
            }
            for (_, _, network) in &wired {
                engine.emit_network(network, "connect", Some(&container.id));
            }
            Ok(())
        };
        Ok((wires, Attaching(Some(tokio::spawn(attach)))))
    }

    async fn attach_all(&self, wired: &Wired) -> Result<Vec<Published>> {
        let mut published = Vec::new();
        for (_, endpoint, network) in wired {
            let network = self.networks.get(&network.id)?;
            published.extend(network.attach(endpoint.clone()).await?);
        }
        Ok(published)
    }

    /// Tells the switches and the VM of a container that runs what its record says of its networks;
    /// nothing where it does not run. The caller holds the container's verb lock.
    pub(crate) async fn rewire(&self, container: &Arc<Container>) -> Result<()> {
        let record = container.record();
        let RunState::Running { vm, .. } = &record.state else { return Ok(()) };
        let wired = self.wires(&record, vm, self.published_ports(&record))?;
        let published = self.attach_all(&wired).await?;
        if published != record.published {
            container.update(move |record| record.published = published).await?;
        }
        let wires: Vec<_> = wired.into_iter().map(|(wire, ..)| wire).collect();
        let wiring = Wiring {
            nics: wires.iter().map(|wire| wire.nic.clone()).collect(),
            interfaces: wires.iter().map(|wire| wire.interface.clone()).collect(),
            files: files(&record, &wires),
        };
        let shim = container.running_shim(self.places())?;
        match shim.ask(Request::Rewire(Box::new(wiring)), GUEST).await {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(error
                    .into_error(|| format!("change the networks of container {}", record.name)))
            }
        }
    }

    /// The ports that a container keeps, with other networks than before: those that it has, or that
    /// it asks for where none of its networks could publish them. None while none can.
    fn published_ports(&self, record: &ContainerRecord) -> Vec<Publish> {
        let publishes = |endpoint: &EndpointRecord| {
            let network = self.networks.get(&endpoint.network);
            network.is_ok_and(|network| network.record.publishes())
        };
        match record.published.is_empty() {
            _ if !record.endpoints.iter().any(publishes) => Vec::new(),
            true => wanted_ports(record),
            false => record.published.iter().map(Publish::from).collect(),
        }
    }

    /// Lets a VM that is gone, or never came, go.
    pub(crate) async fn unwire(&self, container: &Arc<Container>) {
        for endpoint in &container.record().endpoints {
            let Ok(network) = self.networks.get(&endpoint.network) else { continue };
            if network.detach(&container.id).await {
                self.emit_network(&network.record, "disconnect", Some(&container.id));
            }
        }
    }

    /// Takes over the switches of a former daemon, with the containers that run.
    pub(crate) async fn take_over_switches(&self) {
        let mut endpoints: BTreeMap<String, Vec<Endpoint>> = BTreeMap::new();
        for record in self.containers() {
            let Some(vm) = record.vm() else { continue };
            match self.wires(&record, vm, record.published.iter().map(Publish::from).collect()) {
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
            network.take_over(endpoints).await;
        }
    }

    /// What a container that has its addresses gets in a VM.
    fn wires(&self, record: &ContainerRecord, vm: &str, ports: Vec<Publish>) -> Result<Wired> {
        let folder = self.places().vm_dir(vm);
        let mut wired = Vec::new();
        let mut ports = Some(ports);
        let networks: Result<Vec<_>> =
            record.endpoints.iter().map(|one| self.networks.get(&one.network)).collect();
        let networks = networks?;
        let by = self.way_out(record);
        for (number, endpoint) in record.endpoints.iter().enumerate() {
            let network = Arc::clone(&networks[number].record);
            let others = networks.iter().filter(|other| other.record.id != network.id);
            let siblings = others.filter_map(|other| other.name_server()).collect();
            // A whole operating system may get its address from others.
            let address = endpoint.lease.unwrap_or(Ipv4Addr::UNSPECIFIED);
            // The first network that can publishes the ports; the last would say why it cannot.
            let is_last = number + 1 == record.endpoints.len();
            let publish = if network.publishes() || is_last { ports.take() } else { None };
            let leads_out = by == Some(number);
            let socket = folder.join(format!("{}.net", &endpoint.id[..8]));
            let cable = match network.fabric {
                Fabric::Switch(_) => Cable::Socket(socket.clone()),
                Fabric::Bridge { .. } => Cable::Tap(bridge::tap(&network.id, &record.id)),
            };
            wired.push((
                wire(Nic { mac: endpoint.mac, cable }, address, leads_out, &network),
                Endpoint {
                    container: record.id.clone(),
                    mac: endpoint.mac,
                    address,
                    socket,
                    hostname: hostname(record),
                    names: names(record, endpoint, &network.name),
                    default_route: leads_out,
                    dns: record.spec.dns.servers.clone(),
                    siblings,
                    publish: publish.unwrap_or_default(),
                },
                network,
            ));
        }
        let is_ours = wired.iter().any(|(wire, ..)| wire.gateway.is_some());
        if !is_ours && !wired.is_empty() && !record.spec.gateway_hosts.is_empty() {
            return Err(Error::unsupported(format!(
                "host-gateway is the gateway of a network of Ireko's, and container {} has none",
                record.name
            )));
        }
        Ok(wired)
    }
}

impl Engine {
    /// By which of its endpoints a container goes outside.
    fn way_out(&self, record: &ContainerRecord) -> Option<usize> {
        let leads = |endpoint: &EndpointRecord| {
            self.networks.get(&endpoint.network).is_ok_and(|network| network.record.leads_outside())
        };
        let mut all = record.endpoints.iter();
        let chosen = all.position(|endpoint| endpoint.default_route && leads(endpoint));
        chosen.or_else(|| record.endpoints.iter().position(leads))
    }
}

fn wire(nic: Nic, address: Ipv4Addr, leads_out: bool, network: &NetworkRecord) -> Wire {
    Wire {
        interface: Interface {
            mac: nic.mac,
            device: None,
            address,
            prefix: network.subnet.prefix(),
            default_route: leads_out.then_some(network.gateway),
            mtu: network.mtu,
        },
        nic,
        gateway: (!network.is_bridged()).then_some(network.gateway),
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
