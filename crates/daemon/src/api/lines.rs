//! Answers of long verbs: lines of JSON, in docker's form, that tell how far it is.
//!
//! ```text
//!   {"status":"Merging","progressDetail":{"current":4194304,"total":9437184}}
//!   {"result":{…}}                                    or {"error":"…","errorDetail":{"message":"…"}}
//! ```
//! A verb that fails before there is any progress is answered by a status code, as every other. A
//! client that goes away stops the verb, which then undoes itself.

use crate::api::error::{ApiResult, words};
use crate::api::report::failure;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use ireko_engine::{Done, Progress, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;

type Work = Pin<Box<dyn Future<Output = Result<Value>> + Send>>;

/// Does `work`, whose watcher is the other end of `progress`; `title` says what is done.
pub(crate) async fn answer<T: Serialize>(
    title: &'static str,
    mut progress: Progress,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> ApiResult<Response> {
    let mut work: Work = Box::pin(async move { Ok(json!({ "result": work.await? })) });
    let first = tokio::select! {
        biased;
        Some(done) = progress.next() => advanced(title, done),
        result = &mut work => return Ok(response(Body::from(line(&result?)))),
    };
    let state = Lines { title, progress, first: Some(first), work: Some(work) };
    Ok(response(Body::from_stream(futures_util::stream::unfold(state, Lines::next))))
}

fn response(body: Body) -> Response {
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

struct Lines {
    title: &'static str,
    progress: Progress,
    first: Option<Value>,
    work: Option<Work>,
}

impl Lines {
    async fn next(mut self) -> Option<(std::result::Result<Bytes, Infallible>, Self)> {
        let work = self.work.as_mut()?;
        let value = match self.first.take() {
            Some(first) => first,
            None => tokio::select! {
                biased;
                Some(done) = self.progress.next() => advanced(self.title, done),
                result = work => {
                    self.work = None;
                    result.unwrap_or_else(|error| failure(&words(&error)))
                }
            },
        };
        Some((Ok(Bytes::from(line(&value))), self))
    }
}

fn advanced(title: &str, done: Done) -> Value {
    let Done { current, total } = done;
    json!({ "status": title, "progressDetail": { "current": current, "total": total } })
}

fn line(value: &Value) -> String {
    format!("{value}\r\n")
}
