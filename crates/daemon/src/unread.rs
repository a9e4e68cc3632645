//! Whether a client has read what it was sent.
//!
//! A client may read the head of an answer through a buffer and what follows from the bare socket, as
//! docker-py does: what comes along with the head is lost to it. So nothing follows until the head has
//! been taken out of the socket.
#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::ioctl::{Getter, ioctl};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::time::sleep;

/// `SIOCOUTQ` of linux/sockios.h.
const UNREAD_BYTES: rustix::ioctl::Opcode = 0x5411;
/// How often it is looked at: a client takes about as long to be woken up.
const LOOK: Duration = Duration::from_micros(200);
/// For so long; a client that reads nothing may have its reasons.
const LIMIT: Duration = Duration::from_secs(2);

/// Waits until the other end has read all that was written.
pub(crate) async fn all_is_read(stream: &UnixStream) {
    let deadline = Instant::now() + LIMIT;
    while unread(stream.as_fd()).is_ok_and(|bytes| bytes > 0) && Instant::now() < deadline {
        sleep(LOOK).await;
    }
}

/// How much the other end of a unix socket has not read yet: not in bytes that were written, but 0 is 0.
fn unread(socket: BorrowedFd<'_>) -> Result<i32, Errno> {
    // SAFETY: for a socket this request writes one int, and does nothing else.
    unsafe { ioctl(socket, Getter::<UNREAD_BYTES, i32>::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_was_written_is_unread_until_it_is_read() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        assert_eq!(unread(here.as_fd()), Ok(0));
        here.write_all(b"head").await.unwrap();
        assert!(unread(here.as_fd()).unwrap() > 0);
        let reader = tokio::spawn(async move {
            let mut head = [0; 4];
            there.read_exact(&mut head).await.unwrap();
            there
        });
        all_is_read(&here).await;
        assert_eq!(unread(here.as_fd()), Ok(0));
        drop(reader.await.unwrap());
    }
}
