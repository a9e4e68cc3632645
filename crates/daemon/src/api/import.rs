//! `POST /images/create`: an import where the body is the archive; a pull is refused.

use crate::api::App;
use crate::api::body::upload;
use crate::api::commit::reference;
use crate::api::error::{ApiError, ApiResult, words};
use crate::api::not_yet;
use crate::api::query::Params;
use crate::api::report::{Report, failure};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hyper::header::CONTENT_TYPE;
use ireko_engine::{ImportOptions, ImportProgress};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Bytes in one MiB.
const MIB: f64 = 1024.0 * 1024.0;

pub(crate) async fn create(
    State(app): State<App>,
    params: Params,
    body: Body,
) -> ApiResult<Response> {
    match (params.get("fromSrc"), params.get("fromImage")) {
        (Some("-"), _) => import(app, &params, body).await,
        (Some(_), _) => Err(ApiError::not_yet("imports from a URL")),
        (None, Some(image)) => {
            // An image that is here needs no registry; clients pull to be sure.
            let name = reference(Some(image), params.get("tag")).unwrap_or_default();
            match app.engine.image(&name).await {
                Ok(_) => Ok(is_here(&name)),
                Err(_) => Err(not_yet::pull(&name)),
            }
        }
        (None, None) => Err(ApiError::bad_request("fromSrc or fromImage is needed")),
    }
}

fn is_here(name: &str) -> Response {
    let line = json!({ "status": format!("Status: Image is up to date for {name}") });
    ([(CONTENT_TYPE, "application/json")], format!("{line}\r\n")).into_response()
}

async fn import(app: App, params: &Params, body: Body) -> ApiResult<Response> {
    let options = ImportOptions {
        name: reference(params.get("repo"), params.get("tag")),
        comment: params.get("message").unwrap_or_default().to_owned(),
        changes: params.all("changes").map(str::to_owned).collect(),
    };
    options.check()?;
    let archive = upload(body).await?;
    let (progress_in, progress_out) = mpsc::unbounded_channel();
    let result = async move {
        match app.engine.import(archive, options, progress_in).await {
            Ok(image) => vec![json!({ "status": image.id.to_string() })],
            Err(error) => vec![failure(&words(&error))],
        }
    };
    Ok(Report::new(progress_out, shown, result).response())
}

fn shown(step: ImportProgress) -> Option<Value> {
    Some(match step {
        ImportProgress::Received(bytes) => json!({
            "status": "Importing",
            "progressDetail": { "current": bytes },
            "progress": format!("{:.1} MiB", bytes as f64 / MIB),
        }),
        ImportProgress::Unpacking => json!({ "status": "Unpacking in a virtual machine" }),
    })
}
