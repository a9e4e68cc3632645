//! The engine's end of a shim's control socket: one connection for each request.
//!
//! ```text
//!   engine ── Envelope{request} ──► shim
//!          ◄──── Answer ───────────
//!          ◄═══ streams ══════════►      after `Attached`, `ExecStarted` and `Begun` only, see `streams`
//! ```
//!
//! A shim that says nothing in time, or something that cannot be understood, is an error; it is
//! never waited for without a deadline.

use crate::error::{Attempt, Error, Result};
use ireko_protocol::agent::FailureKind;
use ireko_protocol::frame::{Frame, FrameDecoder, FrameKind};
use ireko_protocol::shim::{Answer, Envelope, Request, VERSION};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Time for requests that a shim answers without the guest.
pub(crate) const QUICK: Duration = Duration::from_secs(10);
/// Time for requests that a running guest answers: more than the 60 s after which a shim gives up,
/// so that what is called failed here was given up there.
pub(crate) const GUEST: Duration = Duration::from_secs(90);
/// Time for a guest to boot, be configured and start its first process; again more than the shim's.
/// An emulated one on a busy machine takes tens of seconds.
pub(crate) const BOOT: Duration = Duration::from_secs(450);
/// Time for a commit: its first sync writes back all that the guest's host page cache holds.
pub(crate) const COMMIT: Duration = Duration::from_secs(600);

/// Where a shim listens.
#[derive(Clone, Debug)]
pub(crate) struct ShimSocket {
    path: PathBuf,
}

/// A connection on which the first answer has come.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    pub(crate) decoder: FrameDecoder,
}

/// What a shim refused, with the kind it gave.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

/// Why a request got no good answer.
#[derive(Debug)]
pub(crate) enum AskError {
    /// The shim said no.
    Refused(Refusal),
    /// The shim could not be talked to.
    Broken(Error),
}

impl From<Error> for AskError {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

impl AskError {
    /// The error where a refusal's kind does not matter; `what` was attempted.
    pub(crate) fn into_error(self, what: impl FnOnce() -> String) -> Error {
        match self {
            Self::Refused(refusal) => Error::caused(what(), refusal),
            Self::Broken(error) => Error::caused(what(), error),
        }
    }
}

impl ShimSocket {
    /// The shim of the VM whose runtime folder this is.
    pub(crate) fn in_folder(runtime_dir: &Path) -> Self {
        Self { path: runtime_dir.join("shim.sock") }
    }

    /// Connects, once.
    pub(crate) async fn connect(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(&self.path).await
    }

    /// Sends a request and reads the one answer.
    pub(crate) async fn ask(
        &self,
        request: Request,
        deadline: Duration,
    ) -> std::result::Result<Answer, AskError> {
        Ok(self.open(request, deadline).await?.0)
    }

    /// Sends a request, reads the first answer and keeps the connection for what follows.
    pub(crate) async fn open(
        &self,
        request: Request,
        deadline: Duration,
    ) -> std::result::Result<(Answer, Connection), AskError> {
        let what = request_word(&request);
        timeout(deadline, async {
            let mut connection = self.send(request).await?;
            let answer = connection.next_answer().await?.ok_or_else(|| {
                Error::internal(format!(
                    "{what}: the VM's shim closed the connection; where an older Ireko started the \
                     container, it has to be restarted for that"
                ))
            })?;
            match answer {
                Answer::Failed { kind, message } => {
                    Err(AskError::Refused(Refusal { kind, message }))
                }
                answer => Ok((answer, connection)),
            }
        })
        .await
        .unwrap_or_else(|_| {
            Err(AskError::Broken(Error::internal(format!(
                "{what}: the VM's shim gave no answer within {} s",
                deadline.as_secs()
            ))))
        })
    }

    /// Sends a request whose answer is read later by [`Connection::next_answer`].
    pub(crate) async fn send(&self, request: Request) -> Result<Connection> {
        let attempt = || format!("talk to the VM's shim at {}", self.path.display());
        let mut stream = self.connect().await.attempt(attempt)?;
        let frame = Frame::message(&Envelope { version: VERSION, request }).attempt(attempt)?;
        stream.write_all(&frame.encode()).await.attempt(attempt)?;
        Ok(Connection { stream, decoder: FrameDecoder::default() })
    }
}

impl Connection {
    /// Reads the next message; `None` where the shim closed the connection.
    pub(crate) async fn next_answer(&mut self) -> Result<Option<Answer>> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            if let Some(frame) = self.decoder.next_frame().attempt(not_understood)? {
                return match frame.kind {
                    FrameKind::Message => frame.parse().map(Some).attempt(not_understood),
                    kind => Err(Error::internal(format!(
                        "the VM's shim sent {kind:?} where an answer was due"
                    ))),
                };
            }
            let count = match self.stream.read(&mut buffer).await {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
                Err(error) => return Err(error).attempt(not_understood),
            };
            if count == 0 {
                return Ok(None);
            }
            self.decoder.feed(&buffer[..count]);
        }
    }
}

