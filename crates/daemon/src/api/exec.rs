//! Execs: create, start, inspect, resize.

use crate::api::App;
use crate::api::body::read_json;
use crate::api::containers::size;
use crate::api::detach_keys::DetachKeys;
use crate::api::error::{ApiError, ApiResult, words};
use crate::api::frames::Framing;
use crate::api::hijack::{Client, InputEnd, Session, SessionEnd, carry, hijack};
use crate::api::query::Params;
use crate::api::types::exec::{ExecCreate, ExecStart};
use crate::dispatch::ApiVersion;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use hyper::StatusCode;
use ireko_engine::{Engine, ExecInfo, ExecSpec, ExecState, OutputStream};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

pub(crate) async fn create(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Body,
) -> ApiResult<Response> {
    let body: ExecCreate = read_json(body).await?;
    let detach_keys = body.detach_keys.unwrap_or_default();
    DetachKeys::parse(Some(&detach_keys))?;
    let spec = ExecSpec {
        argv: body.cmd.unwrap_or_default(),
        env: body.env.unwrap_or_default(),
        user: body.user,
        working_dir: body.working_dir,
        tty: body.tty.unwrap_or_default(),
        stdin: body.attach_stdin.unwrap_or_default(),
        stdout: body.attach_stdout.unwrap_or_default(),
        stderr: body.attach_stderr.unwrap_or_default(),
        privileged: body.privileged.unwrap_or_default(),
        detach_keys,
    };
    let id = app.engine.exec_create(&id, spec)?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": id }))).into_response())
}

pub(crate) async fn start(
    State(app): State<App>,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    request: Request,
) -> ApiResult<Response> {
    let (parts, body) = request.into_parts();
    let body: ExecStart = read_json(body).await?;
    let exec = app.engine.exec_claim(&id)?;
    let size = body.console_size.unwrap_or_default();
    if body.detach.unwrap_or_default() {
        // It is claimed: it runs, or says why not, even where the client goes away now.
        let running = tokio::spawn(async move { app.engine.exec_run(&exec.id, size).await });
        let streams = running.await.map_err(|error| {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("an exec broke: {error}"))
        })??;
        tokio::spawn(discard(streams));
        return Ok(StatusCode::OK.into_response());
    }
    // Docker goes by what is said here, whether or not the process has a terminal.
    let framing = Framing::of(body.tty.unwrap_or_default());
    let content_type = framing.content_type(version);
    let request = Request::from_parts(parts, Body::empty());
    // From here on a failure can only be told in the stream: clients take no other answer than an
    // upgrade, and would lose the reason.
    Ok(hijack(request, content_type, move |client| {
        session(app.engine, exec, (size, framing), client)
    }))
}

async fn session(
    engine: Engine,
    exec: ExecInfo,
    (size, framing): ((u16, u16), Framing),
    mut client: Client,
) {
    let streams = match engine.exec_run(&exec.id, size).await {
        Ok(streams) => streams,
        Err(error) => {
            let message = format!("{}\r\n", words(&error));
            let _ =
                client.output.write_all(&framing.frame(OutputStream::Stderr, message.into())).await;
            let _ = client.output.shutdown().await;
            return;
        }
    };
    let keys = match exec.spec.tty && exec.spec.stdin {
        // Its keys were checked when it was created.
        true => DetachKeys::parse(Some(&exec.spec.detach_keys)).ok(),
        false => None,
    };
    let input_end = match keys {
        Some(_) => InputEnd::Leaves,
        None => InputEnd::Passes,
    };
    let session = Session { framing, keys, input_end, replay: None };
    let end = carry(client, streams, session).await;
    if end == SessionEnd::Detached {
        tracing::debug!(exec = exec.id, "a client detached");
    }
}

/// Lets a process run whose output nobody wants.
async fn discard(streams: ireko_engine::Streams) {
    let ireko_engine::Streams { input, mut output } = streams;
    drop(input);
    while output.next().await.is_some() {}
}

pub(crate) async fn inspect(
    State(app): State<App>,
    Path(id): Path<String>,
) -> ApiResult<Json<Value>> {
    Ok(Json(shown(app.engine.exec_inspect(&id)?)))
}

fn shown(exec: ExecInfo) -> Value {
    let (running, exit_code, pid) = match exec.state {
        ExecState::Ready | ExecState::Starting => (false, None, 0),
        ExecState::Running { pid, .. } => (true, None, pid),
        ExecState::Ended { exit_code } => (false, Some(exit_code), 0),
    };
    let ExecSpec { argv, tty, user, stdin, stdout, stderr, privileged, detach_keys, .. } =
        exec.spec;
    let (program, arguments) = argv.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    json!({
        "ID": exec.id,
        "Running": running,
        "ExitCode": exit_code,
        "ProcessConfig": {
            "tty": tty,
            "entrypoint": program,
            "arguments": arguments,
            "privileged": privileged,
            "user": user.unwrap_or_default(),
        },
        "OpenStdin": stdin,
        "OpenStdout": stdout,
        "OpenStderr": stderr,
        "CanRemove": exit_code.is_some(),
        "ContainerID": exec.container,
        "DetachKeys": detach_keys,
        "Pid": pid,
    })
}

pub(crate) async fn resize(
    State(app): State<App>,
    Path(id): Path<String>,
    params: Params,
) -> ApiResult<StatusCode> {
    let (rows, columns) = size(&params)?;
    app.engine.exec_resize(&id, rows, columns).await?;
    Ok(StatusCode::OK)
}
