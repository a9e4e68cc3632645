//! A way to a container's TCP ports that need not be published.

use crate::engine::Engine;
use crate::error::{Error, Result};
use std::net::SocketAddrV4;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection to a container's port.
pub type PortStream = Box<dyn Duplex>;

/// A stream of bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Engine {
    /// Connects to a TCP port of a running container. Where nobody listens there, the connection ends
    /// at once.
    ///
    /// Errors where the container does not run, or is in no network.
    pub async fn connect_to_port(&self, reference: &str, port: u16) -> Result<PortStream> {
        let container = self.find(reference)?;
        let record = container.record();
        let Some(vm) = record.vm().filter(|_| record.is_running()) else {
            return Err(container.not_running());
        };
        let mut places = record.endpoints.iter();
        let found = places.find_map(|endpoint| Some((&endpoint.network, endpoint.lease?)));
        let (network, address) = found.ok_or_else(|| {
            Error::conflict(format!(
                "container {} is in no network: there is no way to its ports",
                record.name
            ))
        })?;
        let socket = self.places().vm_dir(vm).join(format!("port{port}.sock"));
        let at = SocketAddrV4::new(address, port);
        self.networks.get(network)?.connect(&container.id, at, &socket).await
    }
}
