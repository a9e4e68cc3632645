//! One framed connection with credited streams: to the guest agent, or to the engine.
//!
//! A sender may have [`WINDOW`] bytes of a stream under way; the receiver gives credit back as
//! its consumer takes them. So a stalled stream holds up neither the others nor the messages, and
//! memory is bounded by the number of open streams. A peer that sends more than it may breaks the
//! link: both peers are untrusted.

use ireko_protocol::frame::{Frame, FrameDecoder, FrameKind, MAX_DATA, WINDOW};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// How long one frame may take to be written. Credit bounds what is under way, so a peer that
/// takes longer has stopped reading altogether.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// One end of a framed connection. Sends from any thread; one thread runs [`Link::read_frames`].
pub struct Link {
    writer: Mutex<UnixStream>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    broken: bool,
    credit: HashMap<u32, u32>,
    inbound: HashMap<u32, Inbound>,
}

#[derive(Default)]
struct Inbound {
    chunks: VecDeque<Vec<u8>>,
    queued: u32,
    ended: bool,
}

impl Link {
    /// Takes over a connected socket.
    pub fn new(socket: UnixStream) -> io::Result<Arc<Self>> {
        socket.set_write_timeout(Some(WRITE_LIMIT))?;
        Ok(Arc::new(Self {
            writer: Mutex::new(socket),
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// Sends a JSON message.
    pub fn send_message<T: serde::Serialize>(&self, message: &T) -> io::Result<()> {
        self.write(&Frame::message(message).map_err(io::Error::other)?)
    }

    /// Sends bytes on a stream, waiting for credit as long as the link lives.
    pub fn send(&self, stream: u32, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let granted = self.take_credit(stream, data.len().min(MAX_DATA))?;
            let (now, later) = data.split_at(granted);
            self.write(&Frame::data(stream, now.to_vec()))?;
            data = later;
        }
        Ok(())
    }

    /// Says that no more bytes come on a stream.
    pub fn send_eof(&self, stream: u32) -> io::Result<()> {
        self.state.lock().credit.remove(&stream);
        self.write(&Frame::eof(stream))
    }

    /// Begins to accept data on a stream. To be called before the peer may send on it.
    pub fn open_stream(self: &Arc<Self>, stream: u32) -> InboundStream {
        self.state.lock().inbound.insert(stream, Inbound::default());
        InboundStream { link: Arc::clone(self), stream, unacknowledged: 0 }
    }

    /// Ends a stream that was opened here: whoever reads it is at its end, and what still comes is dropped.
    pub fn close_stream(&self, stream: u32) {
        self.state.lock().inbound.remove(&stream);
        self.changed.notify_all();
    }

    /// Closes both directions; every waiting call fails or ends.
    pub fn close(&self) {
        self.break_off();
        // The socket may already be gone; then there is nothing to shut down.
        let _ = self.writer.lock().shutdown(Shutdown::Both);
    }

    /// Reads frames until the peer closes or breaks a rule, giving messages to `on_message`.
    ///
    /// `reader` is a clone of the socket the link was made from. Returns the broken rule, if any.
    pub fn read_frames(
        &self,
        mut reader: UnixStream,
        mut on_message: impl FnMut(Frame) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut decoder = FrameDecoder::default();
        let mut buffer = vec![0; MAX_DATA];
        let result = loop {
            match reader.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(count) => decoder.feed(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(error),
            }
            if let Err(error) = self.take_frames(&mut decoder, &mut on_message) {
                break Err(error);
            }
        };
        self.break_off();
        result
    }

    fn take_frames(
        &self,
        decoder: &mut FrameDecoder,
        on_message: &mut impl FnMut(Frame) -> io::Result<()>,
    ) -> io::Result<()> {
        while let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
            match frame.kind {
                FrameKind::Message => on_message(frame)?,
                FrameKind::Data => self.queue(frame.stream, frame.payload)?,
                FrameKind::Eof => {
                    if let Some(inbound) = self.state.lock().inbound.get_mut(&frame.stream) {
                        inbound.ended = true;
                    }
                    self.changed.notify_all();
                }
                FrameKind::Credit => {
                    let bytes = frame.credit_bytes().ok_or_else(|| broken("malformed credit"))?;
                    // Only for what was sent: a peer cannot make us remember streams of its own.
                    if let Some(credit) = self.state.lock().credit.get_mut(&frame.stream) {
                        *credit = credit.saturating_add(bytes).min(WINDOW);
                    }
                    self.changed.notify_all();
                }
            }
        }
        Ok(())
    }

    fn queue(&self, stream: u32, bytes: Vec<u8>) -> io::Result<()> {
        // Costs no credit, so it must cost no memory.
        if bytes.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        // A stream nobody opened, or whose reader went away: the bytes have no taker.
        let Some(inbound) = state.inbound.get_mut(&stream) else { return Ok(()) };
        inbound.queued = inbound.queued.saturating_add(bytes.len() as u32);
        if inbound.queued > WINDOW {
            return Err(broken("peer sent more than its credit"));
        }
        inbound.chunks.push_back(bytes);
        self.changed.notify_all();
        Ok(())
    }

    fn take_credit(&self, stream: u32, wanted: usize) -> io::Result<usize> {
        let mut state = self.state.lock();
        loop {
            if state.broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let credit = state.credit.entry(stream).or_insert(WINDOW);
            let granted = wanted.min(*credit as usize);
            if granted > 0 {
                *credit -= granted as u32;
                return Ok(granted);
            }
            self.changed.wait(&mut state);
        }
    }

    fn write(&self, frame: &Frame) -> io::Result<()> {
        let mut writer = self.writer.lock();
        let result = writer.write_all(&frame.encode());
        if result.is_err() {
            // A frame may be half written: nothing after it could be understood.
            let _ = writer.shutdown(Shutdown::Both);
            self.break_off();
        }
        result
    }

    fn break_off(&self) {
        self.state.lock().broken = true;
        self.changed.notify_all();
    }
}

/// The receiving end of one stream. Credit for a chunk is given when the next one is asked for,
/// so what the consumer has not finished with stays counted.
pub struct InboundStream {
    link: Arc<Link>,
    stream: u32,
    unacknowledged: u32,
}

impl InboundStream {
    /// Waits for the next bytes; `None` at the stream's end or when the link is gone.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        if self.unacknowledged > 0 {
            let bytes = std::mem::take(&mut self.unacknowledged);
            // A broken link is noticed below; what is already queued is still delivered.
            let _ = self.link.write(&Frame::credit(self.stream, bytes));
        }
        let mut state = self.link.state.lock();
        loop {
            let broken = state.broken;
            let inbound = state.inbound.get_mut(&self.stream)?;
            if let Some(chunk) = inbound.chunks.pop_front() {
                inbound.queued -= chunk.len() as u32;
                self.unacknowledged = chunk.len() as u32;
                return Some(chunk);
            }
            if inbound.ended || broken {
                return None;
            }
            self.link.changed.wait(&mut state);
        }
    }
}

