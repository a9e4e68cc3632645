//! `ireko port`.

use super::Context;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;
use crate::target::Target;
use serde::Deserialize;
use std::collections::BTreeMap;

/// List published ports of a container, or where one of them leads from
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(value_name = "CONTAINER")]
    container: String,

    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    network_settings: Settings,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Settings {
    ports: Option<BTreeMap<String, Option<Vec<Host>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Host {
    host_ip: String,
    host_port: String,
}

impl Host {
    fn shown(&self) -> String {
        match self.host_ip.contains(':') {
            true => format!("[{}]:{}", self.host_ip, self.host_port),
            false => format!("{}:{}", self.host_ip, self.host_port),
        }
    }
}

/// Prints where the host listens.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::docker(["containers", &args.container, "json"]);
    let container: Container = client.get(&target).await?;
    let ports = container.network_settings.ports.unwrap_or_default();
    let Some(wanted) = &args.port else {
        for (port, hosts) in &ports {
            for host in hosts.iter().flatten() {
                output::line(format_args!("{port} -> {}", host.shown()))?;
            }
        }
        return Ok(Exit::SUCCESS);
    };
    let key = if wanted.contains('/') { wanted.clone() } else { format!("{wanted}/tcp") };
    let hosts = ports.get(&key).and_then(Option::as_ref).filter(|hosts| !hosts.is_empty());
    let hosts = hosts.ok_or_else(|| {
        Error::usage(format!("no public port '{key}' published for {}", args.container))
    })?;
    for host in hosts {
        output::line(host.shown())?;
    }
    Ok(Exit::SUCCESS)
}
