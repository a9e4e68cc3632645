//! `GET /ireko/df`, `POST /ireko/gc`, `POST /ireko/fold`.

use crate::api::App;
use crate::api::error::ApiResult;
use crate::api::lines;
use crate::api::query::Params;
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use ireko_engine::{ImageUsage as Image, progress};
use ireko_protocol::usage::{
    ContainerUsage, DiskUsage, Fold, Folded, Garbage, GarbageFile, ImageUsage,
};

pub(crate) async fn df(State(app): State<App>) -> ApiResult<Json<DiskUsage>> {
    let (mut usage, containers) = app.engine.usage().await?;
    let newest_first = |a: &Image, b: &Image| {
        b.image.created.cmp(&a.image.created).then(a.image.id.cmp(&b.image.id))
    };
    usage.images.sort_by(newest_first);
    let used = |id: &str| containers.iter().filter(|one| one.record.image_id == id).count();
    let images =
        usage.images.iter().map(|Image { image, shared_bytes, reclaimable_bytes }| ImageUsage {
            id: image.id.to_string(),
            names: image.names.iter().map(|name| name.familiar()).collect(),
            total_bytes: image.total_bytes,
            own_bytes: image.total_bytes.saturating_sub(*shared_bytes),
            shared_bytes: *shared_bytes,
            reclaimable_bytes: *reclaimable_bytes,
            containers: used(&image.id.hex()),
        });
    let images = images.collect();
    let containers: Vec<_> = containers
        .iter()
        .map(|one| ContainerUsage {
            id: one.record.id.clone(),
            name: one.record.name.clone(),
            state: one.record.status().to_owned(),
            own_bytes: one.disk.own_bytes,
            layer_bytes: one.disk.layer_bytes,
            reclaimable_bytes: one.reclaimable_bytes(),
        })
        .collect();
    Ok(Json(DiskUsage {
        images,
        layer_bytes: usage.layer_bytes,
        reclaimable_layer_bytes: usage.unused_image_bytes,
        garbage_bytes: usage.garbage_bytes,
        container_bytes: containers.iter().map(|one| one.own_bytes).sum(),
        reclaimable_container_bytes: containers.iter().map(|one| one.reclaimable_bytes).sum(),
        containers,
    }))
}

/// With `dry_run` it is only shown.
pub(crate) async fn gc(State(app): State<App>, params: Params) -> ApiResult<Json<Garbage>> {
    let done = !params.flag("dry_run");
    let garbage = match done {
        true => app.engine.collect_garbage().await?,
        false => app.engine.garbage().await?,
    };
    let bytes = garbage.iter().map(|one| one.own_bytes).sum();
    let files = garbage.into_iter().map(|one| GarbageFile {
        file: one.file,
        layer: one.layer.map(|guid| guid.to_string()),
        bytes: one.own_bytes,
    });
    Ok(Json(Garbage { done, files: files.collect(), bytes }))
}

/// With `dry_run` it is only shown. Answered line by line, as long verbs are.
pub(crate) async fn fold(State(app): State<App>, params: Params) -> ApiResult<Response> {
    let (watcher, progress) = progress();
    let work = async move {
        if params.flag("dry_run") {
            let folds = app.engine.foldable().await?;
            return Ok(Folded {
                folds: folds.into_iter().map(shown).collect(),
                ..Folded::default()
            });
        }
        let folded = app.engine.fold(watcher).await?;
        let folds = folded.folds.into_iter().map(shown).collect();
        Ok(Folded { done: true, folds, kept: folded.kept, freed_bytes: folded.freed })
    };
    lines::answer("Folding", progress, work).await
}

fn shown(fold: ireko_engine::Fold) -> Fold {
    Fold { file: fold.file, layers: fold.layers, bytes: fold.bytes }
}
