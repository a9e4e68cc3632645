//! The prune verbs: removing what nobody uses.

use crate::api::App;
use crate::api::error::ApiResult;
use crate::api::images::{removal, until};
use crate::api::query::Params;
use axum::Json;
use axum::extract::State;
use ireko_engine::ErrorKind;
use serde_json::{Value, json};

/// Removes every container that does not run; one that is suspended is to go on.
pub(crate) async fn containers(State(app): State<App>, params: Params) -> ApiResult<Json<Value>> {
    let filters = params.filters(&["label", "label!", "until"])?;
    let limit = filters.values("until").first().map(|text| until(text)).transpose()?;
    let (mut deleted, mut reclaimed) = (Vec::new(), 0);
    for record in app.engine.containers() {
        let at_rest = matches!(record.status(), "created" | "exited")
            && record.vm().is_none()
            && !record.is_suspended();
        let is_old = limit.is_none_or(|limit| record.created < limit);
        if !at_rest || !is_old || !filters.labels(&record.labels) {
            continue;
        }
        let bytes = app.engine.scratch_bytes(&record.id).await.unwrap_or(0);
        match app.engine.remove(&record.id, false).await {
            Ok(()) => {
                deleted.push(record.id.clone());
                reclaimed += bytes;
            }
            // Someone else was quicker: it runs, or is gone.
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Json(json!({ "ContainersDeleted": deleted, "SpaceReclaimed": reclaimed })))
}

/// Removes images that nothing stands on: those without a name, or with `dangling=false` all.
pub(crate) async fn images(State(app): State<App>, params: Params) -> ApiResult<Json<Value>> {
    let filters = params.filters(&["dangling", "label", "label!", "until"])?;
    let limit = filters.values("until").first().map(|text| until(text)).transpose()?;
    let all =
        filters.values("dangling").iter().any(|value| matches!(value.as_str(), "false" | "0"));
    let used: Vec<_> = app.engine.containers().iter().map(|one| one.image_id.clone()).collect();
    let (mut deleted, mut reclaimed) = (Vec::new(), 0);
    for image in app.engine.images().await? {
        let is_wanted = (all || image.names.is_empty())
            && !used.contains(&image.id.hex())
            && limit.is_none_or(|limit| image.created < limit)
            && filters.labels(&image.config.document().config.labels);
        if !is_wanted {
            continue;
        }
        // By its names, so that each is told of; one without is removed by its id.
        let mut names: Vec<_> = image.names.iter().map(|name| name.to_string()).collect();
        if names.is_empty() {
            names.push(image.id.to_string());
        }
        for name in names {
            match app.engine.remove_image(&name, false).await {
                Ok(removed) => deleted.extend(removed.iter().map(removal)),
                // Other images stand on it.
                Err(error) if error.kind() == ErrorKind::Conflict => continue,
                Err(error) => return Err(error.into()),
            }
        }
        if app.engine.image(&image.id.to_string()).await.is_err() {
            reclaimed += image.own_bytes;
        }
    }
    Ok(Json(json!({ "ImagesDeleted": deleted, "SpaceReclaimed": reclaimed })))
}

/// There are no volumes, so that none is unused.
pub(crate) async fn volumes() -> Json<Value> {
    Json(json!({ "VolumesDeleted": [], "SpaceReclaimed": 0 }))
}

/// There are no builds, and nothing is kept of them.
pub(crate) async fn builds() -> Json<Value> {
    Json(json!({ "CachesDeleted": [], "SpaceReclaimed": 0 }))
}
