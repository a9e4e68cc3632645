//! Networks on a bridge of the host's: each VM has a TAP device of its own there.
//!
//! The bridge is there without us, and so are the addresses on it. Making a TAP device takes the
//! privilege to administrate networks; using one does not, so the VM has none.

use crate::blocking::blocking;
use crate::error::{Attempt, Error, Result};
use crate::networks::state::NetworkRecord;
use ireko_protocol::network::Endpoint;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long a port that says nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// The name of a container's TAP device in a network, which it has for as long as it runs.
pub(crate) fn tap(network: &str, container: &str) -> String {
    format!("irk{}{}", &network[..6], &container[..6])
}

/// Whether the host has a bridge of this name.
pub(crate) fn check(bridge: &str) -> Result<()> {
    // A name with a slash would be a path to somewhere else.
    let is_name = !bridge.is_empty() && bridge.len() <= 15 && !bridge.contains('/');
    match is_name && Path::new("/sys/class/net").join(bridge).join("bridge").is_dir() {
        true => Ok(()),
        false => Err(Error::bad_parameter(format!("the host has no bridge {bridge:?}"))
            .hint(format!("make one, as root: ip link add {bridge} type bridge"))),
    }
}

/// Makes a VM's device, in the place of one that was left behind, and joins it to the bridge.
pub(crate) async fn attach(
    network: &NetworkRecord,
    bridge: &str,
    endpoint: &Endpoint,
) -> Result<()> {
    check(bridge)?;
    if !endpoint.publish.is_empty() {
        return Err(Error::bad_parameter(format!(
            "network {} publishes no ports: its containers are reached by their own addresses",
            network.name
        )));
    }
    let tap = tap(&network.id, &endpoint.container);
    let (bridge, mtu) = (bridge.to_owned(), network.mtu);
    blocking(move || {
        if exists(&tap) {
            return Ok(());
        }
        let user = rustix::process::geteuid().as_raw();
        ip(&format!("tuntap add dev {tap} mode tap user {user}"))?;
        let joined = ip(&format!("link set dev {tap} mtu {mtu} master {bridge}"))
            .and_then(|()| ip(&format!("link set dev {tap} up")));
        if joined.is_err() {
            ip(&format!("link del dev {tap}"))?;
        }
        joined
    })
    .await
}

/// Removes a VM's device; whether it was there.
pub(crate) async fn detach(network: &NetworkRecord, container: &str) -> bool {
    let tap = tap(&network.id, container);
    let removed = blocking(move || match exists(&tap) {
        true => ip(&format!("link del dev {tap}")).map(|()| true),
        false => Ok(false),
    });
    removed.await.unwrap_or_else(|error| {
        tracing::error!(error = error.chain(), network = network.name, "a device stays");
        false
    })
}

/// Whether somebody takes connections there.
pub(crate) async fn probe(to: SocketAddrV4) -> bool {
    let connecting = tokio::net::TcpStream::connect(to);
    matches!(tokio::time::timeout(PATIENCE, connecting).await, Ok(Ok(_)))
}

fn exists(device: &str) -> bool {
    Path::new("/sys/class/net").join(device).exists()
}

/// Runs iproute2's `ip` with words that have no spaces.
fn ip(words: &str) -> Result<()> {
    let attempt = || format!("run ip {words}");
    let ran = Command::new("ip").args(words.split(' ')).env("LC_ALL", "C").output();
    let ran = ran.attempt(attempt)?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    let error = Error::internal(format!("{}: {said}", attempt()));
    Err(match said.contains("not permitted") {
        true => error.hint(
            "a bridged network takes the privilege to administrate networks (CAP_NET_ADMIN): run \
             the daemon as root, or use another driver",
        ),
        false => error,
    })
}
