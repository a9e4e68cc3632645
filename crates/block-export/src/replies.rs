//! What goes back to the client. Each reply, or chunk of one, is written whole; those of different
//! requests may alternate.
//!
//! ```text
//!   simple   magic error cookie [data]
//!   chunk    magic flags type cookie length  payload        DONE on a reply's last
//! ```
//! Source: "Simple reply message", "Structured reply chunk message".

use crate::wire::{CHUNK, Errno, MAX_STRING, SIMPLE_REPLY, allocation, chunk};
use parking_lot::Mutex;
use std::io::{self, Write};

/// Bytes of a chunk's header and of the offset that data is preceded by; a simple reply's header
/// fits into them.
pub const DATA_ROOM: usize = 28;

const SIMPLE_HEADER: usize = 16;

/// The way back to one client.
pub struct Replies<W> {
    stream: Mutex<W>,
}

/// Whether more chunks of a reply follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Middle,
    Last,
}

/// A failure as the client is told.
#[derive(Debug)]
pub struct Refusal {
    pub errno: Errno,
    pub message: String,
}

impl Refusal {
    pub fn new(errno: Errno, message: impl Into<String>) -> Self {
        Self { errno, message: message.into() }
    }
}

/// Room for a request's data, with its reply's header in front so that both are written at once.
pub struct DataBuffer {
    bytes: Vec<u8>,
    /// Bytes of data; there may be room for more.
    length: usize,
}

/// Room for data that is kept from one request to the next, in bytes.
const KEPT_ROOM: usize = 1 << 20;

impl DataBuffer {
    pub fn new() -> Self {
        Self { bytes: vec![0; DATA_ROOM], length: 0 }
    }

    /// Makes room for `length` bytes of data; what it holds is undefined.
    pub fn make_room(&mut self, length: usize) -> &mut [u8] {
        let room = self.bytes.len() - DATA_ROOM;
        if room < length || room > length.max(KEPT_ROOM) {
            // Zeros that the system gives cost less than zeros that are filled in.
            self.bytes = Vec::new();
            self.bytes = vec![0; DATA_ROOM + length];
        }
        self.length = length;
        &mut self.bytes[DATA_ROOM..][..length]
    }

    pub fn data(&self) -> &[u8] {
        &self.bytes[DATA_ROOM..][..self.length]
    }

    /// A header before the data, and the data.
    fn with_header(&mut self, header: &[&[u8]]) -> &[u8] {
        let mut start = DATA_ROOM;
        for part in header.iter().rev() {
            start -= part.len();
            self.bytes[start..start + part.len()].copy_from_slice(part);
        }
        &self.bytes[start..DATA_ROOM + self.length]
    }
}

impl<W: Write> Replies<W> {
    pub fn new(stream: W) -> Self {
        Self { stream: Mutex::new(stream) }
    }

    /// Answers a request other than a structured read or block status.
    pub fn simple(&self, cookie: u64, result: Result<(), Errno>) -> io::Result<()> {
        self.write(&simple_header(cookie, result))
    }

    /// Answers a read with all of `buffer`'s data.
    pub fn simple_data(&self, cookie: u64, buffer: &mut DataBuffer) -> io::Result<()> {
        self.write(buffer.with_header(&[&simple_header(cookie, Ok(()))]))
    }

    /// Sends `buffer`'s data, which lies at `offset` of the disk.
    pub fn data(
        &self,
        cookie: u64,
        part: Part,
        offset: u64,
        buffer: &mut DataBuffer,
    ) -> io::Result<()> {
        let header = chunk_header(cookie, part, chunk::OFFSET_DATA, 8 + buffer.length);
        self.write(buffer.with_header(&[&header, &offset.to_be_bytes()]))
    }

    /// Tells that `length` bytes at `offset` of the disk are zeros.
    pub fn hole(&self, cookie: u64, part: Part, offset: u64, length: u32) -> io::Result<()> {
        let payload = [&offset.to_be_bytes()[..], &length.to_be_bytes()].concat();
        self.chunk(cookie, part, chunk::OFFSET_HOLE, &payload)
    }

    /// Ends a structured reply that has nothing to say.
    pub fn nothing(&self, cookie: u64) -> io::Result<()> {
        self.chunk(cookie, Part::Last, chunk::NONE, &[])
    }

    /// Answers a block status with the lengths and states of neighbouring extents.
    pub fn block_status(&self, cookie: u64, extents: &[(u32, u32)]) -> io::Result<()> {
        let mut payload = allocation::ID.to_be_bytes().to_vec();
        for (length, state) in extents {
            payload.extend(length.to_be_bytes());
            payload.extend(state.to_be_bytes());
        }
        self.chunk(cookie, Part::Last, chunk::BLOCK_STATUS, &payload)
    }

    /// Ends a structured reply with a failure.
    pub fn failure(&self, cookie: u64, refusal: &Refusal) -> io::Result<()> {
        let message = &refusal.message[..refusal.message.floor_char_boundary(MAX_STRING)];
        let mut payload = (refusal.errno as u32).to_be_bytes().to_vec();
        payload.extend((message.len() as u16).to_be_bytes());
        payload.extend(message.as_bytes());
        self.chunk(cookie, Part::Last, chunk::ERROR, &payload)
    }

    fn chunk(&self, cookie: u64, part: Part, kind: u16, payload: &[u8]) -> io::Result<()> {
        let header = chunk_header(cookie, part, kind, payload.len());
        self.write(&[&header, payload].concat())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.stream.lock().write_all(bytes)
    }
}

fn simple_header(cookie: u64, result: Result<(), Errno>) -> [u8; SIMPLE_HEADER] {
    let error = result.err().map_or(0, |errno| errno as u32);
    let mut header = [0; SIMPLE_HEADER];
    header[..4].copy_from_slice(&SIMPLE_REPLY.to_be_bytes());
    header[4..8].copy_from_slice(&error.to_be_bytes());
    header[8..].copy_from_slice(&cookie.to_be_bytes());
    header
}

/// `length` is at most [`crate::wire::MAX_PAYLOAD`] and an offset.
fn chunk_header(cookie: u64, part: Part, kind: u16, length: usize) -> [u8; DATA_ROOM - 8] {
    let flags = if part == Part::Last { chunk::DONE } else { 0 };
    let mut header = [0; DATA_ROOM - 8];
    header[..4].copy_from_slice(&CHUNK.to_be_bytes());
    header[4..6].copy_from_slice(&flags.to_be_bytes());
    header[6..8].copy_from_slice(&kind.to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..].copy_from_slice(&(length as u32).to_be_bytes());
    header
}
