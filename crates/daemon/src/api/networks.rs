//! `/networks…`: docker network.

use crate::api::App;
use crate::api::body::read_json;
use crate::api::endpoints;
use crate::api::error::{ApiError, ApiResult};
use crate::api::images::until;
use crate::api::query::{Filters, Params};
use crate::api::types::network::{Connect, Disconnect, IpamConfig, NetworkCreate};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use ireko_engine::{DEFAULT_NETWORK, Engine, ErrorKind, NetworkRecord, NetworkSpec};
use serde_json::{Map, Value, json};

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
/// The network that is none, for clients that look for it.
const NONE: &str = "none";

pub(crate) async fn list(State(app): State<App>, params: Params) -> ApiResult<Json<Value>> {
    let filters = params.filters(FILTERS)?;
    let networks = app.engine.networks();
    let shown = networks.iter().filter(|one| matches(&app.engine, one, &filters));
    let mut all: Vec<_> = shown.map(|record| summary(record)).collect();
    if none_matches(&filters) {
        all.push(none());
    }
    Ok(Json(Value::Array(all)))
}

fn matches(engine: &Engine, record: &NetworkRecord, filters: &Filters) -> bool {
    let kind = if record.name == DEFAULT_NETWORK { "builtin" } else { "custom" };
    filters.any("name", |name| record.name.contains(name))
        && filters.any("id", |id| record.id.starts_with(id))
        && filters.any("driver", |driver| record.driver == driver)
        && filters.any("scope", |scope| scope == "local")
        && filters.any("type", |wanted| wanted == kind)
        && filters.any("dangling", |wanted| {
            let is_dangling = kind == "custom" && engine.network_users(&record.id).is_empty();
            is_dangling == matches!(wanted, "true" | "1")
        })
        && filters.labels(&record.labels)
}

fn none_matches(filters: &Filters) -> bool {
    filters.any("name", |name| NONE.contains(name))
        && filters.values("id").is_empty()
        && filters.any("driver", |driver| driver == "null")
        && filters.any("scope", |scope| scope == "local")
        && filters.any("type", |kind| kind == "builtin")
        && filters.any("dangling", |wanted| matches!(wanted, "false" | "0"))
        && filters.values("label").is_empty()
}

pub(crate) async fn inspect(
    State(app): State<App>,
    Path(name): Path<String>,
) -> ApiResult<Json<Value>> {
    if name == NONE {
        return Ok(Json(none()));
    }
    let record = app.engine.network(&name)?;
    let mut shown = summary(&record);
    let users = app.engine.network_users(&record.id);
    let active = users.iter().filter(|(container, _)| container.vm().is_some());
    let containers = active.map(|(container, endpoint)| {
        let address = endpoint.lease.map(|lease| format!("{lease}/{}", record.subnet.prefix()));
        let one = json!({
            "Name": container.name,
            "EndpointID": endpoint.id,
            "MacAddress": endpoint.mac.to_string(),
            "IPv4Address": address.unwrap_or_default(),
            "IPv6Address": "",
        });
        (container.id.clone(), one)
    });
    shown["Containers"] = Value::Object(containers.collect());
    Ok(Json(shown))
}

fn summary(record: &NetworkRecord) -> Value {
    let mut pool = Map::new();
    pool.insert("Subnet".to_owned(), json!(record.subnet.to_string()));
    if let Some(range) = record.ip_range {
        pool.insert("IPRange".to_owned(), json!(range.to_string()));
    }
    pool.insert("Gateway".to_owned(), json!(record.gateway.to_string()));
    if !record.auxiliary.is_empty() {
        pool.insert("AuxiliaryAddresses".to_owned(), json!(record.auxiliary));
    }
    json!({
        "Name": record.name,
        "Id": record.id,
        "Created": record.created.to_string(),
        "Scope": "local",
        "Driver": record.driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": [pool] },
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": {},
        "Options": record.options,
        "Labels": record.labels,
    })
}

fn none() -> Value {
    json!({
        "Name": NONE,
        "Id": NONE,
        "Created": "0001-01-01T00:00:00Z",
        "Scope": "local",
        "Driver": "null",
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": null },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": {},
        "Options": {},
        "Labels": {},
    })
}

pub(crate) async fn create(State(app): State<App>, body: Body) -> ApiResult<Response> {
    let (id, warning) = app.engine.create_network(spec(read_json(body).await?)?).await?;
    let answer = Json(json!({ "Id": id, "Warning": warning.unwrap_or_default() }));
    Ok((StatusCode::CREATED, answer).into_response())
}

