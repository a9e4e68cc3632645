//! What clients say about networks.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The body of `POST /networks/create`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct NetworkCreate {
    pub(crate) name: Option<String>,
    pub(crate) driver: Option<String>,
    pub(crate) scope: Option<String>,
    pub(crate) internal: Option<bool>,
    pub(crate) ingress: Option<bool>,
    pub(crate) attachable: Option<bool>,
    pub(crate) config_only: Option<bool>,
    pub(crate) config_from: Option<Map<String, Value>>,
    #[serde(rename = "IPAM")]
    pub(crate) ipam: Option<Ipam>,
    #[serde(rename = "EnableIPv4")]
    pub(crate) enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    pub(crate) enable_ipv6: Option<bool>,
    pub(crate) options: Option<BTreeMap<String, String>>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
}

/// Its addresses.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Ipam {
    pub(crate) driver: Option<String>,
    pub(crate) config: Option<Vec<IpamConfig>>,
    pub(crate) options: Option<BTreeMap<String, String>>,
}

/// One subnet.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct IpamConfig {
    pub(crate) subnet: Option<String>,
    pub(crate) gateway: Option<String>,
    #[serde(rename = "IPRange")]
    pub(crate) ip_range: Option<String>,
    #[serde(alias = "AuxAddress")]
    pub(crate) auxiliary_addresses: Option<BTreeMap<String, String>>,
}

/// The body of `POST /networks/{id}/connect`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Connect {
    pub(crate) container: String,
    pub(crate) endpoint_config: Option<Value>,
}

/// The body of `POST /networks/{id}/disconnect`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Disconnect {
    pub(crate) container: String,
}
