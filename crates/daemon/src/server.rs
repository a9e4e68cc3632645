//! Connections: accepted, served as HTTP/1.1, ended.

use crate::dispatch::Dispatch;
use crate::peer::Peer;
use crate::seats::{Seat, Seats};
use crate::socket::Socket;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time for a client to send a request's head, and for an idle connection to send another.
const HEAD: Duration = Duration::from_secs(300);
/// The largest head of a request; and what is read ahead of a body, and kept of an answer that is not
/// read. In bytes.
const BUFFER: usize = 128 << 10;
/// Time for answers on their way when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(3);
/// The pause after an accept that failed, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection is told that there is no seat for.
const NO_SEAT: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
    Content-Length: 50\r\nConnection: close\r\n\r\n{\"message\":\"the daemon has too many connections\"}\n";

/// Serves until `stop` is cancelled; answers on their way are given some time.
pub(crate) async fn serve(
    sockets: Vec<Socket>,
    seats: Seats,
    dispatch: Dispatch,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    let accepting = TaskTracker::new();
    let server = Server { seats, dispatch, connections: connections.clone(), stop: stop.clone() };
    for socket in sockets {
        let server = server.clone();
        accepting.spawn(async move {
            tokio::select! {
                () = server.accept(&socket) => {}
                () = server.stop.cancelled() => {}
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

/// What every connection shares.
#[derive(Clone)]
struct Server {
    seats: Seats,
    dispatch: Dispatch,
    connections: TaskTracker,
    stop: CancellationToken,
}

impl Server {
    async fn accept(&self, socket: &Socket) {
        loop {
            match socket.listener.accept().await {
                Ok((stream, _)) => self.admit(Peer::new(stream)),
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, peer: Peer) {
        let Some(seat) = self.seats.take() else {
            tracing::warn!("a connection is turned away: all are in use by requests");
            return peer.tell_at_once(NO_SEAT);
        };
        self.connections.spawn(serve_one(peer, seat, self.dispatch.clone(), self.stop.clone()));
    }
}

/// Serves a connection to its end: that of its last request, of its client, or of its seat.
async fn serve_one(peer: Peer, seat: Arc<Seat>, dispatch: Dispatch, stop: CancellationToken) {
    let service = dispatch.serve(peer.clone(), Arc::clone(&seat));
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            // A client that has sent all it has still wants its answer.
            .half_close(true)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(peer.clone()), service)
            .with_upgrades()
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = peer.gone() => return,
        () = seat.shown_out() => return,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection broke");
    }
}
