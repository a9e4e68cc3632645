//! Endpoints whose work Ireko does not do yet: one clear sentence each, never a pretence.

use crate::api::error::{ApiError, ApiResult};
use axum::Json;
use axum::extract::Path;
use axum::response::Response;
use hyper::StatusCode;
use serde_json::{Value, json};

pub(crate) async fn registries() -> ApiError {
    ApiError::new(
        StatusCode::NOT_IMPLEMENTED,
        "Ireko does not support registries yet: images come in by `load` (what `docker save` wrote) \
         and `import`, and `base` is built in",
    )
}

/// An image that is not here is nowhere: clients look for these words.
pub(crate) fn pull(name: &str) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!(
            "No such image: {name}: Ireko does not support registries yet: images come in by `load` \
             (what `docker save` wrote) and `import`, and `base` is built in"
        ),
    )
}

pub(crate) async fn build() -> ApiError {
    ApiError::not_yet("builds")
}

pub(crate) async fn push() -> ApiError {
    ApiError::not_yet("registries (docker push)")
}

pub(crate) async fn web_socket() -> ApiError {
    ApiError::not_yet("attaching over a web socket")
}

pub(crate) async fn checkpoints() -> ApiError {
    ApiError::not_yet("checkpoints")
}

pub(crate) async fn volumes() -> ApiError {
    ApiError::not_yet("volumes")
}

pub(crate) async fn no_volumes() -> Json<Value> {
    Json(json!({ "Volumes": [], "Warnings": [] }))
}

pub(crate) async fn no_such_volume(Path(name): Path<String>) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("get {name}: no such volume"))
}

pub(crate) async fn no_plugins() -> Json<Value> {
    Json(json!([]))
}

pub(crate) async fn no_such_plugin(Path(path): Path<String>) -> ApiResult<Response> {
    let name = path.strip_suffix("/json").unwrap_or(&path);
    Err(ApiError::new(StatusCode::NOT_FOUND, format!("plugin \"{name}\" not found")))
}

/// Ireko is one machine; docker's words for one that is in no swarm.
pub(crate) async fn swarm() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
         connect this node to swarm and try again.",
    )
}
