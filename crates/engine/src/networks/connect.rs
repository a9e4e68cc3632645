//! A container's networks and addresses change: at rest, or while it runs.
//!
//! ```text
//!   config.json ─► switches ─► the VM's devices ─► its guest
//! ```
//!
//! Where a later step fails the earlier ones are undone. Whoever starts as the next daemon takes
//! the later steps again.

use crate::blocking::to_its_end;
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::networks::endpoints::nobody_to_tell;
use crate::networks::state::{EndpointRecord, EndpointSpec, NetworkRecord};
use crate::state::ContainerRecord;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The address that a container is to have from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressChange {
    /// In which of its networks; `None` is its first.
    pub network: Option<String>,
    /// The address.
    pub address: Ipv4Addr,
    /// How many leading bits all addresses of the network share.
    pub prefix: u8,
    /// The container goes outside by this network, whose gateway this is.
    pub gateway: Option<Ipv4Addr>,
    /// Where names outside are looked up for it; `None`: as before.
    pub dns: Option<Vec<IpAddr>>,
}

impl Engine {
    /// Gives a container a place in a network; one that runs, at once.
    ///
    /// Errors where it has one already, or its guest cannot be given a device.
    pub async fn connect(&self, container: &str, wish: EndpointSpec) -> Result<()> {
        let container = self.find(container)?;
        let network = self.networks.find(&wish.network)?;
        let engine = self.clone();
        to_its_end(async move {
            let _verb = container.verb.lock().await;
            let record = container.record();
            if endpoint_in(&record, &network.record).is_some() {
                return Err(Error::new(
                    ErrorKind::Forbidden,
                    format!(
                        "endpoint with name {} already exists in network {}",
                        record.name, network.record.name
                    ),
                ));
            }
            {
                let _one = engine.networks.addressing.lock().await;
                let mut endpoint = engine.endpoint(&network, wish)?;
                if record.vm().is_some() {
                    endpoint.lease = engine.choose_address(&record, &endpoint)?;
                }
                container.update(move |record| record.endpoints.push(endpoint)).await?;
            }
            engine.apply(&container, &record).await?;
            engine.emit_network(&network.record, "connect", Some(&record.id));
            Ok(())
        })
        .await
    }

    /// Takes a container out of a network; one that runs, at once.
    ///
    /// Errors where it has no place in it.
    pub async fn disconnect(&self, container: &str, network: &str) -> Result<()> {
        let container = self.find(container)?;
        let network = self.networks.find(network)?;
        let engine = self.clone();
        to_its_end(async move {
            let _verb = container.verb.lock().await;
            let record = container.record();
            if endpoint_in(&record, &network.record).is_none() {
                return Err(not_connected(&record, &network.record));
            }
            let id = network.record.id.clone();
            container
                .update(move |record| record.endpoints.retain(|one| one.network != id))
                .await?;
            if record.vm().is_some() {
                network.detach(&container.id).await;
            }
            engine.apply(&container, &record).await?;
            engine.emit_network(&network.record, "disconnect", Some(&record.id));
            Ok(())
        })
        .await
    }

    /// Gives a container this address in one of its networks; one that runs, at once.
    ///
    /// Errors where that is not the network's, or is in use.
    pub async fn set_address(&self, container: &str, change: AddressChange) -> Result<()> {
        let container = self.find(container)?;
        let engine = self.clone();
        to_its_end(async move {
            let _verb = container.verb.lock().await;
            let record = container.record();
            let network = engine.network_of(&record, change.network.as_deref())?;
            {
                let _one = engine.networks.addressing.lock().await;
                engine.check_change(&record, &network, &change)?;
                let id = network.id.clone();
                container
                    .update(move |record| {
                        for endpoint in &mut record.endpoints {
                            if endpoint.network == id {
                                endpoint.fixed = Some(change.address);
                                endpoint.lease = Some(change.address);
                            }
                            if change.gateway.is_some() {
                                endpoint.default_route = endpoint.network == id;
                            }
                        }
                        if let Some(servers) = change.dns {
                            record.spec.dns.servers = servers;
                        }
                    })
                    .await?;
            }
            engine.apply(&container, &record).await
        })
        .await
    }

    fn network_of(
        &self,
        record: &ContainerRecord,
        network: Option<&str>,
    ) -> Result<Arc<NetworkRecord>> {
        if let Some(reference) = network {
            let network = Arc::clone(&self.networks.find(reference)?.record);
            return match endpoint_in(record, &network) {
                Some(_) => Ok(network),
                None => Err(not_connected(record, &network)),
            };
        }
        let Some(first) = record.endpoints.first() else {
            return Err(Error::conflict(format!("container {} has no network", record.name))
                .hint(format!("give it one: ireko network connect NETWORK {}", record.name)));
        };
        Ok(Arc::clone(&self.networks.get(&first.network)?.record))
    }

    fn check_change(
        &self,
        record: &ContainerRecord,
        network: &NetworkRecord,
        change: &AddressChange,
    ) -> Result<()> {
        let AddressChange { address, prefix, .. } = *change;
        let (name, subnet) = (&network.name, network.subnet);
        let is_somebodys = address != subnet.first() && address != subnet.last();
        if !subnet.contains(address) || !is_somebodys || prefix != subnet.prefix() {
            return Err(Error::bad_parameter(format!(
                "{address}/{prefix} is no address of network {name}, which is {subnet}"
            )));
        }
        if network.is_bridged() && record.process.is_machine() {
            return Err(nobody_to_tell(record, network));
        }
        if self.addresses_in_use(network, &record.id).contains(&address) {
            return Err(Error::new(ErrorKind::Forbidden, "Address already in use")
                .hint(format!("ireko network inspect {name} shows who has it")));
        }
        match change.gateway {
            Some(gateway) if gateway != network.gateway => Err(Error::bad_parameter(format!(
                "{gateway} is not the gateway of network {name}: that is {}",
                network.gateway
            ))),
            Some(_) if !network.leads_outside() => {
                Err(Error::bad_parameter(format!("network {name} does not lead outside")))
            }
            _ => Ok(()),
        }
    }

    /// Brings the switches and the VM of a container that runs to what its record says; where that
    /// fails the record is what it was `before`, and they too as far as they can be.
    async fn apply(&self, container: &Arc<Container>, before: &Arc<ContainerRecord>) -> Result<()> {
        let Err(error) = self.rewire(container).await else { return Ok(()) };
        let gone: Vec<_> = {
            let now = container.record();
            let is_new =
                |one: &&EndpointRecord| before.endpoints.iter().all(|old| old.id != one.id);
            now.endpoints.iter().filter(is_new).map(|one| one.network.clone()).collect()
        };
        let (endpoints, dns) = (before.endpoints.clone(), before.spec.dns.clone());
        container
            .update(move |record| (record.endpoints, record.spec.dns) = (endpoints, dns))
            .await?;
        for network in gone.iter().filter_map(|id| self.networks.get(id).ok()) {
            network.detach(&container.id).await;
        }
        if let Err(error) = self.rewire(container).await {
            tracing::error!(error = error.chain(), id = container.id, "half rewired");
        }
        Err(error)
    }
}

fn endpoint_in<'a>(
    record: &'a ContainerRecord,
    network: &NetworkRecord,
) -> Option<&'a EndpointRecord> {
    record.endpoints.iter().find(|one| one.network == network.id)
}

fn not_connected(record: &ContainerRecord, network: &NetworkRecord) -> Error {
    Error::new(
        ErrorKind::Forbidden,
        format!("container {} is not connected to network {}", record.id, network.name),
    )
}
