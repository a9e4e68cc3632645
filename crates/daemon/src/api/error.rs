//! Errors as HTTP answers: the one table from the engine's kinds to status codes.

use axum::Json;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use ireko_engine::ErrorKind;
use serde_json::json;
use std::fmt;

/// What a handler answers instead of what was asked for.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

/// What handlers return.
pub(crate) type ApiResult<T = Response> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// `what` is the beginning of a sentence: "Ireko does not support … yet".
    pub(crate) fn not_yet(what: &str) -> Self {
        let message = format!("Ireko does not support {what} yet");
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ireko_engine::Error> for ApiError {
    fn from(error: ireko_engine::Error) -> Self {
        let status = match error.kind() {
            ErrorKind::BadParameter => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
            ErrorKind::TimedOut => StatusCode::REQUEST_TIMEOUT,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::StartFailed { exit_code: 126 | 127 } => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = error.chain(), "a request failed");
        }
        Self { status, message: words(&error) }
    }
}

/// An engine's error for people: its chain, and the remedy on a line of its own.
pub(crate) fn words(error: &ireko_engine::Error) -> String {
    match error.remedy() {
        Some(remedy) => format!("{}\nhint: {remedy}", error.chain()),
        None => error.chain(),
    }
}

impl From<ireko_engine::oci::Error> for ApiError {
    fn from(error: ireko_engine::oci::Error) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self.status {
            // It has no body by its definition.
            StatusCode::NOT_MODIFIED => self.status.into_response(),
            status => (status, Json(json!({ "message": self.message }))).into_response(),
        }
    }
}
