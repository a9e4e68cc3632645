//! Ireko's own endpoints.

mod export;
pub(crate) mod images;
pub(crate) mod usage;
pub(crate) mod verify;
pub(crate) mod warm;

use crate::api::App;
use crate::api::body::read_json;
use crate::api::error::{ApiError, ApiResult};
use crate::api::query::Params;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use hyper::StatusCode;
use ireko_engine::{AddressChange, Sign};
use ireko_protocol::host::HostInfo;
use ireko_protocol::network::{HasAddress, SetAddress};
use ireko_protocol::tree::Tree;
use regex_lite::RegexBuilder;
use std::time::Duration;

/// `GET /ireko/tree`; with `node`, that image and what stands on it, or that container and what it
/// stands on.
pub(crate) async fn tree(State(app): State<App>, params: Params) -> ApiResult<Json<Tree>> {
    Ok(Json(app.engine.tree(params.get("node")).await?))
}

/// The most memory that a pattern may take, in bytes: the time for each line grows with it.
const LARGEST_PATTERN: usize = 64 << 10;

/// How long a container is waited for where the request does not say.
const PATIENCE: Duration = Duration::from_secs(180);

/// `POST /ireko/containers/{id}/wait?for=agent|ip|healthy|log=REGEX|port=N&timeout=SECONDS`: answered
/// when it is up.
pub(crate) async fn wait(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<StatusCode> {
    let sign = sign(params.get("for").unwrap_or("agent"))?;
    // An instant that lies so far ahead still exists.
    let seconds = params.number::<u32>("timeout")?;
    let timeout = seconds.map_or(PATIENCE, |seconds| Duration::from_secs(seconds.into()));
    app.engine.wait_until_up(&id, sign, timeout).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn sign(text: &str) -> ApiResult<Sign> {
    match text.split_once('=') {
        None if text == "agent" => Ok(Sign::Agent),
        None if text == "ip" => Ok(Sign::Address),
        None if text == "healthy" => Ok(Sign::Healthy),
        Some(("port", port)) => match port.parse() {
            Ok(number @ 1..) => Ok(Sign::Port(number)),
            _ => Err(ApiError::bad_request(format!("{port:?} is no port: 1 to 65535"))),
        },
        Some(("log", pattern)) => {
            RegexBuilder::new(pattern).size_limit(LARGEST_PATTERN).build().map(Sign::Log).map_err(
                |error| ApiError::bad_request(format!("{pattern:?} is no pattern: {error}")),
            )
        }
        _ => Err(ApiError::bad_request(format!(
            "{text:?} is nothing that can be waited for: agent, log=REGEX, ip, port=N or healthy"
        ))),
    }
}

/// `POST /ireko/containers/{id}/address`: gives it this address from now on.
pub(crate) async fn set_address(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Body,
) -> ApiResult<StatusCode> {
    let wanted: Option<SetAddress> = read_json(body).await?;
    let SetAddress { network, address, prefix, gateway, dns } =
        wanted.ok_or_else(|| ApiError::bad_request("the address is missing"))?;
    let change = AddressChange { network, address, prefix, gateway, dns };
    app.engine.set_address(&id, change).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /ireko/containers/{id}/addresses`: a running container's, its main network's first.
pub(crate) async fn addresses(
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<Json<Vec<HasAddress>>> {
    let all = app.engine.addresses(&id).await?;
    let name = |network: &str| app.engine.network(network).map(|found| found.name.clone()).ok();
    let shown = all.into_iter().map(|one| HasAddress {
        network: name(&one.network).unwrap_or_default(),
        mac: one.mac,
        address: one.address,
        reported: one.is_reported,
    });
    Ok(Json(shown.collect()))
}

/// `POST /ireko/containers/{id}/suspend`: answered when it is saved.
pub(crate) async fn suspend(
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    app.engine.suspend(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /ireko/containers/{id}/suspend`: forgets what was saved.
pub(crate) async fn drop_suspended(
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    app.engine.drop_suspended(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn info(State(app): State<App>) -> ApiResult<Json<HostInfo>> {
    let places = app.engine.places().clone();
    Ok(Json(HostInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        root: places.root,
        cache: places.cache,
        runtime: places.runtime,
        limits: app.engine.host_limits(),
        host: app.engine.host_facts().await?,
    }))
}

/// Ends the daemon once this is answered; VMs run on.
pub(crate) async fn stop(State(app): State<App>) -> StatusCode {
    app.stop.cancel();
    StatusCode::NO_CONTENT
}
