//! `GET /containers/{id}/changes`.

use crate::api::App;
use crate::api::error::ApiResult;
use axum::Json;
use axum::extract::{Path, State};
use ireko_engine::ChangeKind;
use serde_json::{Value, json};

pub(crate) async fn changes(
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<Json<Vec<Value>>> {
    let changes = app.engine.diff(&id).await?;
    let shown = changes.iter().map(|change| {
        let kind = match change.kind {
            ChangeKind::Changed => 0,
            ChangeKind::Added => 1,
            ChangeKind::Removed => 2,
        };
        json!({ "Path": format!("/{}", String::from_utf8_lossy(&change.path)), "Kind": kind })
    });
    Ok(Json(shown.collect()))
}
