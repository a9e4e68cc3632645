//! Taking apart the daemon's output streams without a terminal.
//!
//! ```text
//!   ┌──────┬───────┬────────────┬─────────────┐
//!   │ kind │ 0 0 0 │ length BE  │ payload …   │   attach, exec and logs; one frame per write
//!   └──────┴───────┴────────────┴─────────────┘
//!      1       3         4          length
//! ```
//!
//! Payloads are handed on in the pieces they arrive in, so a frame's length costs no memory.

use thiserror::Error;

const HEADER: usize = 8;

/// Whom a payload is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The daemon itself: what went wrong after the stream began.
    System,
}

/// The stream is not what a daemon sends.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the output stream has a frame of unknown kind {0}")]
pub struct UnknownChannel(u8);

/// Cuts a stream into payloads; holds at most one header.
#[derive(Default)]
pub struct Demux {
    header: [u8; HEADER],
    filled: usize,
    payload: Option<(Channel, usize)>,
}

impl Demux {
    /// Takes the next bytes of the stream and passes each piece of payload to `sink`, in order.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut sink: impl FnMut(Channel, &[u8]),
    ) -> Result<(), UnknownChannel> {
        while !bytes.is_empty() {
            bytes = match self.payload {
                None => self.take_header(bytes)?,
                Some((channel, left)) => {
                    let (piece, rest) = bytes.split_at(left.min(bytes.len()));
                    sink(channel, piece);
                    self.payload = match left - piece.len() {
                        0 => None,
                        left => Some((channel, left)),
                    };
                    rest
                }
            };
        }
        Ok(())
    }

    /// Whether the stream may end here.
    pub fn is_between_frames(&self) -> bool {
        self.filled == 0 && self.payload.is_none()
    }

    fn take_header<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], UnknownChannel> {
        let (part, rest) = bytes.split_at((HEADER - self.filled).min(bytes.len()));
        self.header[self.filled..self.filled + part.len()].copy_from_slice(part);
        self.filled += part.len();
        if self.filled == HEADER {
            self.filled = 0;
            let [kind, _, _, _, length @ ..] = self.header;
            let channel = match kind {
                0 | 1 => Channel::Stdout,
                2 => Channel::Stderr,
                3 => Channel::System,
                other => return Err(UnknownChannel(other)),
            };
            let length = u32::from_be_bytes(length) as usize;
            self.payload = (length > 0).then_some((channel, length));
        }
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn demux_in_pieces(bytes: &[u8], piece: usize) -> (String, String, String) {
        let mut demux = Demux::default();
        let mut out: [Vec<u8>; 3] = Default::default();
        for chunk in bytes.chunks(piece) {
            demux.feed(chunk, |channel, data| out[channel as usize].extend(data)).unwrap();
        }
        assert!(demux.is_between_frames());
        let [out, err, system] = out.map(|bytes| String::from_utf8(bytes).unwrap());
        (out, err, system)
    }

    #[test]
    fn any_cutting_of_the_stream_gives_the_same_output() {
        let mut stream = frame(1, b"hello ");
        stream.extend(frame(2, b"oops"));
        stream.extend(frame(1, b""));
        stream.extend(frame(1, b"world\n"));
        stream.extend(frame(3, b"lost"));
        for piece in 1..=stream.len() {
            assert_eq!(
                demux_in_pieces(&stream, piece),
                ("hello world\n".into(), "oops".into(), "lost".into())
            );
        }
    }

    #[test]
    fn a_stream_cut_short_is_noticed() {
        let mut demux = Demux::default();
        demux.feed(&frame(1, b"abc")[..10], |_, _| ()).unwrap();
        assert!(!demux.is_between_frames());
        let mut demux = Demux::default();
        demux.feed(&[1, 0], |_, _| ()).unwrap();
        assert!(!demux.is_between_frames());
    }

    #[test]
    fn an_unknown_kind_is_an_error_and_no_panic() {
        let mut demux = Demux::default();
        assert_eq!(demux.feed(b"HTTP/1.1 500", |_, _| ()), Err(UnknownChannel(b'H')));
    }

    #[test]
    fn a_length_of_four_gibibytes_reserves_nothing() {
        let mut demux = Demux::default();
        let mut got = 0;
        let mut bytes = vec![1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        bytes.extend([7; 5]);
        demux.feed(&bytes, |_, piece| got += piece.len()).unwrap();
        assert_eq!(got, 5);
    }
}
