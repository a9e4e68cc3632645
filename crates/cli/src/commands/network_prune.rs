//! `ireko network prune`.

use super::Context;
use crate::client::Content;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use crate::target::{Filter, Target};
use serde::Deserialize;

/// Remove all networks that no container uses
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Only those of these labels or this age: label=KEY[=VALUE], until=TIME
    #[arg(long, value_name = "filter")]
    filter: Vec<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pruned {
    networks_deleted: Option<Vec<String>>,
}

/// Removes them and prints their names. Nothing is asked: a network is made again by one command.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::docker(["networks", "prune"]).with_filters(&args.filter);
    let pruned: Pruned = client.post(&target, Content::none()).await?;
    for name in pruned.networks_deleted.unwrap_or_default() {
        output::line(name)?;
    }
    Ok(Exit::SUCCESS)
}
