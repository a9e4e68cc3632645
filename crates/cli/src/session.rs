//! Being a container's (or an exec's) terminal and standard streams.
//!
//! ```text
//!   stdin  ─► thread ─► socket ─► process     ends: half-close, the output still flows
//!   stdout ◄─ frames taken apart ◄─ socket    ends: the process did, or the user detached
//!   SIGWINCH ─► POST …/resize
//! ```
//!
//! With a terminal ours is raw while it lasts; it is restored on every way out.

use crate::client::Client;
use crate::detach::{Keys, Watch};
use crate::error::{Error, ErrorKind, Result};
use crate::frames::{Channel, Demux};
use crate::hijack::Hijacked;
use crate::output::note;
use crate::signals;
use crate::target::Target;
use crate::terminal::{self, RawMode, Size};
use std::io::{IsTerminal, Read};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

const PIECE: usize = 32 << 10;

/// How long the daemon may take to end the stream after the detach keys.
const DETACH_PATIENCE: Duration = Duration::from_secs(2);

/// The most that is kept of what the daemon says about a broken stream.
const MAX_COMPLAINT: usize = 4 << 10;

/// An attached stream and how it is to be treated.
pub struct Session {
    /// The connection.
    pub link: Hijacked,
    /// The process has a terminal: no frames, and ours becomes raw.
    pub tty: bool,
    /// Feed it our standard input.
    pub stdin: bool,
    /// The keys that detach from a terminal.
    pub keys: Keys,
    /// Somebody else takes care of signals.
    pub proxied: bool,
    /// Said on standard error once what is typed goes to the process.
    pub greeting: Option<String>,
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process's output has ended.
    Finished,
    /// The user left; the process goes on.
    Detached,
    /// This signal would have ended us.
    Signal(i32),
}

impl Session {
    /// Moves bytes until the session is over.
    pub async fn run(self) -> Result<End> {
        let Self { link, tty, stdin, keys, proxied, greeting } = self;
        let raw = match tty && stdin && terminal::stdin_is_terminal() {
            true => Some(RawMode::enter()?),
            false => None,
        };
        if let Some(greeting) = greeting {
            note(format_args!("{greeting}\r"));
        }
        let (detach, detached) = oneshot::channel();
        let watch = tty.then(|| (Watch::new(keys), detach));
        let feeding = tokio::spawn(feed(link.input, stdin, watch));
        let first = std::io::Cursor::new(link.first);
        let output = show(AsyncReadExt::chain(first, link.output), tty);
        tokio::pin!(output);
        let end = tokio::select! {
            ended = &mut output => ended.map(|()| End::Finished),
            Ok(()) = detached => {
                let _ = tokio::time::timeout(DETACH_PATIENCE, &mut output).await;
                Ok(End::Detached)
            }
            signal = signals::fatal(), if raw.is_some() && !proxied => Ok(End::Signal(signal)),
        };
        feeding.abort();
        end
    }
}

/// Sends our standard input, then closes that direction.
async fn feed(
    mut input: impl AsyncWrite + Unpin,
    stdin: bool,
    mut watch: Option<(Watch, oneshot::Sender<()>)>,
) {
    if stdin {
        let mut typed = read_stdin();
        while let Some(bytes) = typed.recv().await {
            // The process may not read any more; what it writes is still wanted.
            if input.write_all(&bytes).await.is_err() {
                return;
            }
            if watch.as_mut().is_some_and(|(watch, _)| watch.typed(&bytes)) {
                if let Some((_, detach)) = watch.take() {
                    let _ = detach.send(());
                }
                // Ending this direction would end the process's standard input.
                return std::future::pending().await;
            }
        }
    }
    let _ = input.shutdown().await;
}

