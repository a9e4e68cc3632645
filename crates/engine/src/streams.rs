//! The standard streams of a process in a VM, on their way between a client and its shim.
//!
//! ```text
//!   client           engine                                shim
//!   InputWriter  ──► bounded queue ──► Data on STDIN ────►         waits for Credit
//!   OutputReader ◄── queue ◄────────── Data on STDOUT/STDERR ◄──   at most a window ahead
//!                └────── what was taken ──► Credit ──────►
//! ```
//!
//! A client's ends are made before there is a VM ([`pair`]); [`Pump::run`] joins them to a
//! connection. So a client can attach first and lose nothing.

use crate::shim_client::Connection;
use bytes::Bytes;
use ireko_protocol::frame::{Frame, FrameDecoder, FrameKind, MAX_DATA, WINDOW};
use ireko_protocol::shim::{Answer, STDERR, STDIN, STDOUT};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, Semaphore, mpsc};

/// Time for a client to take what its process wrote last.
const FAREWELL: Duration = Duration::from_secs(10);

/// One of the two streams a process writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output, or a terminal's.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Bytes that a process wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Where to.
    pub stream: OutputStream,
    /// What.
    pub bytes: Bytes,
}

/// A client's end: what the process reads. Dropping it ends the process's stdin.
#[derive(Debug)]
pub struct InputWriter(mpsc::Sender<Bytes>);

/// A client's end: what the process writes.
#[derive(Debug)]
pub struct OutputReader {
    pieces: mpsc::UnboundedReceiver<Output>,
    taken: mpsc::UnboundedSender<(OutputStream, u32)>,
    last: Option<(OutputStream, u32)>,
}

/// Both of a client's ends.
#[derive(Debug)]
pub struct Streams {
    /// To the process.
    pub input: InputWriter,
    /// From the process.
    pub output: OutputReader,
}

impl Streams {
    /// Streams of a process that has ended.
    pub fn ended() -> Self {
        pair().0
    }
}

impl InputWriter {
    /// Hands bytes on; waits while the process does not read. `false` where nobody ever will.
    pub async fn write(&mut self, bytes: Bytes) -> bool {
        self.0.send(bytes).await.is_ok()
    }
}

impl OutputReader {
    /// The next bytes; `None` when the process has closed its streams.
    ///
    /// Whoever asks for more has passed on what it got before: only then that counts as taken.
    pub async fn next(&mut self) -> Option<Output> {
        if let Some(last) = self.last.take() {
            // The pump may have ended already; then nobody counts any more.
            let _ = self.taken.send(last);
        }
        let piece = self.pieces.recv().await?;
        self.last = Some((piece.stream, piece.bytes.len() as u32));
        Some(piece)
    }
}

/// The engine's ends.
#[derive(Debug)]
pub(crate) struct Pump {
    input: mpsc::Receiver<Bytes>,
    pieces: mpsc::UnboundedSender<Output>,
    taken: mpsc::UnboundedReceiver<(OutputStream, u32)>,
}

/// Makes a client's ends and those that lead on.
pub(crate) fn pair() -> (Streams, Pump) {
    let (input_in, input_out) = mpsc::channel(4);
    let (pieces_in, pieces_out) = mpsc::unbounded_channel();
    let (taken_in, taken_out) = mpsc::unbounded_channel();
    let client = Streams {
        input: InputWriter(input_in),
        output: OutputReader { pieces: pieces_out, taken: taken_in, last: None },
    };
    (client, Pump { input: input_out, pieces: pieces_in, taken: taken_out })
}

impl Pump {
    /// The client is gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.pieces.is_closed()
    }

    /// Moves bytes until the shim closes the connection and the client has passed on all of them,
    /// or the client goes; returns the shim's last message where there was one. The client sees the end of its output only when the
    /// caller drops what is returned beside it, so that an exit status can be stored before.
    pub(crate) async fn run(self, connection: Connection) -> (Option<Answer>, OutputEnd) {
        let Self { input, pieces, mut taken } = self;
        let (half, write_half) = connection.stream.into_split();
        let writer = Mutex::new(write_half);
        let flow = Flow { window: Semaphore::new(WINDOW as usize), ahead: Default::default() };
        let mut reader = Reader { half, decoder: connection.decoder, last: None };
        let is_whole = tokio::select! {
            is_whole = reader.run(&pieces, &flow) => is_whole,
            () = pieces.closed() => false,
            () = send_credit(&mut taken, &writer, &flow) => false,
            () = send_input(input, &writer, &flow) => false,
        };
        let passed_on = async {
            while flow.is_ahead()
                && let Some((stream, bytes)) = taken.recv().await
            {
                flow.take(stream, bytes);
            }
        };
        if is_whole && tokio::time::timeout(FAREWELL, passed_on).await.is_err() {
            tracing::debug!("a client does not take the last output of its process");
        }
        (reader.last, OutputEnd { _pieces: pieces })
    }
}

