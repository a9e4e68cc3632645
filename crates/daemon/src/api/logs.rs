//! `GET /containers/{id}/logs`, and what was written before an attach.

use crate::api::App;
use crate::api::error::{ApiError, ApiResult};
use crate::api::frames::Framing;
use crate::api::query::Params;
use crate::dispatch::ApiVersion;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use ireko_engine::{
    AttachOptions, ContainerRecord, Engine, LogOptions, LogStream, OutputStream, StampedLine,
};
use jiff::Timestamp;
use std::io;

pub(crate) async fn logs(
    State(app): State<App>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> ApiResult<Response> {
    let (stdout, stderr) = (params.flag("stdout"), params.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::bad_request("Bad parameters: you must choose at least one stream"));
    }
    let record = app.engine.inspect(&id)?;
    let framing = Framing::of(record.spec.stdio.tty);
    let content_type = framing.content_type(version);
    let form = Form {
        framing,
        stdout,
        stderr,
        timestamps: params.flag("timestamps"),
        // Log options are refused at create, so there are no details to show.
    };
    let options = LogOptions {
        tail: tail(params.get("tail"))?,
        since: params.time("since")?,
        until: params.time("until")?,
        follow: params.flag("follow"),
    };
    let lines = app.engine.logs(&record.id, options).await?;
    let body = futures_util::stream::unfold(lines, move |mut lines| async move {
        loop {
            match lines.next().await? {
                Ok(line) => match form.line(line) {
                    Some(bytes) => return Some((Ok(bytes), lines)),
                    None => continue,
                },
                // Too late for an answer: the body is cut off.
                Err(error) => return Some((Err(io::Error::other(error)), lines)),
            }
        }
    });
    Ok(([(CONTENT_TYPE, content_type)], Body::from_stream(body)).into_response())
}

/// What a container has written so far, as a client of an attach wants it.
pub(crate) struct Replay {
    lines: LogStream,
    form: Form,
}

impl Replay {
    pub(crate) async fn begin(
        engine: &Engine,
        record: &ContainerRecord,
        options: AttachOptions,
        framing: Framing,
    ) -> ApiResult<Self> {
        let AttachOptions { stdout, stderr, .. } = options;
        let form = Form { framing, stdout, stderr, timestamps: false };
        // What is written from now on comes by the attach, however long the client takes for this.
        let so_far = LogOptions { until: Some(Timestamp::now()), ..LogOptions::default() };
        Ok(Self { lines: engine.logs(&record.id, so_far).await?, form })
    }

    /// The next line; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.lines.next().await? {
                Ok(line) => match self.form.line(line) {
                    Some(bytes) => return Some(bytes),
                    None => continue,
                },
                Err(error) => {
                    tracing::warn!(error = error.chain(), "a log is not replayed to its end");
                    return None;
                }
            }
        }
    }
}

fn tail(text: Option<&str>) -> ApiResult<Option<usize>> {
    match text {
        None | Some("all") => Ok(None),
        // docker takes any number below zero for all.
        Some(text) => match text.parse::<i64>() {
            Ok(number) => Ok(usize::try_from(number).ok()),
            Err(_) => Ok(None),
        },
    }
}

/// How lines are shown.
#[derive(Clone, Copy)]
struct Form {
    framing: Framing,
    stdout: bool,
    stderr: bool,
    timestamps: bool,
}

impl Form {
    fn line(self, StampedLine { line, .. }: StampedLine) -> Option<Bytes> {
        use ireko_protocol::plan::LogStream;
        let (stream, wanted) = match line.stream {
            LogStream::Stdout => (OutputStream::Stdout, self.stdout),
            LogStream::Stderr => (OutputStream::Stderr, self.stderr),
        };
        let text = match self.timestamps {
            true => format!("{} {}", line.time, line.log),
            false => line.log,
        };
        wanted.then(|| self.framing.frame(stream, text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ireko_protocol::plan::{LogLine, LogStream};

    fn stamped(stream: LogStream) -> StampedLine {
        let time = "2026-01-01T00:00:00.000000001Z";
        let line = LogLine { log: "hi\n".into(), stream, time: time.into() };
        StampedLine { at: time.parse().unwrap(), line }
    }

    #[test]
    fn a_line_has_its_stamp_and_only_the_wanted_streams_are_shown() {
        let form = Form { framing: Framing::Raw, stdout: true, stderr: false, timestamps: true };
        assert_eq!(
            form.line(stamped(LogStream::Stdout)).unwrap(),
            "2026-01-01T00:00:00.000000001Z hi\n"
        );
        assert_eq!(form.line(stamped(LogStream::Stderr)), None);
    }

    #[test]
    fn a_tail_is_a_number_or_all() {
        assert_eq!(tail(Some("3")).unwrap(), Some(3));
        assert_eq!(tail(Some("all")).unwrap(), None);
        assert_eq!(tail(Some("-1")).unwrap(), None);
    }
}