fn spec(body: NetworkCreate) -> ApiResult<NetworkSpec> {
    let refuse = |asked: bool, what: &str| match asked {
        true => Err(ApiError::not_yet(what)),
        false => Ok(()),
    };
    refuse(body.enable_ipv6.unwrap_or_default(), "IPv6 networks (EnableIPv6)")?;
    refuse(body.enable_ipv4 == Some(false), "networks without IPv4 (EnableIPv4)")?;
    refuse(body.ingress.unwrap_or_default(), "swarm networks (Ingress)")?;
    refuse(body.config_only.unwrap_or_default(), "network templates (ConfigOnly)")?;
    let from = body.config_from.unwrap_or_default();
    refuse(from.values().any(|value| value != ""), "network templates (ConfigFrom)")?;
    let scope = body.scope.unwrap_or_default();
    refuse(!matches!(scope.as_str(), "" | "local"), "networks of several hosts (Scope)")?;
    let ipam = body.ipam.unwrap_or_default();
    let driver = ipam.driver.unwrap_or_default();
    refuse(!matches!(driver.as_str(), "" | "default"), "IPAM drivers")?;
    refuse(ipam.options.is_some_and(|options| !options.is_empty()), "IPAM options")?;
    let mut pools = ipam.config.unwrap_or_default();
    refuse(pools.len() > 1, "several subnets in one network")?;
    let IpamConfig { subnet, gateway, ip_range, auxiliary_addresses } =
        pools.pop().unwrap_or_default();
    let auxiliary = auxiliary_addresses.unwrap_or_default();
    let address = |(name, text): (String, String)| match text.parse() {
        Ok(address) => Ok((name, address)),
        Err(_) => Err(ApiError::bad_request(format!("invalid auxiliary address {name}={text}"))),
    };
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let gateway = given(gateway).map(|text| {
        text.parse().map_err(|_| ApiError::bad_request(format!("invalid gateway: {text}")))
    });
    Ok(NetworkSpec {
        name: body.name.unwrap_or_default(),
        driver: body.driver.unwrap_or_default(),
        internal: body.internal.unwrap_or_default(),
        subnet: given(subnet).map(|text| text.parse()).transpose()?,
        gateway: gateway.transpose()?,
        ip_range: given(ip_range).map(|text| text.parse()).transpose()?,
        labels: body.labels.unwrap_or_default(),
        options: body.options.unwrap_or_default(),
        auxiliary: auxiliary.into_iter().map(address).collect::<ApiResult<_>>()?,
        attachable: body.attachable.unwrap_or_default(),
    })
}

pub(crate) async fn remove(
    State(app): State<App>,
    Path(name): Path<String>,
) -> ApiResult<StatusCode> {
    refuse_none(&name)?;
    app.engine.remove_network(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn connect(
    State(app): State<App>,
    Path(name): Path<String>,
    body: Body,
) -> ApiResult<StatusCode> {
    refuse_none(&name)?;
    let Connect { container, endpoint_config } = read_json(body).await?;
    let wish = endpoints::wish(&name, &endpoint_config.unwrap_or_default())?;
    app.engine.connect(&container, wish).await?;
    Ok(StatusCode::OK)
}

/// Docker's `Force` is about containers of other hosts: here it changes nothing.
pub(crate) async fn disconnect(
    State(app): State<App>,
    Path(name): Path<String>,
    body: Body,
) -> ApiResult<StatusCode> {
    refuse_none(&name)?;
    let Disconnect { container } = read_json(body).await?;
    app.engine.disconnect(&container, &name).await?;
    Ok(StatusCode::OK)
}

fn refuse_none(name: &str) -> ApiResult<()> {
    match name {
        NONE => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "operation is not permitted on predefined none network",
        )),
        _ => Ok(()),
    }
}

/// Removes networks that no container has a place in.
pub(crate) async fn prune(State(app): State<App>, params: Params) -> ApiResult<Json<Value>> {
    let filters = params.filters(&["label", "label!", "until"])?;
    let limit = filters.values("until").first().map(|text| until(text)).transpose()?;
    let mut deleted = Vec::new();
    for record in app.engine.networks() {
        let is_wanted = record.name != DEFAULT_NETWORK
            && limit.is_none_or(|limit| record.created < limit)
            && filters.labels(&record.labels)
            && app.engine.network_users(&record.id).is_empty();
        if !is_wanted {
            continue;
        }
        match app.engine.remove_network(&record.id).await {
            Ok(()) => deleted.push(record.name.clone()),
            // Someone else was quicker.
            Err(error) if matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Json(json!({ "NetworksDeleted": deleted })))
}
