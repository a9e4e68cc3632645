//! Images: list, inspect, history, tag, remove.

use crate::api::App;
use crate::api::commit::reference;
use crate::api::error::{ApiError, ApiResult};
use crate::api::not_yet;
use crate::api::query::{Filters, Params, parse_time};
use crate::api::save;
use crate::dispatch::page_not_found;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use ireko_engine::{ImageInfo, Name, Removed, identity};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const FILTERS: &[&str] =
    &["before", "dangling", "label", "reference", "shared-size", "since", "until"];

pub(crate) async fn list(State(app): State<App>, params: Params) -> ApiResult<Json<Value>> {
    let filters = params.filters(FILTERS)?;
    let images = app.engine.images().await?;
    let created = async |name: &str| match filters.values(name).first() {
        Some(reference) => app.engine.image(reference).await.map(|image| Some(image.created)),
        None => Ok(None),
    };
    let (before, since) = (created("before").await?, created("since").await?);
    let until = match filters.values("until").first() {
        Some(text) => Some(until(text)?),
        None => None,
    };
    let shown = images.iter().filter(|image| {
        is_wanted(image, &filters)
            && before.is_none_or(|time| image.created < time)
            && since.is_none_or(|time| image.created > time)
            && until.is_none_or(|time| image.created < time)
    });
    let named = |name: &Name| is_named(&filters, name);
    Ok(Json(shown.map(|image| summary(image, named)).collect()))
}

/// A time, as RFC 3339 or seconds since 1970, or how long ago it was: `1h30m`.
pub(crate) fn until(text: &str) -> ApiResult<Timestamp> {
    let ago = || Timestamp::now().checked_sub(text.parse::<SignedDuration>().ok()?).ok();
    parse_time(text)
        .or_else(ago)
        .ok_or_else(|| ApiError::bad_request(format!("invalid filter 'until={text}'")))
}

fn is_wanted(image: &ImageInfo, filters: &Filters) -> bool {
    let is_dangling = image.names.is_empty();
    let labels: &BTreeMap<_, _> = &image.config.document().config.labels;
    filters.labels(labels)
        && filters.any("dangling", |value| matches!(value, "true" | "1") == is_dangling)
        && filters.any("reference", |pattern| {
            image.names.iter().any(|name| matches_reference(pattern, name))
        })
}

/// Whether a name of an image that is shown is to be shown: only those that were asked for.
fn is_named(filters: &Filters, name: &Name) -> bool {
    filters.any("reference", |pattern| matches_reference(pattern, name))
}

fn matches_reference(pattern: &str, name: &Name) -> bool {
    let docker = name.reference();
    [name.familiar(), name.repository(), docker.familiar(), docker.familiar_name()]
        .iter()
        .any(|text| matches_glob(pattern, text))
}

/// `*` for any characters but a slash, `?` for one.
fn matches_glob(pattern: &str, text: &str) -> bool {
    fn matches(pattern: &[u8], text: &[u8]) -> bool {
        // The last star and what it covers so far; the usual backtracking over one star.
        let (mut p, mut t, mut star) = (0, 0, None);
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, t));
                    p += 1;
                }
                Some(b'?') if text[t] != b'/' => (p, t) = (p + 1, t + 1),
                Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
                _ => match star {
                    Some((at, covered)) if text[covered] != b'/' => {
                        star = Some((at, covered + 1));
                        (p, t) = (at + 1, covered + 1);
                    }
                    _ => return false,
                },
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }
    matches(pattern.as_bytes(), text.as_bytes())
}

/// An image in a list, with those of its names that are to be shown.
pub(crate) fn summary(image: &ImageInfo, named: impl Fn(&Name) -> bool) -> Value {
    let names: Vec<_> = image.names.iter().filter(|name| named(name)).collect();
    let spelt: Vec<_> = names.iter().map(|name| name.familiar()).collect();
    let names: Vec<_> = names.into_iter().map(docker_name).collect();
    json!({
        "Id": image.id.to_string(),
        "ParentId": image.parent_image.map(|id| id.to_string()).unwrap_or_default(),
        "RepoTags": names,
        "RepoDigests": [],
        "Created": image.created.as_second(),
        "Size": image.total_bytes,
        // What clients before API 1.44 read in its place.
        "VirtualSize": image.total_bytes,
        "SharedSize": -1,
        "Containers": -1,
        "Labels": image.config.document().config.labels,
        // As they were given.
        "Ireko": { "Names": spelt },
    })
}

/// A name as docker's clients must see it.
fn docker_name(name: &Name) -> String {
    name.reference().familiar()
}

fn names(image: &ImageInfo) -> Vec<String> {
    image.names.iter().map(docker_name).collect()
}