impl InboundStream {
    /// Whether the peer said that no more bytes come; else the link broke off.
    pub fn has_ended(&self) -> bool {
        self.link.state.lock().inbound.get(&self.stream).is_some_and(|inbound| inbound.ended)
    }
}

impl Drop for InboundStream {
    fn drop(&mut self) {
        self.link.state.lock().inbound.remove(&self.stream);
    }
}

fn broken(rule: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, rule.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn pair() -> (Arc<Link>, Arc<Link>) {
        let (left, right) = UnixStream::pair().unwrap();
        let ends = [left, right].map(|socket| {
            let reader = socket.try_clone().unwrap();
            let link = Link::new(socket).unwrap();
            let reading = Arc::clone(&link);
            thread::spawn(move || reading.read_frames(reader, |_| Ok(())));
            link
        });
        let [left, right] = ends;
        (left, right)
    }

    #[test]
    fn a_stalled_stream_does_not_hold_up_another() {
        let (sender, receiver) = pair();
        let stalled = receiver.open_stream(5);
        let mut lively = receiver.open_stream(9);
        let blocked = Arc::clone(&sender);
        let flood = thread::spawn(move || blocked.send(5, &vec![0; WINDOW as usize + 1]));
        sender.send(9, b"hello").unwrap();
        sender.send_eof(9).unwrap();
        assert_eq!(lively.next().as_deref(), Some(&b"hello"[..]));
        assert_eq!(lively.next(), None);
        assert!(!flood.is_finished());
        drop(stalled);
        receiver.close();
        assert!(flood.join().unwrap().is_err());
    }

    #[test]
    fn credit_lets_more_than_a_window_through() {
        let (sender, receiver) = pair();
        let mut stream = receiver.open_stream(6);
        let total = WINDOW as usize * 5 + 3;
        let sending = thread::spawn(move || {
            sender.send(6, &vec![7; total]).unwrap();
            sender.send_eof(6).unwrap();
            sender
        });
        let mut seen = 0;
        while let Some(chunk) = stream.next() {
            seen += chunk.len();
        }
        assert_eq!(seen, total);
        sending.join().unwrap().close();
    }

    #[test]
    fn frames_that_cost_no_credit_cost_no_memory() {
        let (left, mut rude) = UnixStream::pair().unwrap();
        let reader = left.try_clone().unwrap();
        let link = Link::new(left).unwrap();
        let _stream = link.open_stream(4);
        for stream in 100..200 {
            rude.write_all(&Frame::credit(stream, 1).encode()).unwrap();
            rude.write_all(&Frame::data(4, Vec::new()).encode()).unwrap();
        }
        drop(rude);
        link.read_frames(reader, |_| Ok(())).unwrap();
        let state = link.state.lock();
        assert!(state.credit.is_empty());
        assert!(state.inbound[&4].chunks.is_empty());
    }

    #[test]
    fn a_peer_that_ignores_its_credit_breaks_the_link() {
        let (left, right) = UnixStream::pair().unwrap();
        let reader = left.try_clone().unwrap();
        let link = Link::new(left).unwrap();
        let _stream = link.open_stream(4);
        let reading = thread::spawn(move || link.read_frames(reader, |_| Ok(())));
        let mut rude = right;
        for _ in 0..=(WINDOW as usize / MAX_DATA) {
            if rude.write_all(&Frame::data(4, vec![0; MAX_DATA]).encode()).is_err() {
                break;
            }
        }
        assert!(reading.join().unwrap().is_err());
    }
}
