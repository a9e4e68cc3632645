//! `/containers/{id}/archive`: what `docker cp` asks; and `/containers/{id}/export`.

use crate::api::App;
use crate::api::body::{Transfer, upload};
use crate::api::error::{ApiError, ApiResult};
use crate::api::query::Params;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use ireko_engine::{Extract, FileStream, PathStat};
use jiff::Timestamp;
use serde_json::json;
use std::io;

/// Says what is at the path; docker's clients read it before the body.
const STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

/// Linux's `PATH_MAX`.
const LONGEST_PATH: usize = 4096;

pub(crate) async fn head(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<Response> {
    let path = path(&params)?;
    let stat = app.engine.stat_path(&id, &path).await?;
    Ok((stat_header(&path, &stat)?, StatusCode::OK).into_response())
}

pub(crate) async fn get(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<Response> {
    let path = path(&params)?;
    let turn = Transfer::begin().await?;
    let (stat, pieces) = app.engine.archive_of(&id, &path).await?;
    let mut headers = stat_header(&path, &stat)?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    Ok((headers, body(pieces, turn)).into_response())
}

pub(crate) async fn put(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
    body: Body,
) -> ApiResult<StatusCode> {
    let how = Extract {
        keep_kinds: params.flag("noOverwriteDirNonDir"),
        give_to_user: params.flag("copyUIDGID"),
    };
    let path = path(&params)?;
    app.engine.extract(&id, &path, how, upload(body).await?).await?;
    Ok(StatusCode::OK)
}

pub(crate) async fn export(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Response> {
    let turn = Transfer::begin().await?;
    let pieces = app.engine.export_files(&id).await?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], body(pieces, turn)).into_response())
}

/// An archive as the body of an answer.
pub(crate) fn body(pieces: FileStream, turn: Transfer) -> Body {
    let next = async |(mut pieces, turn): (FileStream, Transfer)| {
        // Too late for an answer: the body is cut off.
        let piece = pieces.next().await?.map_err(io::Error::other);
        Some((piece, (pieces, turn)))
    };
    Body::from_stream(futures_util::stream::unfold((pieces, turn), next))
}

/// The path, which is the container's own: what is relative counts from its root.
fn path(params: &Params) -> ApiResult<String> {
    match params.get("path") {
        Some(path) if path.contains('\0') => {
            Err(ApiError::bad_request(format!("{path:?} is no path: it has a zero byte in it")))
        }
        Some(path) if path.len() >= LONGEST_PATH => Err(ApiError::bad_request(format!(
            "{}… is no path: it has {} bytes",
            &path[..path.floor_char_boundary(64)],
            path.len()
        ))),
        Some(path) if path.starts_with('/') => Ok(path.to_owned()),
        Some(path) => Ok(format!("/{path}")),
        None => Err(ApiError::bad_request("missing parameter in path: path")),
    }
}

fn stat_header(path: &str, stat: &PathStat) -> ApiResult<HeaderMap> {
    let (seconds, nanos) = stat.mtime;
    let mtime = i32::try_from(nanos).ok().and_then(|nanos| Timestamp::new(seconds, nanos).ok());
    let shown = json!({
        "name": base_name(path),
        "size": stat.size,
        "mode": go_mode(stat.mode),
        "mtime": mtime.unwrap_or(Timestamp::UNIX_EPOCH).to_string(),
        "linkTarget": stat.link_target,
    });
    let value = BASE64_STANDARD.encode(shown.to_string());
    let value = value.parse().map_err(|_| ApiError::bad_request("the path cannot be shown"))?;
    Ok([(STAT, value)].into_iter().collect())
}

/// Go's `filepath.Base`.
fn base_name(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    match path.rsplit('/').next() {
        None | Some("") => "/",
        Some(name) => name,
    }
}

/// Go's `FileMode`: the permissions where Linux has them, all else in bits of its own.
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go).sum::<u32>();
    mode & 0o777 | kind | special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_go_s() {
        assert_eq!(go_mode(0o040_755), 0o755 | 1 << 31);
        assert_eq!(go_mode(0o120_777), 0o777 | 1 << 27);
        assert_eq!(go_mode(0o104_755), 0o755 | 1 << 23);
        assert_eq!(go_mode(0o041_777), 0o777 | 1 << 31 | 1 << 20);
        assert_eq!(go_mode(0o020_620), 0o620 | 1 << 26 | 1 << 21);
    }

    #[test]
    fn the_stat_is_base64_of_json() {
        let stat = PathStat {
            mode: 0o100_644,
            size: 5,
            mtime: (1, 500_000_000),
            link_target: String::new(),
        };
        let headers = stat_header("/etc/motd", &stat).unwrap();
        let json = BASE64_STANDARD.decode(headers[STAT].as_bytes()).unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(shown["name"], "motd");
        assert_eq!(shown["mtime"], "1970-01-01T00:00:01.5Z");
        assert_eq!((&shown["size"], &shown["mode"]), (&json!(5), &json!(0o644)));
        for (path, name) in [("/", "/"), ("/etc/", "etc"), ("/etc/.", ".")] {
            assert_eq!(base_name(path), name);
        }
    }
}
