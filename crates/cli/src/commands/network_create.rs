//! `ireko network create`.

use super::Context;
use crate::client::Content;
use crate::error::Result;
use crate::exit::Exit;
use crate::output;
use crate::target::Target;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Create a network
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// bridge (guests reach each other and the outside; also: natnet), nat (each alone), hostonly,
    /// internal
    #[arg(short, long, value_name = "string")]
    driver: Option<String>,

    /// IPv4 gateway for the subnet
    #[arg(long, value_name = "address")]
    gateway: Option<String>,

    /// Restrict external access to the network: hostonly
    #[arg(long)]
    internal: bool,

    /// Allocate container addresses from a sub-range
    #[arg(long, value_name = "subnet")]
    ip_range: Option<String>,

    /// Set metadata on a network
    #[arg(long, value_name = "list")]
    label: Vec<String>,

    /// Set driver specific options: NAME=VALUE
    #[arg(short, long = "opt", value_name = "list")]
    options: Vec<String>,

    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "subnet")]
    subnet: Option<String>,

    #[arg(value_name = "NETWORK")]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
    #[serde(default)]
    warning: String,
}

/// Makes the network and prints its id.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::docker(["networks", "create"]);
    let created: Created = client.post(&target, Content::json(&request(args))?).await?;
    if !created.warning.is_empty() {
        output::note(format_args!("WARNING: {}", created.warning));
    }
    output::line(created.id)?;
    Ok(Exit::SUCCESS)
}

fn request(args: &Args) -> Value {
    let pairs = |list: &[String]| -> Map<String, Value> {
        let pair = |text: &String| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.into())
        };
        list.iter().map(pair).collect()
    };
    let mut pool = Map::new();
    for (name, value) in
        [("Subnet", &args.subnet), ("IPRange", &args.ip_range), ("Gateway", &args.gateway)]
    {
        pool.extend(value.clone().map(|value| (name.to_owned(), value.into())));
    }
    let pools = if pool.is_empty() { Vec::new() } else { vec![pool] };
    json!({
        "Name": args.name,
        "Driver": args.driver.clone().unwrap_or_default(),
        "Internal": args.internal,
        "IPAM": { "Config": pools },
        "Options": pairs(&args.options),
        "Labels": pairs(&args.label),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn every_option_arrives_where_docker_has_it() {
        let words = [
            "create",
            "-d",
            "nat",
            "--subnet",
            "10.0.0.0/24",
            "--gateway",
            "10.0.0.9",
            "--label",
            "a=b",
            "-o",
            "x=1",
            "--internal",
            "--ip-range",
            "10.0.0.128/25",
            "net",
        ];
        assert_eq!(
            request(&Line::parse_from(words).args),
            json!({
                "Name": "net", "Driver": "nat", "Internal": true,
                "IPAM": { "Config": [{
                    "Subnet": "10.0.0.0/24", "IPRange": "10.0.0.128/25", "Gateway": "10.0.0.9",
                }] },
                "Options": { "x": "1" }, "Labels": { "a": "b" },
            })
        );
        let bare = request(&Line::parse_from(["create", "net"]).args);
        assert_eq!(bare["IPAM"]["Config"], json!([]));
    }
}
