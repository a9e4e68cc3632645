//! A daemon for tests: answers each request as the test says, on a socket of its own.

use crate::client::Client;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

type Answer = Response<Full<Bytes>>;

/// A listening socket that vanishes with the test.
pub struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    /// Answers every request by `answer`.
    pub fn start(answer: impl Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static) -> Self {
        Self::upgrading(answer, |_| async {})
    }

    /// Like [`Fake::start`]; after a 101 the bare connection goes to `hijacked`.
    pub fn upgrading<F>(
        answer: impl Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
        hijacked: impl Fn(UnixStream) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        let (answer, hijacked) = (Arc::new(answer), Arc::new(hijacked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, hijacked) = (answer.clone(), hijacked.clone());
                let service = service_fn(move |mut request: Request<Incoming>| {
                    let response = answer(&request);
                    if response.status() == 101 {
                        let hijacked = hijacked.clone();
                        let upgrade = hyper::upgrade::on(&mut request);
                        tokio::spawn(async move {
                            let parts = upgrade.await.unwrap().downcast::<TokioIo<UnixStream>>();
                            hijacked(parts.unwrap().io.into_inner()).await;
                        });
                    }
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                tokio::spawn(connection);
            }
        });
        Self { folder }
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::new(self.folder.path().join("s"))
    }

    /// A JSON answer.
    pub fn json(status: u16, body: &str) -> Answer {
        Response::builder().status(status).body(Full::from(body.to_owned())).unwrap()
    }

    /// The answer that hands the connection over.
    pub fn switch() -> Answer {
        let builder = Response::builder().status(101);
        let builder = builder.header("Connection", "Upgrade").header("Upgrade", "tcp");
        builder.body(Full::default()).unwrap()
    }

    /// A hijacked peer that answers with all it was sent, once that has ended.
    pub async fn echo_after_end(mut stream: UnixStream) {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    }
}
