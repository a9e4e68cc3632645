//! What is the same for every request: the version in its path, the headers of its answer.
//!
//! ```text
//!   /v1.44/containers/json ─► /containers/json + ApiVersion(44) ─► router ─► headers
//!   /containers/json       ─► /containers/json + ApiVersion(50)
//! ```

use crate::api::error::ApiError;
use crate::peer::Peer;
use crate::seats::{Seat, Served};
use axum::Router;
use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::HeaderValue;
use hyper::http::uri::PathAndQuery;
use hyper::service::Service;
use hyper::{HeaderMap, Request, StatusCode, Uri};
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::timeout;

/// What is read of a body that a refusal left, at most: in bytes, and in time.
const MOST_REST: u64 = 64 << 10;
const REST_TIME: Duration = Duration::from_secs(1);

/// The newest version that is served, 1.50.
pub(crate) const NEWEST: ApiVersion = ApiVersion(50);
/// The oldest, 1.24.
pub(crate) const OLDEST: ApiVersion = ApiVersion(24);

/// The minor number of the API version a request is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion(pub(crate) u16);

impl std::fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

/// What answers requests.
#[derive(Clone)]
pub(crate) struct Dispatch(TowerToHyperService<Router>);

impl Dispatch {
    pub(crate) fn new(router: Router) -> Self {
        Self(TowerToHyperService::new(router))
    }

    /// The service of one connection.
    pub(crate) fn serve(&self, peer: Peer, seat: Arc<Seat>) -> Connection {
        Connection { router: self.0.clone(), peer, seat }
    }
}

/// A connection's service.
pub(crate) struct Connection {
    router: TowerToHyperService<Router>,
    peer: Peer,
    seat: Arc<Seat>,
}

/// The connection a request came on, while that is under way: among the request's extensions for whoever
/// goes on with it after the answer.
#[derive(Clone)]
pub(crate) struct Line {
    peer: Peer,
    served: Arc<Served>,
}

impl Line {
    /// Does `session`, and breaks it off when the client has gone away.
    pub(crate) async fn hold(self, session: impl Future<Output = ()>) {
        tokio::select! {
            () = session => {}
            () = self.peer.gone() => tracing::debug!("a client went away"),
        }
    }
}

/// An answer's body; the request is under way until it is sent.
struct Answering {
    body: Body,
    _line: Line,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request's body, of which a handler may leave something.
#[derive(Clone)]
struct Given(Arc<Mutex<Incoming>>);

impl Given {
    /// Reads what a handler that refuses has left. Whoever is answered and hung up on while it still sends
    /// sees its own write fail, and not the answer. One that sends much, or slowly, has to bear that.
    async fn read_off(mut self) {
        if self.size_hint().lower() > MOST_REST {
            return;
        }
        let rest = async {
            let mut left = MOST_REST;
            while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut self).poll_frame(cx)).await {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                let Some(less) = left.checked_sub(length) else { break };
                left = less;
            }
        };
        // Late is as good as never.
        let _ = timeout(REST_TIME, rest).await;
    }
}

impl HttpBody for Given {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut *lock(&self.0)).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).size_hint()
    }
}

fn lock(body: &Mutex<Incoming>) -> MutexGuard<'_, Incoming> {
    body.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Service<Request<Incoming>> for Connection {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let router = self.router.clone();
        let line = Line { peer: self.peer.clone(), served: Arc::new(self.seat.serve()) };
        Box::pin(async move {
            let mut response = match take_version(request.uri()) {
                Ok((_, uri)) if line.served.is_crowded && !is_urgent(&uri) => crowded(),
                Ok((version, uri)) => {
                    *request.uri_mut() = uri;
                    request.extensions_mut().insert(version);
                    request.extensions_mut().insert(line.clone());
                    let (head, body) = request.into_parts();
                    let given = Given(Arc::new(Mutex::new(body)));
                    let request = Request::from_parts(head, Body::new(given.clone()));
                    let response = router.call(request).await?;
                    if response.status().as_u16() >= 400 {
                        given.read_off().await;
                    }
                    response
                }
                Err(error) => error.into_response(),
            };
            add_headers(response.headers_mut());
            Ok(response.map(|body| Body::new(Answering { body, _line: line })))
        })
    }
}

/// What is answered however much there is to do: whether the daemon lives, and how to end it.
fn is_urgent(uri: &Uri) -> bool {
    matches!(uri.path(), "/_ping" | "/ireko/daemon/stop")
}

fn crowded() -> Response {
    let message = "the daemon has too many requests under way: end some of them, and try again";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).into_response()
}

fn add_headers(headers: &mut HeaderMap) {
    let server = concat!("Docker/", env!("CARGO_PKG_VERSION"), " (linux)");
    headers.insert("Api-Version", HeaderValue::from_static("1.50"));
    headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers.insert("Server", HeaderValue::from_static(server));
}

/// Takes `/v1.NN` off a path.
fn take_version(uri: &Uri) -> Result<(ApiVersion, Uri), ApiError> {
    let path = uri.path();
    let found = path.strip_prefix("/v").and_then(|rest| {
        let (version, rest) = rest.split_once('/')?;
        let (major, minor) = version.split_once('.')?;
        Some((major.parse::<u16>().ok()?, minor.parse::<u16>().ok()?, rest))
    });
    let Some((major, minor, rest)) = found else { return Ok((NEWEST, uri.clone())) };
    let version = ApiVersion(minor);
    if major > 1 || version > NEWEST {
        return Err(ApiError::bad_request(format!(
            "client version {major}.{minor} is too new. Maximum supported API version is {NEWEST}"
        )));
    }
    if major < 1 || version < OLDEST {
        return Err(ApiError::bad_request(format!(
            "client version {major}.{minor} is too old. Minimum supported API version is {OLDEST}, \
             please upgrade your client to a newer version"
        )));
    }
    let text = match uri.query() {
        Some(query) => format!("/{rest}?{query}"),
        None => format!("/{rest}"),
    };
    let path =
        text.parse::<PathAndQuery>().map_err(|error| ApiError::bad_request(error.to_string()))?;
    Ok((version, Uri::from(path)))
}

/// The answer to a path or a method that is none of ours.
pub(crate) async fn page_not_found() -> Response {
    ApiError::new(StatusCode::NOT_FOUND, "page not found").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, version: u16, rest: &str) {
        let (found, uri) = take_version(&path.parse().unwrap()).unwrap();
        assert_eq!((found, uri.to_string().as_str()), (ApiVersion(version), rest));
    }

    #[test]
    fn a_version_is_taken_off_the_path() {
        check("/v1.44/containers/json?all=1", 44, "/containers/json?all=1");
        check("/_ping", 50, "/_ping");
        check("/volumes/v1.2", 50, "/volumes/v1.2");
    }

    #[test]
    fn versions_outside_the_range_are_refused_in_dockers_words() {
        let refused = |path: &str| take_version(&path.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(
            refused("/v1.99/info"),
            "client version 1.99 is too new. Maximum supported API version is 1.50"
        );
        assert!(refused("/v1.20/info").starts_with(
            "client version 1.20 is too old. Minimum supported API version is 1.24, please upgrade"
        ));
    }
}
