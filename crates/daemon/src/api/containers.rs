//! The small verbs on a container.

use crate::api::App;
use crate::api::error::{ApiError, ApiResult};
use crate::api::query::Params;
use axum::extract::{Path, State};
use hyper::StatusCode;

const DONE: ApiResult<StatusCode> = Ok(StatusCode::NO_CONTENT);

pub(crate) async fn start(State(app): State<App>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    app.engine.start(&id).await?;
    DONE
}

pub(crate) async fn stop(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<StatusCode> {
    app.engine.stop(&id, params.get("signal"), params.number("t")?).await?;
    DONE
}

pub(crate) async fn restart(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<StatusCode> {
    app.engine.restart(&id, params.get("signal"), params.number("t")?).await?;
    DONE
}

pub(crate) async fn kill(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<StatusCode> {
    app.engine.kill(&id, params.get("signal")).await?;
    DONE
}

pub(crate) async fn pause(State(app): State<App>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    app.engine.pause(&id).await?;
    DONE
}

pub(crate) async fn unpause(
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    app.engine.unpause(&id).await?;
    DONE
}

pub(crate) async fn rename(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<StatusCode> {
    let name = params
        .get("name")
        .ok_or_else(|| ApiError::bad_request("Neither old nor new names may be empty"))?;
    app.engine.rename(&id, name).await?;
    DONE
}

pub(crate) async fn remove(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<StatusCode> {
    if params.flag("link") {
        return Err(ApiError::not_yet("links between containers"));
    }
    // There are no volumes, so `v` has nothing to remove.
    app.engine.remove(&id, params.flag("force")).await?;
    DONE
}

pub(crate) async fn resize(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<StatusCode> {
    let (rows, columns) = size(&params)?;
    app.engine.resize(&id, rows, columns).await?;
    Ok(StatusCode::OK)
}

/// `h` and `w` of a terminal, in characters.
pub(crate) fn size(params: &Params) -> ApiResult<(u16, u16)> {
    match (params.number("h")?, params.number("w")?) {
        (Some(rows), Some(columns)) => Ok((rows, columns)),
        _ => Err(ApiError::bad_request("h and w are needed")),
    }
}