/// Reads standard input in a thread of its own: a blocked read must not keep us from ending.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        let mut stdin = std::io::stdin().lock();
        // A terminal that hung up is an end like any other.
        while let Ok(length @ 1..) = stdin.read(&mut buffer) {
            if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Writes a stream from the daemon to our standard output and standard error.
///
/// Errors: a refusal with what the daemon put into the stream, or a stream that is cut short.
pub async fn show(mut stream: impl AsyncRead + Unpin, tty: bool) -> Result<()> {
    let mut outlets = Outlets::default();
    let mut demux = Demux::default();
    let mut buffer = vec![0; PIECE];
    loop {
        let length = match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) => return Err(crate::client::broken_off(error)),
        };
        let bytes = &buffer[..length];
        if tty {
            outlets.write(Channel::Stdout, bytes).await?;
            continue;
        }
        let mut pieces = Vec::new();
        demux
            .feed(bytes, |channel, piece| pieces.push((channel, piece.to_vec())))
            .map_err(crate::client::broken_off)?;
        for (channel, piece) in pieces {
            outlets.write(channel, &piece).await?;
        }
    }
    if !demux.is_between_frames() {
        return Err(crate::client::broken_off(std::io::Error::from(
            std::io::ErrorKind::UnexpectedEof,
        )));
    }
    outlets.verdict()
}

struct Outlets {
    stdout: tokio::io::Stdout,
    stderr: tokio::io::Stderr,
    complaint: Vec<u8>,
}

impl Default for Outlets {
    fn default() -> Self {
        Self { stdout: tokio::io::stdout(), stderr: tokio::io::stderr(), complaint: Vec::new() }
    }
}

impl Outlets {
    async fn write(&mut self, channel: Channel, bytes: &[u8]) -> Result<()> {
        let written = match channel {
            Channel::Stdout => write_out(&mut self.stdout, bytes).await,
            Channel::Stderr => write_out(&mut self.stderr, bytes).await,
            Channel::System => {
                let room = MAX_COMPLAINT.saturating_sub(self.complaint.len());
                self.complaint.extend(&bytes[..bytes.len().min(room)]);
                Ok(())
            }
        };
        written.map_err(Error::output)
    }

    fn verdict(self) -> Result<()> {
        match self.complaint.is_empty() {
            true => Ok(()),
            false => {
                let text = String::from_utf8_lossy(&self.complaint);
                Err(Error::new(ErrorKind::Refused(500), crate::table::printable(text.trim_end())))
            }
        }
    }
}

async fn write_out(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// Whose terminal is resized.
pub enum Resized {
    /// A container's, by id.
    Container(String),
    /// An exec's, by id.
    Exec(String),
}

/// Keeps a remote terminal as large as ours; never ends. Without a terminal it does nothing.
pub async fn follow_size(client: Client, whose: Resized) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    if !std::io::stdout().is_terminal() && !std::io::stdin().is_terminal() {
        return;
    }
    let (noun, id) = match &whose {
        Resized::Container(id) => ("containers", id),
        Resized::Exec(id) => ("exec", id),
    };
    // The process may not be there quite yet.
    for attempt in 0..10 {
        let Some(size) = terminal::size() else { break };
        if resize(&client, noun, id, size).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10 * (attempt + 1))).await;
    }
    while changes.recv().await.is_some() {
        if let Some(size) = terminal::size() {
            // A size that did not arrive is corrected by the next one.
            let _ = resize(&client, noun, id, size).await;
        }
    }
}

async fn resize(client: &Client, noun: &str, id: &str, size: Size) -> Result<()> {
    let target = Target::docker([noun, id, "resize"])
        .with("h", size.rows.to_string())
        .with("w", size.columns.to_string());
    client.tell(&target).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, payload.len() as u8];
        bytes.extend(payload);
        bytes
    }

    #[tokio::test]
    async fn what_the_daemon_says_about_a_stream_becomes_the_error() {
        let error = show(&frame(3, b"the VM is gone\n")[..], false).await.unwrap_err();
        assert_eq!(error.to_string(), "the VM is gone");
    }

    #[tokio::test]
    async fn a_stream_cut_inside_a_frame_is_an_error() {
        let error = show(&frame(2, b"")[..7], false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
    }

    #[tokio::test]
    async fn without_standard_input_the_process_sees_its_end_at_once() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let feeding = tokio::spawn(feed(ours, false, None));
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await.unwrap();
        assert!(all.is_empty());
        feeding.abort();
    }
}
