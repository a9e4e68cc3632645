//! Connections that stop being HTTP: a process's standard streams after one request's head.
//!
//! ```text
//!   client ─ POST … Upgrade: tcp ─► 101 UPGRADED ─► raw bytes both ways, half-closed each on its own
//!   client ─ POST … ──────────────► 200, the request's body is stdin, the answer's body is output
//! ```

use crate::api::detach_keys::DetachKeys;
use crate::api::frames::Framing;
use crate::api::logs::Replay;
use crate::dispatch::Line;
use crate::peer::Peer;
use crate::unread::all_is_read;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use hyper::StatusCode;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use ireko_engine::{InputWriter, OutputReader, Streams};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::io::{ReaderStream, StreamReader};

/// How much is read from a client at once, in bytes.
const PIECE: usize = 32 * 1024;

/// A client's side of a hijacked connection.
pub(crate) struct Client {
    pub(crate) input: Box<dyn AsyncRead + Send + Unpin>,
    pub(crate) output: Box<dyn AsyncWrite + Send + Unpin>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The process closed its streams, or the client went.
    Closed,
    /// The client typed the detach keys.
    Detached,
}

/// What the end of a client's input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InputEnd {
    /// The process's stdin ends; its output still goes to the client.
    Passes,
    /// The client is leaving: the session ends, the process's stdin stays open.
    Leaves,
}

/// Answers a request and hands its connection to `session`, as a task of its own.
pub(crate) fn hijack<F>(
    mut request: Request,
    content_type: &'static str,
    session: impl FnOnce(Client) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let line = request.extensions().get::<Line>().cloned();
    let session = async move |client| match line {
        Some(line) => line.hold(session(client)).await,
        None => session(client).await,
    };
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if request.headers().contains_key(UPGRADE) {
        let upgrading = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            match upgrading.await {
                Ok(upgraded) => session(taken_over(upgraded).await).await,
                Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
            }
        });
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("tcp"));
        response.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
        return response;
    }
    let (output, body) = tokio::io::duplex(PIECE);
    let sent = request.into_body().into_data_stream().map_err(io::Error::other);
    let input = Box::new(Box::pin(StreamReader::new(sent)));
    tokio::spawn(session(Client { input, output: Box::new(output) }));
    *response.body_mut() = Body::from_stream(ReaderStream::new(body));
    response
}

/// The connection behind an upgrade, once the client has read the answer's head.
async fn taken_over(upgraded: Upgraded) -> Client {
    match upgraded.downcast::<TokioIo<Peer>>() {
        Ok(parts) => {
            let stream = parts.io.into_inner();
            all_is_read(stream.socket()).await;
            let (input, output) = tokio::io::split(stream);
            let input = io::Cursor::new(parts.read_buf).chain(input);
            Client { input: Box::new(input), output: Box::new(output) }
        }
        // A connection of another kind.
        Err(upgraded) => {
            let (input, output) = tokio::io::split(TokioIo::new(upgraded));
            Client { input: Box::new(input), output: Box::new(output) }
        }
    }
}

/// How a session goes.
pub(crate) struct Session {
    pub(crate) framing: Framing,
    /// What a client types to leave, where it can type.
    pub(crate) keys: Option<DetachKeys>,
    pub(crate) input_end: InputEnd,
    /// Sent before all else.
    pub(crate) replay: Option<Replay>,
}

/// Carries bytes between a client and a process until the process closes its streams, or the
/// client goes or detaches.
pub(crate) async fn carry(client: Client, streams: Streams, session: Session) -> SessionEnd {
    let Session { framing, keys, input_end, replay } = session;
    let Client { input, mut output } = client;
    let Streams { input: to_process, output: from_process } = streams;
    let end = tokio::select! {
        end = send_output(&mut output, from_process, framing, replay) => end,
        end = take_input(input, to_process, keys, input_end) => end,
    };
    // The client may be gone.
    let _ = output.shutdown().await;
    end
}

/// Carries bytes between a client and another end until both have said all, or one is gone.
pub(crate) async fn relay(client: Client, other: impl AsyncRead + AsyncWrite + Send + Unpin) {
    let mut client = tokio::io::join(client.input, client.output);
    let mut other = other;
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut other).await {
        tracing::debug!(%error, "a connection broke");
    }
}

async fn send_output(
    output: &mut (impl AsyncWrite + Unpin),
    mut from_process: OutputReader,
    framing: Framing,
    mut replay: Option<Replay>,
) -> SessionEnd {
    while let Some(earlier) = &mut replay
        && let Some(bytes) = earlier.next().await
    {
        if output.write_all(&bytes).await.is_err() {
            return SessionEnd::Closed;
        }
    }
    while let Some(piece) = from_process.next().await {
        let bytes = framing.frame(piece.stream, piece.bytes);
        if output.write_all(&bytes).await.is_err() || output.flush().await.is_err() {
            break;
        }
    }
    SessionEnd::Closed
}

/// Ends only where the client leaves: one that has nothing more to say may still listen.
async fn take_input(
    mut input: impl AsyncRead + Unpin,
    mut to_process: InputWriter,
    mut keys: Option<DetachKeys>,
    input_end: InputEnd,
) -> SessionEnd {
    // Memory is taken when there are bytes: most clients say nothing.
    let mut buffer = BytesMut::with_capacity(PIECE);
    while let Ok(1..) = input.read_buf(&mut buffer).await {
        let (bytes, detached) = match &mut keys {
            None => (Bytes::copy_from_slice(&buffer), false),
            Some(keys) => {
                let typed = keys.typed(&buffer);
                (typed.pass.into(), typed.detached)
            }
        };
        buffer.clear();
        if !bytes.is_empty() && !to_process.write(bytes).await {
            break;
        }
        if detached {
            return SessionEnd::Detached;
        }
    }
    if input_end == InputEnd::Leaves {
        return SessionEnd::Closed;
    }
    drop(to_process);
    std::future::pending().await
}
