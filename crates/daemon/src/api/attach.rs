//! `POST /containers/{id}/attach`, and `POST /ireko/containers/{id}/console`.

use crate::api::App;
use crate::api::detach_keys::DetachKeys;
use crate::api::error::{ApiError, ApiResult};
use crate::api::frames::Framing;
use crate::api::hijack::{InputEnd, Session, SessionEnd, carry, hijack};
use crate::api::logs::Replay;
use crate::api::query::Params;
use crate::dispatch::ApiVersion;
use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use ireko_engine::AttachOptions;

pub(crate) async fn attach(
    State(app): State<App>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
    request: Request,
) -> ApiResult<Response> {
    let record = app.engine.inspect(&id)?;
    let tty = record.spec.stdio.tty;
    let framing = Framing::of(tty);
    let is_live = params.flag("stream");
    let options = AttachOptions {
        stdin: is_live && params.flag("stdin") && record.spec.stdio.open_stdin,
        stdout: params.flag("stdout"),
        stderr: params.flag("stderr"),
    };
    let keys = DetachKeys::parse(params.get("detachKeys"))?;
    let keys = (tty && options.stdin).then_some(keys);
    // As docker has it: only a stdin that is this client's alone ends with it.
    let input_end = match options.stdin && (tty || !record.spec.stdio.stdin_once) {
        true => InputEnd::Leaves,
        false => InputEnd::Passes,
    };
    let content_type = framing.content_type(version);

    let streams = match is_live {
        true => Some(app.engine.attach(&record.id, options).await?),
        false => None,
    };
    // Read after the attach: a line may come twice, but none is lost.
    let earlier = match params.flag("logs") {
        true => Some(Replay::begin(&app.engine, &record, options, framing).await?),
        false => None,
    };
    Ok(hijack(request, content_type, async move |client| {
        let streams = streams.unwrap_or_else(ireko_engine::Streams::ended);
        let session = Session { framing, keys, input_end, replay: earlier };
        let end = carry(client, streams, session).await;
        if end == SessionEnd::Detached {
            app.engine.detached(&record);
        }
    }))
}

/// The serial line of a whole operating system, as a terminal: unframed, and left by the detach
/// keys, however the container was made.
pub(crate) async fn console(
    State(app): State<App>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
    request: Request,
) -> ApiResult<Response> {
    let record = app.engine.inspect(&id)?;
    if !record.process.is_machine() {
        return Err(ApiError::bad_request(format!(
            "container {} runs a process, not a whole operating system: it has no console to be \
             attached to, only standard streams",
            record.name
        )));
    }
    let keys = Some(DetachKeys::parse(params.get("detachKeys"))?);
    let framing = Framing::of(true);
    let options = AttachOptions { stdin: true, stdout: true, stderr: false };
    let streams = app.engine.attach(&record.id, options).await?;
    Ok(hijack(request, framing.content_type(version), async move |client| {
        let input_end = InputEnd::Leaves;
        let session = Session { framing, keys, input_end, replay: None };
        if carry(client, streams, session).await == SessionEnd::Detached {
            app.engine.detached(&record);
        }
    }))
}
