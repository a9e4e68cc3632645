//! `POST /images/load`.

use crate::api::App;
use crate::api::body::upload;
use crate::api::error::{ApiError, ApiResult, words};
use crate::api::query::Params;
use crate::api::report::{Report, failure};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use ireko_engine::{LoadStep, Loaded};
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub(crate) async fn load(
    State(app): State<App>,
    params: Params,
    body: Body,
) -> ApiResult<Response> {
    if params.get("platform").is_some_and(|platform| !platform.is_empty()) {
        return Err(ApiError::bad_request(
            "platform is not supported: of an image for several platforms the one for this machine is loaded",
        ));
    }
    let archive = upload(body).await?;
    let (told, steps) = mpsc::unbounded_channel();
    let result = async move {
        match app.engine.load(archive, told).await {
            Ok(loaded) => loaded.iter().flat_map(lines).collect(),
            Err(error) => vec![failure(&words(&error))],
        }
    };
    let shown = if params.flag("quiet") { |_| None } else { shown };
    Ok(Report::new(steps, shown, result).response())
}

fn lines(loaded: &Loaded) -> Vec<Value> {
    if loaded.names.is_empty() {
        return vec![json!({ "stream": format!("Loaded image ID: {}\n", loaded.image.id) })];
    }
    let line = |name: &ireko_engine::Name| json!({ "stream": format!("Loaded image: {}\n", name.familiar()) });
    loaded.names.iter().map(line).collect()
}

fn shown(step: LoadStep) -> Option<Value> {
    Some(match step {
        LoadStep::Received(bytes) => {
            json!({ "status": "Receiving", "progressDetail": { "current": bytes } })
        }
        LoadStep::Layer { id, done } => json!({
            "status": "Loading layer",
            "id": id,
            "progressDetail": { "current": done.current, "total": done.total },
        }),
        LoadStep::Unpacking { id } => {
            json!({ "status": "Unpacking in a virtual machine", "id": id, "progressDetail": {} })
        }
        LoadStep::Known { id } => {
            json!({ "status": "Layer already exists", "id": id, "progressDetail": {} })
        }
    })
}
