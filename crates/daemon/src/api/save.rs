//! `GET /images/get?names=…` and `GET /images/{name}/get`.

use crate::api::App;
use crate::api::archive::body;
use crate::api::body::Transfer;
use crate::api::error::{ApiError, ApiResult};
use crate::api::query::Params;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hyper::header::CONTENT_TYPE;

pub(crate) async fn save(State(app): State<App>, params: Params) -> ApiResult<Response> {
    // One parameter for each, or one list for all, as some clients write it.
    let names: Vec<_> =
        params.all("names").flat_map(|names| names.split(',')).map(str::to_owned).collect();
    answer(&app, &names, &params).await
}

pub(crate) async fn answer(app: &App, names: &[String], params: &Params) -> ApiResult<Response> {
    if params.get("platform").is_some() {
        return Err(ApiError::bad_request(
            "platform is not supported: images are here for this machine's platform alone",
        ));
    }
    if names.is_empty() {
        return Err(ApiError::bad_request("no image was named"));
    }
    let turn = Transfer::begin().await?;
    let pieces = app.engine.save(names).await?;
    Ok(([(CONTENT_TYPE, "application/x-tar")], body(pieces, turn)).into_response())
}
