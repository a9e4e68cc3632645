//! `/ireko/containers/{id}/screen…`: a whole operating system's screen and keyboard; and a way to
//! any container's TCP ports.

use crate::api::App;
use crate::api::body::read;
use crate::api::error::{ApiError, ApiResult};
use crate::api::hijack::{hijack, relay};
use crate::api::query::Params;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use ireko_protocol::shim::Keys;
use serde_json::{Value, json};

/// What bytes that mean something to both ends alone are declared as.
const RAW: &str = "application/octet-stream";

/// The largest body with keys that is read, in bytes.
const MOST_KEYS: usize = 256 << 10;

/// `GET /ireko/containers/{id}/screen`: what is on it, as PNG.
pub(crate) async fn picture(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Response> {
    let picture = app.engine.screenshot(&id).await?;
    Ok(([(CONTENT_TYPE, "image/png")], picture).into_response())
}

/// `POST /ireko/containers/{id}/keys`: `{"named": ["ctrl-alt-delete"]}` or `{"text": "root"}`.
pub(crate) async fn keys(
    State(app): State<App>,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<StatusCode> {
    let keys = read_keys(request.into_body()).await?;
    app.engine.send_keys(&id, keys).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /ireko/containers/{id}/screen`: a new password for viewers, `{"Password": …}`.
pub(crate) async fn open(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    Ok(Json(json!({ "Password": app.engine.open_screen(&id).await? })))
}

/// `POST /ireko/containers/{id}/screen/stream`: VNC.
pub(crate) async fn stream(
    State(app): State<App>,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let screen = app.engine.view_screen(&id).await?;
    Ok(hijack(request, RAW, |client| relay(client, screen)))
}

/// `POST /ireko/containers/{id}/connect?port=N`: a connection to that TCP port.
pub(crate) async fn connect(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
    request: Request,
) -> ApiResult<Response> {
    let port = params.number::<u16>("port")?.filter(|port| *port > 0);
    let port = port.ok_or_else(|| ApiError::bad_request("no port was named"))?;
    let stream = app.engine.connect_to_port(&id, port).await?;
    Ok(hijack(request, RAW, |client| relay(client, stream)))
}

async fn read_keys(body: Body) -> ApiResult<Keys> {
    let bytes = read(body, MOST_KEYS).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("these are no keys: {error}")))
}
