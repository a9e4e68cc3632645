//! Ireko's own endpoints.

pub(crate) mod images;

use crate::api::App;
use crate::api::error::ApiResult;
use axum::Json;
use axum::extract::State;
use hyper::StatusCode;
use ireko_protocol::host::HostInfo;
use ireko_protocol::tree::Tree;

pub(crate) async fn tree(State(app): State<App>) -> ApiResult<Json<Tree>> {
    Ok(Json(app.engine.tree().await?))
}

pub(crate) async fn info(State(app): State<App>) -> ApiResult<Json<HostInfo>> {
    let places = app.engine.places().clone();
    Ok(Json(HostInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        root: places.root,
        cache: places.cache,
        runtime: places.runtime,
        host: app.engine.host_facts().await?,
    }))
}

/// Ends the daemon once this is answered; VMs run on.
pub(crate) async fn stop(State(app): State<App>) -> StatusCode {
    app.stop.cancel();
    StatusCode::NO_CONTENT
}