/// The error where an answer is a right one, but not to this request.
pub(crate) fn unexpected(request: &str, answer: &Answer) -> Error {
    Error::internal(format!("the VM's shim answered {request} with {answer:?}"))
}

fn not_understood() -> String {
    "read the answer of the VM's shim".into()
}

fn request_word(request: &Request) -> &'static str {
    match request {
        Request::Status => "ask for the VM's state",
        Request::Start => "start the container's process",
        Request::Claim { .. } => "claim a VM that stands by",
        Request::Attach { .. } => "attach",
        Request::Exec { .. } => "exec",
        Request::Resize { .. } => "resize the terminal",
        Request::Signal { .. } => "send a signal",
        Request::PowerOff => "power the VM off",
        Request::Pause => "pause",
        Request::Unpause => "unpause",
        Request::Limit(_) => "change the limits",
        Request::ListProcesses => "list the processes",
        Request::Screenshot { .. } => "take a picture of the machine's screen",
        Request::SendKeys { .. } => "type on the machine's keyboard",
        Request::SetScreenPassword { .. } => "open the machine's screen",
        Request::Addresses { .. } => "ask the machine's agent for its addresses",
        Request::System => "ask the machine's agent which system it is",
        Request::Sysprep { .. } => "run sysprep",
        Request::Suspend => "suspend the machine",
        Request::AwaitAgent { .. } => "wait for the agent in the machine",
        Request::Commit(_) => "commit",
        Request::Rewire(_) => "change the networks",
        Request::Wait => "wait for the VM's end",
        Request::Kill { .. } => "kill a process",
        Request::Files { .. } => "work with files",
        Request::Hold => "begin the work with files",
        Request::Usage => "ask what the processes use",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A shim that answers one connection with a script.
    pub(crate) struct FakeShim {
        _folder: tempfile::TempDir,
        pub(crate) socket: ShimSocket,
        listener: tokio::net::UnixListener,
    }

    impl FakeShim {
        pub(crate) fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = ShimSocket::in_folder(folder.path());
            let listener = tokio::net::UnixListener::bind(&socket.path).unwrap();
            Self { _folder: folder, socket, listener }
        }

        /// Takes a connection, reads its request.
        pub(crate) async fn accept(&self) -> (Request, UnixStream) {
            let (stream, _) = self.listener.accept().await.unwrap();
            let mut connection = Connection { stream, decoder: FrameDecoder::default() };
            let frame = loop {
                if let Some(frame) = connection.decoder.next_frame().unwrap() {
                    break frame;
                }
                let mut buffer = [0; 7];
                let count = connection.stream.read(&mut buffer).await.unwrap();
                connection.decoder.feed(&buffer[..count]);
            };
            let envelope: Envelope = frame.parse().unwrap();
            assert_eq!(envelope.version, VERSION);
            (envelope.request, connection.stream)
        }
    }

    pub(crate) async fn say(stream: &mut UnixStream, frame: Frame) {
        stream.write_all(&frame.encode()).await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_comes_back_and_a_refusal_keeps_its_kind() {
        let shim = FakeShim::new();
        let socket = shim.socket.clone();
        let script = tokio::spawn(async move {
            let (request, mut stream) = shim.accept().await;
            assert_eq!(request, Request::Signal { signal: 15 });
            say(&mut stream, Frame::message(&Answer::Done).unwrap()).await;
            let (_, mut stream) = shim.accept().await;
            let no = Answer::Failed { kind: FailureKind::NotFound, message: "no sh".into() };
            say(&mut stream, Frame::message(&no).unwrap()).await;
        });
        let done = socket.ask(Request::Signal { signal: 15 }, QUICK).await;
        assert!(matches!(done, Ok(Answer::Done)));
        let refused = socket.ask(Request::Start, QUICK).await;
        assert!(matches!(
            refused,
            Err(AskError::Refused(Refusal { kind: FailureKind::NotFound, .. }))
        ));
        script.await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_shim_a_closing_one_and_a_babbling_one_are_errors() {
        let shim = FakeShim::new();
        let socket = shim.socket.clone();
        let script = tokio::spawn(async move {
            let (_, silent) = shim.accept().await;
            drop(shim.accept().await);
            let (_, mut babbling) = shim.accept().await;
            babbling.write_all(&[0xff; 64]).await.unwrap();
            (silent, babbling)
        });
        let message = |result| match result {
            Err(AskError::Broken(error)) => error.chain(),
            other => panic!("{other:?}"),
        };
        let short = Duration::from_millis(20);
        assert!(message(socket.ask(Request::Status, short).await).contains("no answer within"));
        assert!(message(socket.ask(Request::Status, QUICK).await).contains("closed"));
        assert!(message(socket.ask(Request::Status, QUICK).await).contains("unknown frame kind"));
        drop(script.await.unwrap());
    }
}
