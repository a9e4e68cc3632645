//! `POST /containers/{id}/update`.

use crate::api::App;
use crate::api::create::{resources, restart};
use crate::api::create_fields;
use crate::api::error::{ApiError, ApiResult};
use crate::api::query::read_json;
use crate::api::types::create::HostConfig;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use ireko_engine::Changes;
use serde_json::{Map, Value, json};

pub(crate) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Body,
) -> ApiResult<Json<Value>> {
    let body: Map<String, Value> = read_json(body).await?;
    let warnings = create_fields::check_host_config(&body)?;
    let host: HostConfig = serde_json::from_value(Value::Object(body))
        .map_err(|error| ApiError::bad_request(format!("invalid JSON: {error}")))?;
    let policy = host.restart_policy.as_ref();
    let policy = policy.filter(|policy| policy.name.as_ref().is_some_and(|name| !name.is_empty()));
    let changes = Changes {
        resources: resources(&host)?,
        restart: policy.map(|policy| restart(Some(policy), None)).transpose()?,
    };
    app.engine.update(&id, changes).await?;
    Ok(Json(json!({ "Warnings": warnings })))
}
