//! HTTP to the daemon over its unix socket.
//!
//! Each request has a connection of its own: they cost nothing on a unix socket, and a hijacked
//! one cannot be used again anyway. The few answers read whole are bounded.

use crate::error::{Error, ErrorKind, Result};
use crate::target::Target;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// The longest JSON answer that is read: lists of tens of thousands of containers.
const MAX_ANSWER: usize = 256 << 20;

/// What a request carries.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A daemon, by its socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// A request body and its media type.
pub struct Content {
    media_type: Option<&'static str>,
    body: Body,
}

impl Content {
    /// No body.
    pub fn none() -> Self {
        Self::bytes(None, Bytes::new())
    }

    /// `value` as JSON.
    pub fn json(value: &impl Serialize) -> Result<Self> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| Error::local("write the request").because(error))?;
        Ok(Self::bytes(Some("application/json"), bytes.into()))
    }

    /// A tar archive, sent as it is read.
    pub fn tar(archive: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        let body = StreamBody::new(archive.map_ok(Frame::data)).boxed_unsync();
        Self { media_type: Some("application/x-tar"), body }
    }

    fn bytes(media_type: Option<&'static str>, bytes: Bytes) -> Self {
        let body = Full::new(bytes).map_err(|never| match never {}).boxed_unsync();
        Self { media_type, body }
    }
}

impl Client {
    /// The daemon that listens at `socket`; nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a request and returns the answer's head as soon as it is there; 4xx and 5xx are
    /// errors with the daemon's message, 304 is not.
    pub async fn send(
        &self,
        method: Method,
        target: &Target,
        content: Content,
    ) -> Result<Response<Incoming>> {
        self.exchange(request(method, target, content)?).await
    }

    /// Like [`Client::send`], for a request that has headers of its own.
    pub async fn exchange(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.lost(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.lost(error))?;
        // Ends with the answer's body, or when the connection is handed over.
        tokio::spawn(connection.with_upgrades());
        let response = sender.send_request(request).await.map_err(|error| self.lost(error))?;
        match response.status() {
            status if status.is_client_error() || status.is_server_error() => {
                Err(refusal(status, response).await)
            }
            _ => Ok(response),
        }
    }

    /// GET, and the JSON it answers.
    pub async fn get<T: DeserializeOwned>(&self, target: &Target) -> Result<T> {
        read_json(self.send(Method::GET, target, Content::none()).await?).await
    }

    /// POST, and the JSON it answers.
    pub async fn post<T: DeserializeOwned>(&self, target: &Target, content: Content) -> Result<T> {
        read_json(self.send(Method::POST, target, content).await?).await
    }

    /// POST without a body and without an answer worth reading.
    pub async fn tell(&self, target: &Target) -> Result<()> {
        let response = self.send(Method::POST, target, Content::none()).await?;
        read_all(response).await.map(drop)
    }

    /// DELETE, and the bytes it answers.
    pub async fn delete(&self, target: &Target) -> Result<Bytes> {
        read_all(self.send(Method::DELETE, target, Content::none()).await?).await
    }

    /// Whether a daemon answers.
    pub async fn ping(&self) -> Result<()> {
        let target = Target::docker(["_ping"]);
        read_all(self.send(Method::GET, &target, Content::none()).await?).await.map(drop)
    }

    fn lost(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        let message = format!("no daemon answers at {}", self.socket.display());
        Error::new(ErrorKind::Unreachable, message).because(source)
    }
}

/// A request with the headers all of ours have.
pub fn request(method: Method, target: &Target, content: Content) -> Result<Request<Body>> {
    let mut builder = Request::builder()
        .method(method)
        .uri(target.as_str())
        .header(HOST, "ireko")
        .header(USER_AGENT, concat!("ireko/", env!("CARGO_PKG_VERSION")));
    if let Some(media_type) = content.media_type {
        builder = builder.header(CONTENT_TYPE, media_type);
    }
    builder
        .body(content.body)
        .map_err(|error| Error::usage("this name cannot be sent").because(error))
}

/// The answer's bytes, at most [`MAX_ANSWER`].
async fn read_all(response: Response<Incoming>) -> Result<Bytes> {
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    body.map(|body| body.to_bytes()).map_err(broken_off)
}

async fn read_json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T> {
    decode(&read_all(response).await?)
}

/// Reads JSON the daemon sent.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::new(ErrorKind::Unreachable, "the daemon's answer is not what was asked for")
            .because(error)
            .hint("a daemon of another version may be running: `ireko daemon stop`")
    })
}

/// What to say when an answer ends before it is complete.
pub fn broken_off(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unreachable, "the daemon broke off its answer").because(source)
}

async fn refusal(status: StatusCode, response: Response<Incoming>) -> Error {
    #[derive(serde::Deserialize)]
    struct Refusal {
        message: String,
    }
    let body = match read_all(response).await {
        Ok(body) => body,
        Err(error) => return error,
    };
    let message = match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) if !refusal.message.is_empty() => refusal.message,
        _ => format!("the daemon answered {status}"),
    };
    Error::new(ErrorKind::Refused(status.as_u16()), message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Fake;

    #[tokio::test]
    async fn a_refusal_carries_the_daemons_status_and_message() {
        let fake = Fake::start(|_| Fake::json(409, r#"{"message":"name in use"}"#));
        let target = Target::docker(["containers", "create"]);
        let error = fake.client().tell(&target).await.unwrap_err();
        assert_eq!(error.status(), Some(409));
        assert_eq!(error.to_string(), "name in use");
    }

    #[tokio::test]
    async fn a_refusal_without_a_message_names_the_status() {
        let fake = Fake::start(|_| Fake::json(500, "<html>"));
        let error = fake.client().ping().await.unwrap_err();
        assert_eq!(error.to_string(), "the daemon answered 500 Internal Server Error");
    }

    #[tokio::test]
    async fn not_modified_is_success() {
        let fake = Fake::start(|_| Fake::json(304, ""));
        fake.client().tell(&Target::docker(["containers", "x", "start"])).await.unwrap();
    }

    #[tokio::test]
    async fn requests_say_where_they_go() {
        let fake = Fake::start(|request| {
            let uri = request.uri().to_string();
            Fake::json(200, &serde_json::json!({ "uri": uri }).to_string())
        });
        let target = Target::docker(["containers", "json"]).with("all", "1");
        let answer: serde_json::Value = fake.client().get(&target).await.unwrap();
        assert_eq!(answer["uri"], "/v1.50/containers/json?all=1");
    }

    #[tokio::test]
    async fn a_socket_nobody_listens_on_is_named() {
        let error = Client::new("/nonexistent/ireko.sock").ping().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.to_string().contains("/nonexistent/ireko.sock"));
    }
}
