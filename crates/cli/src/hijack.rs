//! Turning a request's connection into a bare two-way byte stream (attach, exec).
//!
//! ```text
//!   POST …  Connection: Upgrade, Upgrade: tcp ─►
//!                                     ◄─ 101 UPGRADED
//!   stdin bytes, then shutdown(SHUT_WR) ─►     ◄─ output bytes until the daemon closes
//! ```

use crate::client::{Client, Content, request};
use crate::error::{Error, ErrorKind, Result};
use crate::target::Target;
use bytes::Bytes;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// A connection after its upgrade.
pub struct Hijacked {
    /// Bytes that came along with the answer's head; they precede what `output` reads.
    pub first: Bytes,
    /// From the process.
    pub output: OwnedReadHalf,
    /// To the process; shutting it down ends the process's standard input.
    pub input: OwnedWriteHalf,
}

impl Client {
    /// POSTs to `target` and takes the connection over.
    pub async fn hijack(&self, target: &Target, content: Content) -> Result<Hijacked> {
        let mut request = request(Method::POST, target, content)?;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
        let response = self.exchange(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(not_handed_over().hint("a daemon of another version may be running"));
        }
        let upgraded =
            hyper::upgrade::on(response).await.map_err(|error| not_handed_over().because(error))?;
        let parts = upgraded.downcast::<TokioIo<UnixStream>>().map_err(|_| not_handed_over())?;
        let (output, input) = parts.io.into_inner().into_split();
        Ok(Hijacked { first: parts.read_buf, output, input })
    }
}

fn not_handed_over() -> Error {
    Error::new(ErrorKind::Unreachable, "the daemon did not hand the connection over")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Fake;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn ending_our_side_still_lets_the_answer_come_back() {
        let fake = Fake::upgrading(|_| Fake::switch(), Fake::echo_after_end);
        let target = Target::docker(["containers", "x", "attach"]);
        let mut link = fake.client().hijack(&target, Content::none()).await.unwrap();
        link.input.write_all(b"abc").await.unwrap();
        link.input.shutdown().await.unwrap();
        let mut all = link.first.to_vec();
        link.output.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"abc");
    }

    #[tokio::test]
    async fn an_ordinary_answer_is_no_stream() {
        let fake = Fake::start(|_| Fake::json(200, ""));
        let target = Target::docker(["exec", "x", "start"]);
        let error = fake.client().hijack(&target, Content::none()).await.err().unwrap();
        assert_eq!(error.to_string(), "the daemon did not hand the connection over");
    }
}
