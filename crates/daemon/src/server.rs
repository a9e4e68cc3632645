//! Connections: accepted, served as HTTP/1.1, ended.

use crate::dispatch::Dispatch;
use crate::socket::Socket;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time for a client to send a request's head, and for an idle connection to send another.
const HEAD: Duration = Duration::from_secs(300);
/// Time for answers on their way when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(3);
/// The pause after an accept that failed, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled; answers on their way are given some time.
pub(crate) async fn serve(sockets: Vec<Socket>, dispatch: Dispatch, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let accepting = TaskTracker::new();
    for socket in sockets {
        let (dispatch, stop, connections) = (dispatch.clone(), stop.clone(), connections.clone());
        accepting.spawn(async move {
            tokio::select! {
                () = accept(&socket, dispatch, stop.clone(), connections) => {}
                () = stop.cancelled() => {}
            }
        });
    }
    accepting.close();
    accepting.wait().await;
    connections.close();
    if tokio::time::timeout(FAREWELL, connections.wait()).await.is_err() {
        tracing::info!(open = connections.len(), "connections are cut");
    }
}

async fn accept(
    socket: &Socket,
    dispatch: Dispatch,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    loop {
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve_one(stream, dispatch.clone(), stop.clone()));
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one(stream: UnixStream, dispatch: Dispatch, stop: CancellationToken) {
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            // A client that has sent all it has still wants its answer.
            .half_close(true)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), dispatch)
            .with_upgrades()
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection broke");
    }
}
