//! A container's places in networks and its published ports, from and to Docker's JSON.

use crate::api::error::{ApiError, ApiResult};
use ireko_engine::{
    ContainerRecord, EndpointRecord, EndpointSpec, Engine, GuestAddress, GuestInterface,
    NetworkRecord, Protocol, Publish, addresses_of,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

/// One of `PortBindings`' list.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PortBinding {
    pub(crate) host_ip: Option<String>,
    pub(crate) host_port: Option<String>,
}

pub(crate) type PortBindings = BTreeMap<String, Option<Vec<PortBinding>>>;

/// `EndpointsConfig`, or the one `EndpointConfig`, as a wish. What nobody can wish for is refused;
/// what clients copy from an earlier inspection must be empty.
pub(crate) fn wish(network: &str, settings: &Value) -> ApiResult<EndpointSpec> {
    let mut wish = EndpointSpec { network: network.to_owned(), ..EndpointSpec::default() };
    let empty = Map::new();
    for (name, value) in settings.as_object().unwrap_or(&empty) {
        if says_nothing(value) {
            continue;
        }
        match name.as_str() {
            "IPAMConfig" => wish.address = address(value)?,
            "Aliases" => wish.aliases = texts(name, value)?,
            "MacAddress" => wish.mac = Some(parse(name, value)?),
            "Links" => return Err(ApiError::not_yet("links between containers (Links)")),
            "GwPriority" => return Err(ApiError::not_yet("a choice of gateway (GwPriority)")),
            "DriverOpts" => wish.driver_options = driver_options(value)?,
            // Compose writes the network's own id beside its name.
            "NetworkID" | "DNSNames" => {}
            _ => return Err(ApiError::bad_request(format!("{name} cannot be chosen"))),
        }
    }
    Ok(wish)
}

fn address(ipam: &Value) -> ApiResult<Option<std::net::Ipv4Addr>> {
    let mut address = None;
    let empty = Map::new();
    for (name, value) in ipam.as_object().unwrap_or(&empty) {
        match name.as_str() {
            _ if says_nothing(value) => {}
            "IPv4Address" => address = Some(parse(name, value)?),
            _ => return Err(ApiError::not_yet(&format!("addresses of this kind ({name})"))),
        }
    }
    Ok(address)
}

fn parse<T: FromStr>(name: &str, value: &Value) -> ApiResult<T> {
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| ApiError::bad_request(format!("invalid {name}: {value}")))
}

fn texts(name: &str, value: &Value) -> ApiResult<Vec<String>> {
    serde_json::from_value(value.clone())
        .map_err(|error| ApiError::bad_request(format!("invalid {name}: {error}")))
}

/// Docker's own drivers pass over what they do not know, and so do ours; what docker's would act upon
/// is refused.
fn driver_options(value: &Value) -> ApiResult<BTreeMap<String, String>> {
    let options: BTreeMap<String, String> = serde_json::from_value(value.clone())
        .map_err(|error| ApiError::bad_request(format!("invalid DriverOpts: {error}")))?;
    match options.keys().find(|name| name.starts_with("com.docker.network.")) {
        Some(name) => Err(ApiError::not_yet(&format!("the endpoint's driver option {name}"))),
        None => Ok(options),
    }
}

/// Null, empty, zero, or an object of nothing but that.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(says_nothing),
    }
}

/// The ports that a container asks to have published.
pub(crate) fn publish(bindings: PortBindings) -> ApiResult<Vec<Publish>> {
    let mut wanted = Vec::new();
    for (port, hosts) in bindings {
        let (guest_port, protocol) = container_port(&port)?;
        for host in hosts.unwrap_or_default() {
            let host_address = host.host_ip.filter(|ip| !ip.is_empty()).map(|ip| {
                let bad = || ApiError::bad_request(format!("invalid IP address: {ip}"));
                ip.parse::<IpAddr>().map_err(|_| bad())
            });
            let host_ports = host_ports(host.host_port.as_deref().unwrap_or_default())?;
            let host_address =
                host_address.transpose()?.filter(|ip| !ip.is_unspecified() || ip.is_ipv6());
            wanted.push(Publish { protocol, guest_port, host_address, host_ports });
        }
    }
    Ok(wanted)
}

