//! `ireko network disconnect`.

use super::Context;
use super::network_connect::tell;
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;
use serde_json::json;

/// Disconnect a container from a network, at once where it runs
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[arg(value_name = "NETWORK")]
    network: String,

    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Takes the container out of the network.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::docker(["networks", &args.network, "disconnect"]);
    tell(&client, &target, &json!({ "Container": args.container })).await
}
