//! A client's end of a connection: read and written, and watched for its going away.
//!
//! A client that has closed its sending side may still listen, so the end of what it sends does not
//! tell. That it closed both sides does: the kernel then reports a hang-up.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// Between two looks whether a client is still there.
const LOOK: Duration = Duration::from_secs(2);
/// Time for what a client sent before it went to be read.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// A connection; its clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Peer(Arc<UnixStream>);

impl Peer {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(Arc::new(stream))
    }

    /// Returns when the client has gone away and what it sent was read, a few seconds later at most.
    pub(crate) async fn gone(&self) {
        while !self.has_hung_up() {
            tokio::time::sleep(LOOK).await;
        }
        let read = async {
            while rustix::io::ioctl_fionread(&*self.0).is_ok_and(|unread| unread > 0) {
                tokio::time::sleep(LOOK).await;
            }
        };
        // A process need not read what it is sent.
        let _ = tokio::time::timeout(LAST_WORDS, read).await;
    }

    fn has_hung_up(&self) -> bool {
        let mut descriptors = [PollFd::new(&*self.0, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let hung_up = PollFlags::HUP | PollFlags::ERR;
        poll(&mut descriptors, Some(&at_once)).is_ok()
            && descriptors[0].revents().intersects(hung_up)
    }

    /// The socket itself.
    pub(crate) fn socket(&self) -> &UnixStream {
        &self.0
    }

    /// Says this without waiting: a client that does not listen at once is not told.
    pub(crate) fn tell_at_once(&self, bytes: &[u8]) {
        // It fits into a new connection's buffer, and nobody else writes.
        let _ = self.0.try_write(bytes);
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read_buf(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write_vectored(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write);
        Poll::Ready(ended.map_err(Into::into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn who_has_closed_one_side_is_there_and_who_has_closed_both_is_gone() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut peer = Peer::new(server);
        assert!(!peer.has_hung_up());
        client.write_all(b"hi").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"hi");
        assert!(!peer.has_hung_up());
        peer.write_all(b"still there").await.unwrap();
        peer.shutdown().await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"still there");

        let (client, server) = UnixStream::pair().unwrap();
        drop(client);
        assert!(Peer::new(server).has_hung_up());
    }
}
