//! `POST /containers/{id}/wait`: the head at once, the exit code when it comes.

use crate::api::App;
use crate::api::error::{ApiError, ApiResult};
use crate::api::query::Params;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use ireko_engine::{Ending, WaitFor};
use serde_json::json;
use std::convert::Infallible;

pub(crate) async fn wait(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<Response> {
    let condition = match params.get("condition") {
        None | Some("not-running") => WaitFor::NotRunning,
        Some("next-exit") => WaitFor::NextExit,
        Some("removed") => WaitFor::Removed,
        Some(other) => {
            return Err(ApiError::bad_request(format!("invalid condition: {other:?}")));
        }
    };
    // From here on no end is missed; the client starts the container when it has the head.
    let waiting = app.engine.wait(&id, condition)?;
    let body = futures_util::stream::once(async move {
        Ok::<_, Infallible>(Bytes::from(format!("{}\n", answer(waiting.ending().await))))
    });
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response())
}

fn answer(ending: Ending) -> serde_json::Value {
    match ending.error {
        None => json!({ "StatusCode": ending.exit_code }),
        Some(message) => {
            json!({ "StatusCode": ending.exit_code, "Error": { "Message": message } })
        }
    }
}
