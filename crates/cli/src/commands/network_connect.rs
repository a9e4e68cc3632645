//! `ireko network connect`.

use super::Context;
use crate::client::{Client, Content};
use crate::error::Result;
use crate::exit::Exit;
use crate::target::Target;
use hyper::Method;
use serde_json::{Value, json};

/// Connect a container to a network, at once where it runs
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Add a network-scoped alias for the container
    #[arg(long, value_name = "list")]
    alias: Vec<String>,

    /// IPv4 address (e.g., 172.30.100.104)
    #[arg(long, value_name = "address")]
    ip: Option<String>,

    #[arg(value_name = "NETWORK")]
    network: String,

    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Gives the container a place in the network.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let address = args.ip.as_ref().map(|address| json!({ "IPv4Address": address }));
    let body = json!({
        "Container": args.container,
        "EndpointConfig": { "Aliases": args.alias, "IPAMConfig": address },
    });
    tell(&client, &Target::docker(["networks", &args.network, "connect"]), &body).await
}

/// POST with a JSON body, and no answer worth reading.
pub async fn tell(client: &Client, target: &Target, body: &Value) -> Result<Exit> {
    client.send(Method::POST, target, Content::json(body)?).await?;
    Ok(Exit::SUCCESS)
}
