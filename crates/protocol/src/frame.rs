//! How a byte stream is cut into frames, on the agent's port and on the shim's socket.
//!
//! ```text
//!   ┌──────────────┬──────────────┬──────┬─────────┬───────────────┐
//!   │ length: u32  │ stream: u32  │ kind │ 0, 0, 0 │ payload       │
//!   └──────────────┴──────────────┴──────┴─────────┴───────────────┘
//!     little-endian; `length` counts the payload only
//! ```
//!
//! Both ends are untrusted to the other: lengths are bounded before anything is allocated.

/// Bytes in front of every payload.
pub const HEADER_LEN: usize = 12;
/// The largest payload of a [`FrameKind::Data`] frame.
pub const MAX_DATA: usize = 64 * 1024;
/// The largest payload of a [`FrameKind::Message`] frame.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// How many bytes a sender may have in flight on one stream before it waits for [`FrameKind::Credit`].
pub const WINDOW: u32 = 256 * 1024;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A JSON message; its stream is 0.
    Message = 1,
    /// Bytes of the stream.
    Data = 2,
    /// The stream ends here; no more `Data` follows on it. Empty payload.
    Eof = 3,
    /// The receiver of the stream consumed bytes: payload is their count, a little-endian u32.
    Credit = 4,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Message,
            2 => Self::Data,
            3 => Self::Eof,
            4 => Self::Credit,
            _ => return None,
        })
    }
}

/// One frame, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which stream it belongs to; 0 for messages.
    pub stream: u32,
    /// What it carries.
    pub kind: FrameKind,
    /// Its bytes; bounded by [`MAX_DATA`] or [`MAX_MESSAGE`].
    pub payload: Vec<u8>,
}

impl Frame {
    /// A JSON message.
    ///
    /// Errors where the value cannot be written as JSON or is larger than [`MAX_MESSAGE`].
    pub fn message<T: serde::Serialize>(value: &T) -> Result<Self, FrameError> {
        let payload = serde_json::to_vec(value).map_err(FrameError::Json)?;
        if payload.len() > MAX_MESSAGE {
            return Err(FrameError::TooLong { kind: FrameKind::Message, length: payload.len() });
        }
        Ok(Self { stream: 0, kind: FrameKind::Message, payload })
    }

    /// Bytes of a stream; at most [`MAX_DATA`] of them, the caller cuts longer ones.
    pub fn data(stream: u32, payload: Vec<u8>) -> Self {
        debug_assert!(payload.len() <= MAX_DATA);
        Self { stream, kind: FrameKind::Data, payload }
    }

    /// The end of a stream.
    pub fn eof(stream: u32) -> Self {
        Self { stream, kind: FrameKind::Eof, payload: Vec::new() }
    }

    /// Permission to send `bytes` more on a stream.
    pub fn credit(stream: u32, bytes: u32) -> Self {
        Self { stream, kind: FrameKind::Credit, payload: bytes.to_le_bytes().to_vec() }
    }

    /// Reads the payload as a JSON message.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, FrameError> {
        serde_json::from_slice(&self.payload).map_err(FrameError::Json)
    }

    /// The byte count of a [`FrameKind::Credit`] frame; `None` for any other shape.
    pub fn credit_bytes(&self) -> Option<u32> {
        match self.kind {
            FrameKind::Credit => Some(u32::from_le_bytes(self.payload.as_slice().try_into().ok()?)),
            _ => None,
        }
    }

    /// The frame as it goes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.payload.len());
        bytes.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.stream.to_le_bytes());
        bytes.extend_from_slice(&[self.kind as u8, 0, 0, 0]);
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// Cuts a byte stream into frames; feed it what was read, take frames out until it has none.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    start: usize,
}

impl FrameDecoder {
    /// Appends bytes as they came from the channel.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole frame; `None` until more bytes are fed.
    ///
    /// An error is final: the stream's cut is lost and the channel must be closed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let bytes = &self.buffer[self.start..];
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
        let (length, stream) = (word(0) as usize, word(4));
        let kind = FrameKind::from_byte(header[8]).ok_or(FrameError::UnknownKind(header[8]))?;
        let limit = match kind {
            FrameKind::Message => MAX_MESSAGE,
            FrameKind::Data => MAX_DATA,
            FrameKind::Eof => 0,
            FrameKind::Credit => 4,
        };
        if length > limit {
            return Err(FrameError::TooLong { kind, length });
        }
        let Some(payload) = bytes.get(HEADER_LEN..HEADER_LEN + length) else { return Ok(None) };
        let frame = Frame { stream, kind, payload: payload.to_vec() };
        self.start += HEADER_LEN + length;
        Ok(Some(frame))
    }
}

/// A frame that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The kind byte is none of ours.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// The length is over the kind's bound.
    #[error("a {kind:?} frame of {length} bytes is too long")]
    TooLong {
        /// The frame's kind.
        kind: FrameKind,
        /// The length it claims.
        length: usize,
    },
    /// The payload is not the JSON that was expected.
    #[error("message is not understood")]
    Json(#[source] serde_json::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_being_cut_at_every_byte() {
        let frames = [Frame::data(9, b"abc".to_vec()), Frame::eof(9), Frame::credit(7, 65_537)];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let mut decoder = FrameDecoder::default();
        let mut seen = Vec::new();
        for byte in bytes {
            decoder.feed(&[byte]);
            while let Some(frame) = decoder.next_frame().unwrap() {
                seen.push(frame);
            }
        }
        assert_eq!(seen, frames);
        assert_eq!(seen[2].credit_bytes(), Some(65_537));
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_the_payload_arrives() {
        let mut decoder = FrameDecoder::default();
        decoder.feed(&[0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert!(matches!(decoder.next_frame(), Err(FrameError::TooLong { .. })));
    }
}
