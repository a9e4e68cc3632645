//! Answers in docker's progress form: lines of JSON, the last ones of which are the result.
//!
//! The status is 200 from the beginning: what goes wrong is a line, too.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use tokio::sync::mpsc;

/// Progress, then the result. The work goes on while the lines are asked for, so a client that goes away ends it.
pub(crate) struct Report<T> {
    progress: mpsc::UnboundedReceiver<T>,
    shown: fn(T) -> Option<Value>,
    result: Option<Pin<Box<dyn Future<Output = Vec<Value>> + Send>>>,
}

impl<T: Send + 'static> Report<T> {
    /// `shown` makes a line of a step of `progress`, or none; `result` does the work, and gives the last lines.
    pub(crate) fn new(
        progress: mpsc::UnboundedReceiver<T>,
        shown: fn(T) -> Option<Value>,
        result: impl Future<Output = Vec<Value>> + Send + 'static,
    ) -> Self {
        Self { progress, shown, result: Some(Box::pin(result)) }
    }

    pub(crate) fn response(self) -> Response {
        let lines = futures_util::stream::unfold(self, Self::next);
        ([(CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
    }

    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let result = self.result.as_mut()?;
        let lines = loop {
            tokio::select! {
                biased;
                Some(step) = self.progress.recv() => {
                    if let Some(line) = (self.shown)(step) {
                        break vec![line];
                    }
                }
                values = &mut *result => {
                    self.result = None;
                    break values;
                }
            }
        };
        let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        Some((Ok(Bytes::from(text)), self))
    }
}

/// The line of work that failed.
pub(crate) fn failure(message: &str) -> Value {
    json!({ "error": message, "errorDetail": { "message": message } })
}
