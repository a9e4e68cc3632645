//! `ireko ip`, and `ireko ip set`.

use super::Context;
use crate::client::Content;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::output;
use crate::target::Target;
use hyper::Method;
use ireko_protocol::network::{HasAddress, SetAddress};
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// Print the addresses of a running container, one a line, its main network's first
///
/// A whole operating system says itself which it has, where an agent is in it; else they are those that its
/// networks keep for it.
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[arg(required = true, value_name = "CONTAINER")]
    container: Option<String>,

    /// As JSON: with network, hardware address, and whether the container says so itself
    #[arg(long)]
    json: bool,

    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Verb {
    Set(SetArgs),
}

/// Give a container another address, at once where it runs
///
/// The address is kept for it in its network. A container of an image of files gets it at once; a
/// whole operating system asks for its address by DHCP when its link goes down and up, which this
/// makes it do. Connections by the old address are lost.
#[derive(clap::Args, Clone, Debug)]
struct SetArgs {
    /// In which of its networks: the first where it has several
    #[arg(long, value_name = "network")]
    network: Option<String>,

    /// Go outside by this network, whose gateway this is
    #[arg(long, value_name = "address")]
    gateway: Option<Ipv4Addr>,

    /// Look names outside up there; may be repeated
    #[arg(long, value_name = "address")]
    dns: Vec<IpAddr>,

    #[arg(value_name = "CONTAINER")]
    container: String,

    /// Such as 172.30.0.9/16
    #[arg(value_name = "ADDRESS/LENGTH")]
    address: Cidr,
}

#[derive(Clone, Copy, Debug)]
struct Cidr {
    address: Ipv4Addr,
    prefix: u8,
}

impl FromStr for Cidr {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let read = |(address, prefix): (&str, &str)| {
            Some(Self { address: address.parse().ok()?, prefix: prefix.parse().ok()? })
        };
        let cidr = text.split_once('/').and_then(read);
        cidr.ok_or_else(|| "an address with its prefix length is wanted: 172.30.0.9/16".to_owned())
    }
}

/// Prints the addresses, or sets one.
pub async fn execute(context: &Context, args: &Args) -> Result<Exit> {
    match (&args.verb, &args.container) {
        (Some(Verb::Set(args)), _) => set(context, args).await,
        (None, Some(container)) => print(context, container, args.json).await,
        // The grammar asks for one of them.
        (None, None) => Ok(Exit::SUCCESS),
    }
}

async fn set(context: &Context, args: &SetArgs) -> Result<Exit> {
    let Cidr { address, prefix } = args.address;
    let dns = (!args.dns.is_empty()).then(|| args.dns.clone());
    let (network, gateway) = (args.network.clone(), args.gateway);
    let body = SetAddress { network, address, prefix, gateway, dns };
    let target = Target::ireko(["containers", &args.container, "address"]);
    let client = context.connect().await?;
    client.send(Method::POST, &target, Content::json(&body)?).await?;
    Ok(Exit::SUCCESS)
}

async fn print(context: &Context, container: &str, json: bool) -> Result<Exit> {
    let client = context.connect().await?;
    let target = Target::ireko(["containers", container, "addresses"]);
    let all: Vec<HasAddress> = client.get(&target).await?;
    if json {
        let text = serde_json::to_string_pretty(&all)
            .map_err(|error| Error::local("cannot write JSON").because(error))?;
        output::line(text)?;
        return Ok(Exit::SUCCESS);
    }
    if all.is_empty() {
        return Err(Error::usage(format!("container {container} has no address"))
            .hint("it has one while it runs, unless its network is none"));
    }
    for one in all {
        output::line(one.address)?;
    }
    Ok(Exit::SUCCESS)
}