fn container_port(text: &str) -> ApiResult<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => return Err(ApiError::not_yet("SCTP ports")),
        other => return Err(ApiError::bad_request(format!("invalid proto: {other}"))),
    };
    let number = port.parse().ok().filter(|port| *port > 0);
    Ok((number.ok_or_else(|| ApiError::bad_request(format!("invalid port: {text:?}")))?, protocol))
}

/// `8080`, `8000-8010`, or nothing for any.
fn host_ports(text: &str) -> ApiResult<(u16, u16)> {
    if text.is_empty() {
        return Ok((0, 0));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err(ApiError::bad_request(format!("Invalid hostPort: {text}"))),
    }
}

/// `HostConfig.PortBindings`: what was asked for.
pub(crate) fn port_bindings(record: &ContainerRecord) -> Value {
    let mut shown = Map::new();
    for one in &record.spec.publish {
        let port = match one.host_ports {
            (0, _) => String::new(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let address = one.host_address.map(|ip| ip.to_string()).unwrap_or_default();
        push(
            &mut shown,
            one.guest_port,
            one.protocol,
            json!({ "HostIp": address, "HostPort": port }),
        );
    }
    Value::Object(shown)
}

/// `NetworkSettings.Ports`: what is so, and exposed ports that nobody outside reaches.
pub(crate) fn ports(record: &ContainerRecord) -> Value {
    let mut shown = Map::new();
    if record.is_running() {
        for port in &record.spec.exposed_ports {
            shown.insert(port.clone(), Value::Null);
        }
    }
    for one in &record.published {
        let host = json!({
            "HostIp": one.host.ip().to_string(), "HostPort": one.host.port().to_string(),
        });
        push(&mut shown, one.guest_port, one.protocol, host);
    }
    Value::Object(shown)
}

fn push(shown: &mut Map<String, Value>, port: u16, protocol: Protocol, value: Value) {
    let list = shown.entry(format!("{port}/{protocol}")).or_insert(Value::Null);
    match list {
        Value::Array(all) => all.push(value),
        empty => *empty = json!([value]),
    }
}

/// `Ports` of a list's line.
pub(crate) fn port_list(record: &ContainerRecord) -> Vec<Value> {
    let line = |one: &ireko_engine::Published| {
        json!({
            "IP": one.host.ip().to_string(),
            "PrivatePort": one.guest_port,
            "PublicPort": one.host.port(),
            "Type": one.protocol.to_string(),
        })
    };
    record.published.iter().map(line).collect()
}

/// A container's endpoints with their networks; without those that were removed meanwhile.
pub(crate) fn of(
    engine: &Engine,
    record: &ContainerRecord,
) -> Vec<(EndpointRecord, std::sync::Arc<NetworkRecord>)> {
    let found = |one: &EndpointRecord| Some((one.clone(), engine.network(&one.network).ok()?));
    record.endpoints.iter().filter_map(found).collect()
}

/// `NetworkSettings.Networks`.
/// `reported` is what the container says of its addresses itself, where it does.
pub(crate) fn networks(
    engine: &Engine,
    record: &ContainerRecord,
    reported: &[GuestInterface],
) -> Value {
    let all = of(engine, record);
    if record.endpoints.is_empty() {
        return json!({ "none": settings(record, None, reported) });
    }
    let shown = all.iter().map(|(endpoint, network)| {
        (network.name.clone(), settings(record, Some((endpoint, network)), reported))
    });
    Value::Object(shown.collect())
}

fn settings(
    record: &ContainerRecord,
    of: Option<(&EndpointRecord, &NetworkRecord)>,
    reported: &[GuestInterface],
) -> Value {
    let runs = record.vm().is_some();
    let now = of.filter(|_| runs);
    let lease = now.and_then(|(endpoint, network)| Some((endpoint.lease?, network)));
    let (address, prefix) = match now.and_then(|(endpoint, _)| own_address(endpoint, reported)) {
        Some(own) => (own.address.to_string(), own.prefix),
        None => lease.map_or_else(Default::default, |(address, network)| {
            (address.to_string(), network.subnet.prefix())
        }),
    };
    let fixed = of.and_then(|(endpoint, _)| endpoint.fixed);
    let aliases = of.map(|(endpoint, _)| endpoint.aliases.clone()).filter(|all| !all.is_empty());
    let names = of.filter(|(_, network)| network.has_names()).map(|(endpoint, _)| {
        let own = [record.name.clone(), record.id[..12].to_owned()];
        own.into_iter().chain(endpoint.aliases.clone()).collect::<Vec<_>>()
    });
    let driver_options = of
        .map(|(endpoint, _)| endpoint.driver_options.clone())
        .filter(|options| !options.is_empty());
    json!({
        "IPAMConfig": fixed.map(|address| json!({ "IPv4Address": address.to_string() })),
        "Links": null,
        "Aliases": aliases,
        "MacAddress": of.map(|(endpoint, _)| endpoint.mac.to_string()).unwrap_or_default(),
        "DriverOpts": driver_options,
        "GwPriority": 0,
        "NetworkID": of.map(|(_, network)| network.id.clone()).unwrap_or_default(),
        "EndpointID": now.map(|(endpoint, _)| endpoint.id.clone()).unwrap_or_default(),
        "Gateway": lease.map(|(_, network)| network.gateway.to_string()).unwrap_or_default(),
        "IPAddress": address,
        "IPPrefixLen": prefix,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": names,
    })
}

/// An address that a container says it has in the place of the one that its network keeps for it.
fn own_address(endpoint: &EndpointRecord, reported: &[GuestInterface]) -> Option<GuestAddress> {
    let mut own = addresses_of(reported, endpoint.mac);
    own.retain(|one| one.address.is_ipv4());
    match endpoint.lease {
        Some(lease) if own.iter().any(|one| one.address == lease) => None,
        _ => own.first().copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_writes_them() {
        let read = |value: Value| publish(serde_json::from_value(value).unwrap());
        let tcp = |guest_port, host_address: Option<&str>, host_ports| Publish {
            protocol: Protocol::Tcp,
            guest_port,
            host_address: host_address.map(|text| text.parse().unwrap()),
            host_ports,
        };
        let all = read(json!({
            "80/tcp": [{ "HostIp": "", "HostPort": "8080" }, { "HostIp": "127.0.0.1" }],
            "81": [{ "HostIp": "0.0.0.0", "HostPort": "8000-8010" }],
            "90/tcp": null,
        }));
        assert_eq!(
            all.unwrap(),
            [
                tcp(80, None, (8080, 8080)),
                tcp(80, Some("127.0.0.1"), (0, 0)),
                tcp(81, None, (8000, 8010))
            ]
        );
        for wrong in [
            json!({ "0/tcp": [{}] }),
            json!({ "80/xyz": [{}] }),
            json!({ "80/tcp": [{ "HostPort": "9-8" }] }),
            json!({ "80/tcp": [{ "HostIp": "nowhere" }] }),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wish_is_an_address_aliases_and_a_mac_address_and_nothing_else() {
        let settings = json!({
            "IPAMConfig": { "IPv4Address": "10.0.0.9" }, "Aliases": ["web"], "Links": null,
            "MacAddress": "02:42:00:00:00:09", "GwPriority": 0, "EndpointID": "",
        });
        let wish_of = |settings: &Value| wish("net", settings);
        let read = wish_of(&settings).unwrap();
        assert_eq!(read.address, Some("10.0.0.9".parse().unwrap()));
        assert_eq!((read.aliases, read.mac.is_some()), (vec!["web".to_owned()], true));
        assert_eq!(wish_of(&Value::Null).unwrap().address, None);
        for wrong in [
            json!({ "Links": ["db"] }),
            json!({ "IPAMConfig": { "IPv6Address": "fd00::2" } }),
            json!({ "MacAddress": "xx" }),
            json!({ "IPAddress": "10.0.0.2" }),
        ] {
            assert!(wish_of(&wrong).is_err(), "{wrong}");
        }
    }
}
