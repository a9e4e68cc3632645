//! Subnets: which addresses a network has, and which subnets are free.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A run of addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// The subnet that an address is in.
    ///
    /// Errors where the prefix length leaves no room for a gateway and a container, or is no length.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Result<Self> {
        if !(8..=30).contains(&prefix) {
            return Err(Error::bad_parameter(format!(
                "invalid subnet {address}/{prefix}: Ireko's subnets are /8 to /30"
            )));
        }
        Ok(Self::of(address, prefix))
    }

    const fn of(address: Ipv4Addr, prefix: u8) -> Self {
        let first = address.to_bits() & mask(prefix);
        Self { first: Ipv4Addr::from_bits(first), prefix }
    }

    /// Its first address, which is nobody's.
    pub fn first(self) -> Ipv4Addr {
        self.first
    }

    /// Its last address, which is everybody's.
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() | !mask(self.prefix))
    }

    /// How many bits all its addresses share.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether an address is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last()).contains(&address)
    }

    /// Whether all of another is in it.
    pub fn holds(self, other: Self) -> bool {
        self.contains(other.first) && self.contains(other.last())
    }

    /// Whether an address is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// Its addresses, in order; the first and the last are nobody's where it is all of a network.
    pub fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        (self.first.to_bits()..=self.last().to_bits()).map(Ipv4Addr::from_bits)
    }

    /// Whether its addresses are other people's in the Internet.
    pub fn is_public(self) -> bool {
        const OWN: [Subnet; 6] = [
            Subnet::of(Ipv4Addr::new(10, 0, 0, 0), 8),
            Subnet::of(Ipv4Addr::new(100, 64, 0, 0), 10),
            Subnet::of(Ipv4Addr::new(169, 254, 0, 0), 16),
            Subnet::of(Ipv4Addr::new(172, 16, 0, 0), 12),
            Subnet::of(Ipv4Addr::new(192, 168, 0, 0), 16),
            Subnet::of(Ipv4Addr::new(198, 18, 0, 0), 15),
        ];
        !OWN.iter().any(|own| own.holds(self))
    }
}

const fn mask(prefix: u8) -> u32 {
    match prefix {
        0 => 0,
        bits => u32::MAX << (32 - bits as u32),
    }
}

/// The subnets that are given to networks whose user named none: docker's.
fn defaults() -> impl Iterator<Item = Subnet> {
    let large = (17..=31).map(|second| Subnet::of(Ipv4Addr::new(172, second, 0, 0), 16));
    let small =
        (0..=240).step_by(16).map(|third| Subnet::of(Ipv4Addr::new(192, 168, third, 0), 20));
    large.chain(small)
}

/// The first subnet that overlaps none of `taken`; `None` where all do.
pub(crate) fn free(taken: &[Subnet]) -> Option<Subnet> {
    defaults().find(|one| !taken.iter().any(|other| other.overlaps(*one)))
}

/// The subnets that the host itself has a way to: a network's must not hide them.
pub(crate) fn of_host() -> Vec<Subnet> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    table.lines().skip(1).filter_map(route).collect()
}

/// One line of /proc/net/route; `None` for the default route.
fn route(line: &str) -> Option<Subnet> {
    let mut fields = line.split_whitespace();
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::swap_bytes);
    let (address, mask) = (word(fields.nth(1)?)?, word(fields.nth(5)?)?);
    let prefix = u8::try_from(mask.count_ones()).ok().filter(|prefix| *prefix > 0)?;
    Some(Subnet::of(Ipv4Addr::from_bits(address), prefix))
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text
            .split_once('/')
            .and_then(|(address, prefix)| Some((address.parse().ok()?, prefix.parse().ok()?)));
        match parsed {
            Some((address, prefix)) => Self::new(address, prefix),
            None if text.contains(':') => Err(Error::unsupported(format!(
                "invalid subnet {text}: Ireko does not support IPv6 networks yet"
            ))),
            None => Err(Error::bad_parameter(format!(
                "invalid subnet {text}: a subnet is written like 10.5.0.0/24"
            ))),
        }
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_is_named_by_any_of_its_addresses() {
        let one = subnet("10.5.6.7/24");
        assert_eq!(one.to_string(), "10.5.6.0/24");
        assert_eq!(one.last(), Ipv4Addr::new(10, 5, 6, 255));
        assert_eq!(one.addresses().count(), 256);
        for wrong in ["10.0.0.0", "10.0.0.0/31", "10.0.0/8", "x/24", "0.0.0.0/0", "fd00::/64"] {
            assert!(wrong.parse::<Subnet>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_first_free_subnet_overlaps_nothing() {
        assert_eq!(free(&[]), Some(subnet("172.17.0.0/16")));
        let taken = [subnet("172.17.3.0/24"), subnet("172.16.0.0/14")];
        assert_eq!(free(&taken), Some(subnet("172.20.0.0/16")));
        assert_eq!(free(&[subnet("172.16.0.0/12"), subnet("192.168.0.0/16")]), None);
    }

    #[test]
    fn the_hosts_routes_are_read() {
        let line = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        assert_eq!(route(line), Some(subnet("192.0.2.0/24")));
        assert_eq!(route("eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0"), None);
    }

    #[test]
    fn public_addresses_are_told_from_private_ones() {
        assert!(subnet("172.240.0.0/24").is_public());
        assert!(!subnet("172.31.0.0/16").is_public());
        assert!(subnet("172.0.0.0/8").is_public());
    }
}
