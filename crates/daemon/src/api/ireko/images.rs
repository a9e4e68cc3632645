//! `/ireko/images/…`: verbs on images that docker has not.

use crate::api::App;
use crate::api::body::read_json;
use crate::api::error::{ApiError, ApiResult};
use crate::api::ireko::export;
use crate::api::lines;
use crate::api::query::Params;
use crate::dispatch::page_not_found;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use ireko_engine::{
    Doomed, Generalizer, ImageInfo, ImageUser, ImportFile, MergeFiles, Sources, progress,
};
use ireko_protocol::images::{
    Blocker, Import, Imported, ImportedImage, Merged, Removal, Removed, RemovedImage,
};
use serde_json::json;

/// `POST /ireko/images/import`: a file on this machine becomes an image, a zip several.
pub(crate) async fn import(State(app): State<App>, body: Body) -> ApiResult<Response> {
    let Import { path, name, format, message, changes } = read_json(body).await?;
    let file = ImportFile { path, name, format, comment: message, changes };
    let (watcher, progress) = progress();
    let work = async move {
        let imported = app.engine.import_file(file, watcher).await?;
        Ok(Imported {
            images: imported.images.iter().map(imported_image).collect(),
            already_here: imported.already_here,
            names_taken: imported.names_taken,
            passed_over: imported.passed_over,
        })
    };
    lines::answer("Importing", progress, work).await
}

fn imported_image(image: &ImageInfo) -> ImportedImage {
    ImportedImage {
        id: image.id.to_string(),
        names: image.names.iter().map(|name| name.familiar()).collect(),
        guid: image.guid.to_string(),
        parent: image.parent_image.map(|parent| parent.to_string()),
        own_bytes: image.own_bytes,
        virtual_size: image.virtual_size,
        disks: image.disks.iter().map(|disk| disk.name.to_string()).collect(),
    }
}

/// `GET /ireko/images/{name}/export`.
pub(crate) async fn get(
    State(app): State<App>,
    Path(path): Path<String>,
    params: Params,
) -> Response {
    match path.rsplit_once('/') {
        Some((name, "export")) => export::stream(app, name, &params).await.into_response(),
        _ => page_not_found().await,
    }
}

/// `POST /ireko/images/{name}/export`, `/generalize`, `/merge`, `/prepare`, `/rename`.
pub(crate) async fn post(
    State(app): State<App>,
    Path(path): Path<String>,
    params: Params,
    body: Body,
) -> Response {
    match path.rsplit_once('/') {
        Some((name, "export")) => export::to_file(app, name, body).await.into_response(),
        Some((name, "generalize")) => generalize(app, name, &params).await.into_response(),
        Some((name, "merge")) => merge(app, name, &params).await.into_response(),
        Some((name, "prepare")) => prepare(&app, name, &params).await.into_response(),
        Some((image, "rename")) => rename(&app, image, &params).await.into_response(),
        _ => page_not_found().await,
    }
}

/// `to` is the new image's name; with `done` the system generalized itself. Answered when it is made.
async fn generalize(app: App, image: &str, params: &Params) -> ApiResult<Response> {
    let to = params.get("to").ok_or_else(|| ApiError::bad_request("`to`: no name was given"))?;
    let by = if params.flag("done") { Generalizer::Itself } else { Generalizer::Offline };
    let image = app.engine.generalize_image(image, to, by).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": image.id.to_string() }))).into_response())
}

/// `to` is the new image's name. Answered when it is made.
async fn prepare(app: &App, image: &str, params: &Params) -> ApiResult<Response> {
    let to = params.get("to").ok_or_else(|| ApiError::bad_request("`to`: no name was given"))?;
    let image = app.engine.prepare_image(image, to).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": image.id.to_string() }))).into_response())
}

/// `name` is the new one.
async fn rename(app: &App, image: &str, params: &Params) -> ApiResult<StatusCode> {
    let name = params.get("name").ok_or_else(|| ApiError::bad_request("no name was given"))?;
    app.engine.rename_image(image, name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `to` is the new image's name, `depth` the number of files, or `all`; `delete` the sources.
async fn merge(app: App, image: &str, params: &Params) -> ApiResult<Response> {
    let to = params.get("to").ok_or_else(|| ApiError::bad_request("`to`: no name was given"))?;
    let files = match (params.flag("all"), params.number("depth")?) {
        (true, Some(_)) => return Err(ApiError::bad_request("either `depth` or `all`, not both")),
        (true, None) => MergeFiles::All,
        (false, depth) => MergeFiles::Top(depth.unwrap_or(2)),
    };
    let sources = match params.flag("delete") {
        true => Sources::Delete,
        false => Sources::Keep,
    };
    let (image, to) = (image.to_owned(), to.to_owned());
    let (watcher, progress) = progress();
    let work = async move {
        let merged = app.engine.merge_image(&image, &to, files, sources, watcher).await?;
        Ok(Merged {
            id: merged.image.id.to_string(),
            names: merged.image.names.iter().map(|name| name.familiar()).collect(),
            files: merged.files,
            own_bytes: merged.image.own_bytes,
            removed: merged.removed.iter().map(removed).collect(),
            kept: merged.kept,
        })
    };
    lines::answer("Merging", progress, work).await
}

/// `DELETE /ireko/images/{name}`; with `tree` all that stand on it go too, with `dry_run` nothing
/// does.
pub(crate) async fn remove(
    State(app): State<App>,
    Path(name): Path<String>,
    params: Params,
) -> ApiResult<Json<Removal>> {
    let (force, engine) = (params.flag("force"), &app.engine);
    Ok(Json(match (params.flag("tree"), params.flag("dry_run")) {
        (true, _) if force => {
            return Err(ApiError::bad_request("either `tree` or `force`, not both"));
        }
        (true, true) => {
            let tree = engine.doomed_tree(&name).await?;
            let containers = tree.users.iter().map(blocker).collect();
            Removal { done: false, containers, ..of_tree(&tree.images) }
        }
        (true, false) => of_tree(&engine.remove_tree(&name).await?),
        (false, true) => {
            let gone = engine.would_remove_image(&name, force).await?;
            Removal { removed: gone.iter().map(removed).collect(), ..Removal::default() }
        }
        (false, false) => {
            let gone = engine.remove_image(&name, force).await?;
            let removed = gone.iter().map(removed).collect();
            Removal { done: true, removed, ..Removal::default() }
        }
    }))
}

fn of_tree(images: &[Doomed]) -> Removal {
    let images: Vec<_> = images
        .iter()
        .map(|Doomed { image, level }| RemovedImage {
            id: image.id.to_string(),
            names: image.names.iter().map(|name| name.familiar()).collect(),
            level: *level,
            own_bytes: image.own_bytes,
        })
        .collect();
    let removed = images.iter().flat_map(|image| {
        let names = image.names.iter().cloned().map(Removed::Untagged);
        names.chain([Removed::Deleted(image.id.clone())])
    });
    Removal { done: true, removed: removed.collect(), images, containers: Vec::new() }
}

fn blocker(user: &ImageUser) -> Blocker {
    let (id, name) = (user.id.clone(), user.name.clone());
    Blocker { id, name, image: user.image.to_string() }
}

fn removed(removed: &ireko_engine::Removed) -> Removed {
    match removed {
        ireko_engine::Removed::Untagged(name) => Removed::Untagged(name.familiar()),
        ireko_engine::Removed::Deleted(id) => Removed::Deleted(id.to_string()),
    }
}
