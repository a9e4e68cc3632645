//! `ireko ip`.

use super::Context;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;
use crate::target::Target;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Print the addresses of a running container, one a line, its main network's first
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(value_name = "CONTAINER")]
    container: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    host_config: HostConfig,
    network_settings: Settings,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HostConfig {
    network_mode: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Settings {
    networks: BTreeMap<String, Network>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    #[serde(rename = "IPAddress")]
    address: String,
    #[serde(rename = "NetworkID")]
    id: String,
}

/// Prints the addresses.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::docker(["containers", &args.container, "json"]);
    let container: Container = client.get(&target).await?;
    let main = container.host_config.network_mode;
    let is_main = |name: &str, network: &Network| name == main || network.id.starts_with(&main);
    let mut all: Vec<_> = container.network_settings.networks.into_iter().collect();
    all.sort_by_key(|(name, network)| !is_main(name, network));
    all.retain(|(_, network)| !network.address.is_empty());
    if all.is_empty() {
        return Err(Error::usage(format!("container {} has no address", args.container))
            .hint("it has one while it runs, unless its network is none"));
    }
    for (_, network) in all {
        output::line(network.address)?;
    }
    Ok(Exit::SUCCESS)
}
