//! Which addresses a container has: those that its networks give it, or what the agent in a whole operating
//! system says, which may be others, set in it or given by somebody else's DHCP.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::shim_client::unexpected;
use crate::state::ContainerRecord;
use ireko_protocol::agent::{GuestAddress, GuestInterface};
use ireko_protocol::network::MacAddress;
use ireko_protocol::shim::{Answer, Request};
use std::net::IpAddr;
use std::time::Duration;

/// Time for an agent that a person asks for.
const ASKED: Duration = Duration::from_secs(20);
/// Time for one that is asked because somebody looks at the container.
const GLANCE: Duration = Duration::from_millis(1500);
/// The shim's own time to say that there was no answer.
const GRACE: Duration = Duration::from_secs(5);

/// An address of a running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerAddress {
    /// The id of the network that it is in.
    pub network: String,
    /// Of which network device.
    pub mac: MacAddress,
    /// The address.
    pub address: IpAddr,
    /// The container says so itself.
    pub is_reported: bool,
}

/// Why an agent is asked.
#[derive(Clone, Copy)]
pub(crate) enum Attention {
    /// For the addresses themselves: they have to be those of now.
    Asked,
    /// Because somebody looks at the container, or at all of them.
    Glance,
}

impl Engine {
    /// A running container's addresses, its main network's first. What no agent says is what the network
    /// keeps for it.
    ///
    /// Errors where it does not run.
    pub async fn addresses(&self, reference: &str) -> Result<Vec<ContainerAddress>> {
        let record = self.inspect(reference)?;
        if !record.is_running() {
            return Err(Error::conflict(format!("container {} is not running", record.name)));
        }
        let reported = match record.process.is_machine() && !record.is_paused() {
            true => {
                self.ask_for_addresses(&record, Attention::Asked).await.unwrap_or_else(|error| {
                    tracing::debug!(error = error.chain(), "addresses are those of the networks");
                    Vec::new()
                })
            }
            false => Vec::new(),
        };
        Ok(together(&record, &reported))
    }

    /// What the agent in a machine says of its addresses, where that is there at once; for all others
    /// nothing.
    pub async fn reported_addresses(&self, record: &ContainerRecord) -> Vec<GuestInterface> {
        if !record.process.is_machine() || !record.is_running() || record.is_paused() {
            return Vec::new();
        }
        self.ask_for_addresses(record, Attention::Glance).await.unwrap_or_default()
    }

    /// Asks the agent in a machine.
    pub(crate) async fn ask_for_addresses(
        &self,
        record: &ContainerRecord,
        attention: Attention,
    ) -> Result<Vec<GuestInterface>> {
        let (limit, recent) = match attention {
            Attention::Asked => (ASKED, false),
            Attention::Glance => (GLANCE, true),
        };
        let shim = self.find(&record.id)?.running_shim(self.places())?;
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let answer = shim.ask(Request::Addresses { millis, recent }, limit + GRACE).await;
        match answer {
            Ok(Answer::Addresses { interfaces }) => Ok(interfaces),
            Ok(other) => Err(unexpected("ask for addresses", &other)),
            Err(error) => {
                Err(error.into_error(|| format!("ask container {} for its addresses", record.name)))
            }
        }
    }
}

/// The addresses by which others reach what has this hardware address.
pub fn of_mac(reported: &[GuestInterface], mac: MacAddress) -> Vec<GuestAddress> {
    let is_it = |one: &&GuestInterface| one.mac == Some(mac);
    let all = reported.iter().filter(is_it).flat_map(|one| one.addresses.clone());
    all.filter(GuestAddress::leads_out).collect()
}

fn together(record: &ContainerRecord, reported: &[GuestInterface]) -> Vec<ContainerAddress> {
    let mut all = Vec::new();
    for endpoint in &record.endpoints {
        let address = |address, is_reported| ContainerAddress {
            network: endpoint.network.clone(),
            mac: endpoint.mac,
            address,
            is_reported,
        };
        let said = of_mac(reported, endpoint.mac);
        all.extend(said.iter().map(|one| address(one.address, true)));
        if said.is_empty() {
            all.extend(endpoint.lease.map(|lease| address(IpAddr::V4(lease), false)));
        }
    }
    all
}
