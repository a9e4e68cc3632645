//! `ireko network ls`.

use super::Context;
use crate::api::short_id;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use crate::table::Table;
use crate::target::{Filter, Target};
use serde::Deserialize;
use serde_json::Value;

/// List networks
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Filter output: driver, id, label, name, type, dangling
    #[arg(short, long, value_name = "filter")]
    filter: Vec<Filter>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Do not truncate the output
    #[arg(long)]
    no_trunc: bool,

    /// Only display network ids
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    id: String,
    name: String,
    driver: String,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipam {
    config: Option<Vec<Pool>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pool {
    #[serde(default)]
    subnet: String,
}

/// Prints one line for each network.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::docker(["networks"]).with_filters(&args.filter);
    let listed: Value = client.get(&target).await?;
    if args.json {
        output::json(&listed)?;
        return Ok(Exit::SUCCESS);
    }
    let networks: Vec<Network> = crate::client::decode(listed.to_string().as_bytes())?;
    let id = |network: &Network| match args.no_trunc {
        true => network.id.clone(),
        false => short_id(&network.id).to_owned(),
    };
    if args.quiet {
        for network in &networks {
            output::line(id(network))?;
        }
        return Ok(Exit::SUCCESS);
    }
    let mut table = Table::new(["NETWORK ID", "NAME", "DRIVER", "SUBNET"]);
    for network in &networks {
        let pools = network.ipam.config.as_deref().unwrap_or_default();
        let subnet = pools.first().map(|pool| pool.subnet.clone()).unwrap_or_default();
        table.row([id(network), network.name.clone(), network.driver.clone(), subnet]);
    }
    output::print(table)?;
    Ok(Exit::SUCCESS)
}