/// Keeps a client's output open; its drop is the end of the stream.
#[derive(Debug)]
pub(crate) struct OutputEnd {
    _pieces: mpsc::UnboundedSender<Output>,
}

/// What may be in flight.
struct Flow {
    /// Bytes of stdin that the shim still takes.
    window: Semaphore,
    /// Bytes of stdout and stderr that the client has not taken yet.
    ahead: [AtomicU32; 2],
}

struct Reader {
    half: OwnedReadHalf,
    decoder: FrameDecoder,
    last: Option<Answer>,
}

impl Reader {
    /// Ends with the connection; `false` where the shim broke the rules, which is as good as gone.
    async fn run(&mut self, pieces: &mpsc::UnboundedSender<Output>, flow: &Flow) -> bool {
        let result = self.read(pieces, flow).await;
        if let Err(reason) = &result {
            tracing::warn!(reason, "the streams of a VM's shim broke off");
        }
        result.is_ok()
    }

    async fn read(
        &mut self,
        pieces: &mpsc::UnboundedSender<Output>,
        flow: &Flow,
    ) -> Result<(), String> {
        let mut buffer = vec![0; MAX_DATA];
        loop {
            while let Some(frame) = self.decoder.next_frame().map_err(|e| e.to_string())? {
                self.take(frame, pieces, flow)?;
            }
            match self.half.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(count) => self.decoder.feed(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn take(
        &mut self,
        frame: Frame,
        pieces: &mpsc::UnboundedSender<Output>,
        flow: &Flow,
    ) -> Result<(), String> {
        match (frame.kind, frame.stream) {
            (FrameKind::Data, STDOUT) => flow.receive(OutputStream::Stdout, frame, pieces),
            (FrameKind::Data, STDERR) => flow.receive(OutputStream::Stderr, frame, pieces),
            (FrameKind::Eof, _) => Ok(()),
            (FrameKind::Credit, STDIN) => flow.grant(frame.credit_bytes()),
            (FrameKind::Message, _) => match frame.parse::<Answer>().map_err(|e| e.to_string())? {
                last @ (Answer::Exited { .. } | Answer::Files(_) | Answer::Failed { .. }) => {
                    self.last = Some(last);
                    Ok(())
                }
                other => Err(format!("{other:?} among streams")),
            },
            (kind, stream) => Err(format!("{kind:?} on stream {stream}")),
        }
    }
}

impl Flow {
    fn receive(
        &self,
        stream: OutputStream,
        frame: Frame,
        pieces: &mpsc::UnboundedSender<Output>,
    ) -> Result<(), String> {
        let length = frame.payload.len() as u32;
        let before = self.ahead[stream as usize].fetch_add(length, Ordering::Relaxed);
        if before.saturating_add(length) > WINDOW {
            return Err(format!("{stream:?} ran over its window"));
        }
        // A client that is gone is noticed by `run`.
        let _ = pieces.send(Output { stream, bytes: frame.payload.into() });
        Ok(())
    }

    fn take(&self, stream: OutputStream, bytes: u32) {
        self.ahead[stream as usize].fetch_sub(bytes, Ordering::Relaxed);
    }

    /// There is output that the client has not passed on.
    fn is_ahead(&self) -> bool {
        self.ahead.iter().any(|bytes| bytes.load(Ordering::Relaxed) > 0)
    }

    fn grant(&self, bytes: Option<u32>) -> Result<(), String> {
        let bytes = bytes.ok_or("a credit without a count")? as usize;
        if self.window.available_permits() + bytes > WINDOW as usize {
            return Err("stdin was credited beyond its window".into());
        }
        self.window.add_permits(bytes);
        Ok(())
    }
}

/// Gives back what the client took. Never ends: where the shim no longer reads, what it wrote is
/// still to be read.
async fn send_credit(
    taken: &mut mpsc::UnboundedReceiver<(OutputStream, u32)>,
    writer: &Mutex<OwnedWriteHalf>,
    flow: &Flow,
) {
    while let Some((stream, bytes)) = taken.recv().await {
        flow.take(stream, bytes);
        let number = match stream {
            OutputStream::Stdout => STDOUT,
            OutputStream::Stderr => STDERR,
        };
        let frame = Frame::credit(number, bytes).encode();
        if writer.lock().await.write_all(&frame).await.is_err() {
            break;
        }
    }
    std::future::pending().await
}

/// Hands on what the client writes, then its end. Never ends, as [`send_credit`].
async fn send_input(mut input: mpsc::Receiver<Bytes>, writer: &Mutex<OwnedWriteHalf>, flow: &Flow) {
    let mut open = true;
    while open {
        let piece = input.recv().await;
        open = match piece {
            Some(bytes) => send_piece(&bytes, writer, &flow.window).await.is_ok(),
            None => {
                let _ = writer.lock().await.write_all(&Frame::eof(STDIN).encode()).await;
                false
            }
        };
    }
    drop(input);
    std::future::pending().await
}

async fn send_piece(
    bytes: &Bytes,
    writer: &Mutex<OwnedWriteHalf>,
    window: &Semaphore,
) -> std::io::Result<()> {
    for chunk in bytes.chunks(MAX_DATA) {
        match window.acquire_many(chunk.len() as u32).await {
            Ok(permits) => permits.forget(),
            Err(_) => return Err(std::io::ErrorKind::BrokenPipe.into()),
        }
        let frame = Frame::data(STDIN, chunk.to_vec()).encode();
        writer.lock().await.write_all(&frame).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim_client::tests::{FakeShim, say};
    use crate::shim_client::{Connection, QUICK};
    use ireko_protocol::agent::ExitStatus;
    use ireko_protocol::shim::Request;

    const ATTACH: Request =
        Request::Attach { stdin: true, stdin_once: true, stdout: true, stderr: true };

    async fn next_frame(connection: &mut Connection) -> Frame {
        loop {
            if let Some(frame) = connection.decoder.next_frame().unwrap() {
                return frame;
            }
            let mut buffer = vec![0; MAX_DATA];
            let count = connection.stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "the engine closed the connection");
            connection.decoder.feed(&buffer[..count]);
        }
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_exit_comes_before_the_end() {
        let shim = FakeShim::new();
        let socket = shim.socket.clone();
        let script = tokio::spawn(async move {
            let (_, mut stream) = shim.accept().await;
            say(&mut stream, Frame::message(&Answer::Attached).unwrap()).await;
            let mut connection = Connection { stream, decoder: FrameDecoder::default() };
            assert_eq!(next_frame(&mut connection).await, Frame::data(STDIN, b"in".to_vec()));
            assert_eq!(next_frame(&mut connection).await, Frame::eof(STDIN));
            say(&mut connection.stream, Frame::data(STDOUT, b"out".to_vec())).await;
            assert_eq!(next_frame(&mut connection).await, Frame::credit(STDOUT, 3));
            say(&mut connection.stream, Frame::data(STDERR, b"err".to_vec())).await;
            let exited = Answer::Exited { status: ExitStatus::Code(3) };
            say(&mut connection.stream, Frame::message(&exited).unwrap()).await;
        });
        let (client, pump) = pair();
        let Streams { mut input, mut output } = client;
        assert!(input.write(Bytes::from_static(b"in")).await);
        drop(input);
        let (_, connection) = socket.open(ATTACH, QUICK).await.unwrap();
        let pump = tokio::spawn(pump.run(connection));
        let out = output.next().await.unwrap();
        assert_eq!((out.stream, &out.bytes[..]), (OutputStream::Stdout, &b"out"[..]));
        let err = output.next().await.unwrap();
        assert_eq!((err.stream, &err.bytes[..]), (OutputStream::Stderr, &b"err"[..]));
        let rest = tokio::spawn(async move { output.next().await });
        let (exit, end) = pump.await.unwrap();
        assert_eq!(exit, Some(Answer::Exited { status: ExitStatus::Code(3) }));
        assert!(!rest.is_finished(), "the exit is known before the client sees the end");
        drop(end);
        assert_eq!(rest.await.unwrap(), None);
        script.await.unwrap();
    }

    #[tokio::test]
    async fn stdin_waits_for_credit_and_a_window_overrun_ends_the_streams() {
        let shim = FakeShim::new();
        let socket = shim.socket.clone();
        let (seen_in, mut seen_out) = mpsc::unbounded_channel();
        let script = tokio::spawn(async move {
            let (_, mut stream) = shim.accept().await;
            say(&mut stream, Frame::message(&Answer::Attached).unwrap()).await;
            let mut connection = Connection { stream, decoder: FrameDecoder::default() };
            let mut seen = 0;
            while seen < WINDOW as usize {
                seen += next_frame(&mut connection).await.payload.len();
            }
            seen_in.send(seen).unwrap();
            say(&mut connection.stream, Frame::credit(STDIN, MAX_DATA as u32)).await;
            seen_in.send(next_frame(&mut connection).await.payload.len()).unwrap();
            for _ in 0..=(WINDOW as usize / MAX_DATA) {
                say(&mut connection.stream, Frame::data(STDOUT, vec![0; MAX_DATA])).await;
            }
            connection
        });
        let (Streams { mut input, output }, pump) = pair();
        let (_, connection) = socket.open(ATTACH, QUICK).await.unwrap();
        let pump = tokio::spawn(pump.run(connection));
        let big = Bytes::from(vec![0; WINDOW as usize + MAX_DATA]);
        assert!(input.write(big).await);
        assert_eq!(seen_out.recv().await, Some(WINDOW as usize));
        assert_eq!(seen_out.recv().await, Some(MAX_DATA));
        let (exit, _end) = pump.await.unwrap();
        assert_eq!(exit, None);
        drop((script.await.unwrap(), output, input));
    }
}
