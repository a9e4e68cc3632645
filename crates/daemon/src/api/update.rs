//! `POST /containers/{id}/update`.

use crate::api::App;
use crate::api::body::read_json;
use crate::api::bounds::pids_max;
use crate::api::create::{resources, restart, swap_warning};
use crate::api::create_fields;
use crate::api::error::{ApiError, ApiResult};
use crate::api::types::create::HostConfig;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use ireko_engine::{Changes, Resources};
use serde_json::{Map, Value, json};

/// What is shown as it was said, and can be said again.
const CHANGEABLE: &[&str] = &[
    "BlkioWeight",
    "CgroupParent",
    "CpuPeriod",
    "CpuQuota",
    "CpuShares",
    "CpusetCpus",
    "CpusetMems",
    "MemoryReservation",
    "MemorySwap",
    "MemorySwappiness",
    "PidsLimit",
];

pub(crate) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Body,
) -> ApiResult<Json<Value>> {
    let body: Map<String, Value> = read_json(body).await?;
    let accepted = create_fields::check_host_config(&body)?;
    if let Some(name) = accepted.noted.keys().find(|name| !CHANGEABLE.contains(&name.as_str())) {
        return Err(ApiError::bad_request(format!("{name} stays as the container was made")));
    }
    let host: HostConfig = serde_json::from_value(Value::Object(body))
        .map_err(|error| ApiError::bad_request(format!("invalid JSON: {error}")))?;
    let policy = host.restart_policy.as_ref();
    let policy = policy.filter(|policy| policy.name.as_ref().is_some_and(|name| !name.is_empty()));
    let changes = Changes {
        resources: Resources {
            // What is over the largest number there is ends a limit.
            pids_max: pids_max(&host).map(|limit| limit.unwrap_or(u64::MAX)),
            ..resources(&host)?
        },
        noted: accepted.noted,
        restart: policy.map(|policy| restart(Some(policy), None)).transpose()?,
    };
    let mut warnings = accepted.warnings;
    warnings.extend(swap_warning(&host));
    app.engine.update(&id, changes).await?;
    Ok(Json(json!({ "Warnings": warnings })))
}
