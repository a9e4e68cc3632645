//! `--ip` with `--subnet` and `--gateway`: which network is meant.
//!
//! ```text
//!   --ip 10.1.0.9 --subnet 24 --gateway 10.1.0.1     the network 10.1.0.0/24 with that gateway
//! ```
//! A network has its subnet and its gateway from its making, and containers take both from it. Whoever
//! says them names the network by them, or is told that the one that was named has others.

use crate::client::Client;
use crate::error::{Error, Result};
use crate::target::Target;
use serde::Deserialize;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// What is said of a container's address.
#[derive(Clone, Copy, Debug)]
pub struct Addressing<'a> {
    /// The address.
    pub address: Ipv4Addr,
    /// Its subnet.
    pub subnet: Option<Subnet>,
    /// The gateway there.
    pub gateway: Option<Ipv4Addr>,
    /// The network, where it is named.
    pub network: Option<&'a str>,
}

/// `--subnet`: a prefix length, a mask, or either after a network's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    prefix: u8,
    /// Any of its addresses.
    address: Option<Ipv4Addr>,
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (address, length) = match text.split_once('/') {
            Some(("", length)) => (None, length),
            Some((address, length)) => (Some(address.parse::<Ipv4Addr>().ok()), length),
            None => (None, text),
        };
        let prefix = match length.parse::<Ipv4Addr>() {
            Ok(mask) => prefix_of(mask),
            Err(_) => length.parse().ok(),
        };
        let wrong = || "a subnet is written 24, 255.255.255.0 or 10.1.0.0/24".to_owned();
        let prefix = prefix.filter(|prefix| *prefix <= 32).ok_or_else(wrong)?;
        match address {
            Some(None) => Err(wrong()),
            Some(address) => Ok(Self { prefix, address }),
            None => Ok(Self { prefix, address: None }),
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}/{}", first(address, self.prefix), self.prefix),
            None => write!(f, "/{}", self.prefix),
        }
    }
}

/// The length of a mask; `None` for one with gaps.
fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    (bits.leading_ones() == bits.count_ones()).then(|| bits.leading_ones() as u8)
}

/// The first address of the subnet that an address is in.
fn first(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() & mask)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Network {
    name: String,
    #[serde(rename = "IPAM", default)]
    ipam: Ipam,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    config: Option<Vec<Pool>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Pool {
    subnet: String,
    gateway: String,
}

impl Addressing<'_> {
    /// Finds the network that is as was said: the one that was named, else the only one.
    pub async fn network(&self, client: &Client) -> Result<String> {
        if let Some(name) = self.network {
            let network: Network = client.get(&Target::docker(["networks", name])).await?;
            return match self.is_of(&network) {
                true => Ok(name.to_owned()),
                false => Err(Error::usage(format!("{self}: network {name} is {}", said(&network)))
                    .hint("`ireko network ls` shows which subnet is whose")),
            };
        }
        let networks: Vec<Network> = client.get(&Target::docker(["networks"])).await?;
        let found: Vec<_> = networks.iter().filter(|network| self.is_of(network)).collect();
        match found[..] {
            [one] => Ok(one.name.clone()),
            [] => Err(Error::usage(format!("{self}: no network is so")).hint(self.remedy())),
            [one, other, ..] => {
                let several = format!("{self}: {} and {} are so", one.name, other.name);
                Err(Error::usage(several).hint("say which: --network NETWORK"))
            }
        }
    }

    fn is_of(&self, network: &Network) -> bool {
        let pools = network.ipam.config.as_deref().unwrap_or_default();
        pools.iter().any(|pool| self.is_in(pool).unwrap_or(false))
    }

    /// `None` for a pool that is no subnet of these addresses.
    fn is_in(&self, pool: &Pool) -> Option<bool> {
        let Subnet { prefix, address } = pool.subnet.parse().ok()?;
        let start = first(address?, prefix);
        let is_same = |subnet: Subnet| {
            subnet.prefix == prefix
                && subnet.address.is_none_or(|address| first(address, prefix) == start)
        };
        Some(
            first(self.address, prefix) == start
                && self.subnet.is_none_or(is_same)
                && self.gateway.is_none_or(|gateway| pool.gateway == gateway.to_string()),
        )
    }

    fn remedy(&self) -> String {
        let prefix = self.subnet.map_or(24, |subnet| subnet.prefix);
        let gateway = self.gateway.map(|gateway| format!(" --gateway {gateway}"));
        format!(
            "`ireko network ls` lists them; one is made by `ireko network create --subnet {}/{prefix}{} NETWORK`",
            first(self.address, prefix),
            gateway.unwrap_or_default()
        )
    }
}

