//! `POST /commit`; with Ireko's own `generalize` the image has no identity of its own,
//! and `answerfile` is the text that a Windows' sysprep is given.

use crate::api::App;
use crate::api::body::read_json;
use crate::api::error::{ApiError, ApiResult};
use crate::api::query::Params;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use ireko_engine::CommitOptions;
use ireko_engine::oci::RunConfig;
use serde_json::{Value, json};

/// What clients send of a container's configuration that means nothing to an image's containers.
const OF_CONTAINERS: [&str; 9] = [
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "Domainname",
    "Hostname",
    "Image",
    "OpenStdin",
    "StdinOnce",
    "Tty",
];

pub(crate) async fn commit(
    State(app): State<App>,
    params: Params,
    body: Body,
) -> ApiResult<Response> {
    let container =
        params.get("container").ok_or_else(|| ApiError::bad_request("no container was named"))?;
    let config: RunConfig = read_json(body).await?;
    let mut others = config.extra.iter().filter(|(_, value)| !is_empty(value));
    if let Some((field, _)) = others.find(|(field, _)| !OF_CONTAINERS.contains(&field.as_str())) {
        return Err(ApiError::not_yet(&format!("{field} in the configuration of a commit")));
    }
    let options = CommitOptions {
        name: reference(params.get("repo"), params.get("tag")),
        comment: params.get("comment").unwrap_or_default().to_owned(),
        author: params.get("author").unwrap_or_default().to_owned(),
        config,
        changes: params.all("changes").map(str::to_owned).collect(),
        freeze_guest: params.flag_or("pause", true),
        all_disks: params.flag("alldisks"),
    };
    let report = match params.flag("generalize") {
        true => {
            let answer_file = params.get("answerfile").map(str::to_owned);
            app.engine.commit_generalized(container, options, answer_file).await?
        }
        false => app.engine.commit(container, options).await?,
    };
    tracing::info!(
        image = %report.image.id,
        consistent = report.is_consistent,
        hold_micros = report.hold_micros,
        "committed"
    );
    let mut answer = json!({ "Id": report.image.id.to_string() });
    let mut warnings = Vec::new();
    if !report.is_consistent {
        warnings
            .push("the file system was not still: the image is as after a power cut".to_owned());
    }
    if !report.left_out.is_empty() {
        warnings.push(format!(
            "disks that are not in the image: {} (ireko commit --all-disks takes them in)",
            report.left_out.join(", ")
        ));
    }
    if !warnings.is_empty() {
        answer["Warnings"] = json!(warnings);
    }
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// `repo` and `tag` as one name.
pub(crate) fn reference(repository: Option<&str>, tag: Option<&str>) -> Option<String> {
    Some(match (repository?, tag) {
        (repository, None) => repository.to_owned(),
        (repository, Some(digest)) if digest.starts_with("sha256:") => {
            format!("{repository}@{digest}")
        }
        (repository, Some(tag)) => format!("{repository}:{tag}"),
    })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}