/// `GET /images/{name}/json`, `/history`, `/get`.
pub(crate) async fn get(
    State(app): State<App>,
    Path(path): Path<String>,
    params: Params,
) -> Response {
    match path.rsplit_once('/') {
        Some((name, "json")) => inspect(&app, name).await.into_response(),
        Some((name, "history")) => history(&app, name).await.into_response(),
        Some((name, "get")) => {
            save::answer(&app, &[name.to_owned()], &params).await.into_response()
        }
        _ => page_not_found().await,
    }
}

/// `POST /images/{name}/tag`, `/push`.
pub(crate) async fn post(
    State(app): State<App>,
    Path(path): Path<String>,
    params: Params,
) -> Response {
    match path.rsplit_once('/') {
        Some((name, "tag")) => tag(&app, name, &params).await.into_response(),
        Some((_, "push")) => not_yet::push().await.into_response(),
        _ => page_not_found().await,
    }
}

async fn tag(app: &App, image: &str, params: &Params) -> ApiResult<StatusCode> {
    let name = reference(params.get("repo"), params.get("tag"))
        .ok_or_else(|| ApiError::bad_request("no name was given"))?;
    app.engine.tag(image, &name).await?;
    Ok(StatusCode::CREATED)
}

async fn inspect(app: &App, name: &str) -> ApiResult<Json<Value>> {
    let image = app.engine.image(name).await?;
    let document = image.config.document();
    let config = serde_json::to_value(&document.config)
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    let spelt: Vec<_> = image.names.iter().map(|name| name.familiar()).collect();
    let layers: Vec<_> = document.rootfs.diff_ids.iter().map(|digest| digest.to_string()).collect();
    let mut shown = json!({
        "Id": image.id.to_string(),
        "RepoTags": names(&image),
        "RepoDigests": [],
        "Parent": image.parent_image.map(|id| id.to_string()).unwrap_or_default(),
        "Comment": document.comment,
        "Created": image.created.to_string(),
        "DockerVersion": "",
        "Author": document.author,
        "Config": config,
        "Architecture": document.architecture,
        "Os": document.os,
        "Size": image.total_bytes,
        "VirtualSize": image.total_bytes,
        "GraphDriver": {
            "Name": "vhdx",
            "Data": { "File": image.file, "DiskSize": image.virtual_size.to_string() },
        },
        "Disks": image.disks.iter().map(|disk| {
            json!({ "Name": disk.name.to_string(), "Size": disk.virtual_size })
        }).collect::<Vec<_>>(),
        "RootFS": { "Type": "layers", "Layers": layers },
        "Ireko": { "Identity": identity(&image), "Names": spelt },
        "Metadata": { "LastTagTime": "0001-01-01T00:00:00Z" },
    });
    // Docker showed them until API 1.44, and clients still look.
    for (name, field) in [("Container", "container"), ("ContainerConfig", "container_config")] {
        if let Some(value) = document.extra.get(field) {
            shown[name] = value.clone();
        }
    }
    Ok(Json(shown))
}

async fn history(app: &App, name: &str) -> ApiResult<Json<Value>> {
    let steps = app.engine.history(name).await?;
    let shown = steps.into_iter().map(|step| {
        let tags: Vec<_> = step.names.iter().map(docker_name).collect();
        json!({
            "Id": step.image.map_or_else(|| "<missing>".to_owned(), |id| id.to_string()),
            "Created": step.created.map_or(0, |time| time.as_second()),
            "CreatedBy": step.created_by,
            "Tags": Some(tags).filter(|tags| !tags.is_empty()),
            "Size": step.own_bytes,
            "Comment": step.comment,
        })
    });
    Ok(Json(shown.collect()))
}

/// `DELETE /images/{name}`. Ireko keeps no untagged parents apart, so `noprune` changes nothing.
pub(crate) async fn remove(
    State(app): State<App>,
    Path(name): Path<String>,
    params: Params,
) -> ApiResult<Json<Value>> {
    let removed = app.engine.remove_image(&name, params.flag("force")).await?;
    Ok(Json(removed.iter().map(removal).collect()))
}

/// One line of what a removal did.
pub(crate) fn removal(removed: &Removed) -> Value {
    match removed {
        Removed::Untagged(name) => json!({ "Untagged": docker_name(name) }),
        Removed::Deleted(id) => json!({ "Deleted": id.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_do_not_cross_slashes() {
        for (pattern, text, expected) in [
            ("base", "base", true),
            ("ba*", "base:latest", true),
            ("*:latest", "base:latest", true),
            ("b?se*", "base:1", true),
            ("*", "a/b", false),
            ("*/*", "a/b:1", true),
            ("base", "base:latest", false),
            ("", "", true),
        ] {
            assert_eq!(matches_glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