impl fmt::Display for Addressing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the address {}", self.address)?;
        if let Some(subnet) = self.subnet {
            write!(f, " in a subnet {subnet}")?;
        }
        match self.gateway {
            Some(gateway) => write!(f, " with the gateway {gateway}"),
            None => Ok(()),
        }
    }
}

fn said(network: &Network) -> String {
    match network.ipam.config.as_deref().unwrap_or_default() {
        [] => "without addresses".to_owned(),
        [pool, ..] => format!("{} with the gateway {}", pool.subnet, pool.gateway),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Fake;

    const NETWORKS: &str = r#"[
        {"Name":"none","IPAM":{"Config":null}},
        {"Name":"lan","IPAM":{"Config":[{"Subnet":"10.1.0.0/24","Gateway":"10.1.0.1"}]}},
        {"Name":"wide","IPAM":{"Config":[{"Subnet":"10.1.0.0/16","Gateway":"10.1.0.254"}]}}]"#;

    async fn found(options: &str) -> std::result::Result<String, String> {
        let fake = Fake::start(|request| match request.uri().path() {
            "/v1.50/networks" => Fake::json(200, NETWORKS),
            path => {
                let name = path.rsplit('/').next().unwrap_or_default();
                let all: Vec<serde_json::Value> = serde_json::from_str(NETWORKS).unwrap();
                let one = all.iter().find(|one| one["Name"] == name);
                Fake::json(200, &one.unwrap().to_string())
            }
        });
        let words: Vec<_> =
            options.split(' ').map(|word| Some(word).filter(|word| *word != "-")).collect();
        let addressing = Addressing {
            address: words[0].unwrap().parse().unwrap(),
            subnet: words[1].map(|word| word.parse().unwrap()),
            gateway: words[2].map(|word| word.parse().unwrap()),
            network: words[3],
        };
        addressing.network(&fake.client()).await.map_err(|error| error.report().to_string())
    }

    #[tokio::test]
    async fn a_subnet_and_a_gateway_name_the_network() {
        for (options, network) in [
            ("10.1.0.9 24 10.1.0.1 -", "lan"),
            ("10.1.0.9 10.1.0.0/255.255.0.0 - -", "wide"),
            ("10.1.0.9 - 10.1.0.254 -", "wide"),
            ("10.1.7.9 /16 - wide", "wide"),
        ] {
            assert_eq!(found(options).await.as_deref(), Ok(network), "{options}");
        }
        for (options, told) in [
            ("10.1.0.9 24 - wide", "network wide is 10.1.0.0/16 with the gateway 10.1.0.254"),
            ("10.1.7.9 - - lan", "network lan is 10.1.0.0/24"),
            ("10.1.0.9 24 - none", "network none is without addresses"),
            ("10.2.0.9 24 10.2.0.1 -", "network create --subnet 10.2.0.0/24 --gateway 10.2.0.1"),
            ("10.1.0.9 - - -", "lan and wide are so"),
        ] {
            let error = found(options).await.unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn subnets_are_written_as_people_do() {
        let parse = |text: &str| text.parse::<Subnet>().map(|subnet| subnet.to_string());
        for (text, shown) in [
            ("24", "/24"),
            ("/8", "/8"),
            ("255.255.255.0", "/24"),
            ("0.0.0.0", "/0"),
            ("10.1.2.3/16", "10.1.0.0/16"),
            ("10.1.2.3/255.255.255.252", "10.1.2.0/30"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(shown));
        }
        for wrong in ["", "33", "255.0.255.0", "x/8", "10.0.0.0/", "10.0.0/8", "-1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
