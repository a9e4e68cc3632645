//! How output goes to clients where there is no terminal: each piece behind an 8-byte header.
//!
//! ```text
//!   ┌────────┬─────────┬────────────────┬─────────┐
//!   │ stream │ 0, 0, 0 │ length: u32 BE │ payload │     stream: 1 stdout, 2 stderr
//!   └────────┴─────────┴────────────────┴─────────┘
//! ```

use crate::dispatch::ApiVersion;
use bytes::{BufMut, Bytes, BytesMut};
use ireko_engine::OutputStream;

/// Whether pieces of output have headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A terminal's: bytes as they are.
    Raw,
    /// All others.
    Multiplexed,
}

impl Framing {
    pub(crate) fn of(tty: bool) -> Self {
        if tty { Self::Raw } else { Self::Multiplexed }
    }

    /// The `Content-Type` that tells clients; older ones know only one.
    pub(crate) fn content_type(self, version: ApiVersion) -> &'static str {
        match self {
            Self::Multiplexed if version >= ApiVersion(42) => {
                "application/vnd.docker.multiplexed-stream"
            }
            _ => "application/vnd.docker.raw-stream",
        }
    }

    /// A piece of output as it is sent.
    pub(crate) fn frame(self, stream: OutputStream, payload: Bytes) -> Bytes {
        if self == Self::Raw {
            return payload;
        }
        let mut frame = BytesMut::with_capacity(8 + payload.len());
        frame.put_u8(match stream {
            OutputStream::Stdout => 1,
            OutputStream::Stderr => 2,
        });
        frame.put_bytes(0, 3);
        // Pieces are 64 KiB at most.
        frame.put_u32(payload.len() as u32);
        frame.put(payload);
        frame.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_output_without_a_terminal_has_headers() {
        let payload = Bytes::from_static(b"hi");
        let framed = Framing::of(false).frame(OutputStream::Stderr, payload.clone());
        assert_eq!(&framed[..], b"\x02\0\0\0\0\0\0\x02hi");
        assert_eq!(Framing::of(true).frame(OutputStream::Stdout, payload), "hi");
    }

    #[test]
    fn old_clients_know_one_content_type() {
        let of = |tty, version| Framing::of(tty).content_type(ApiVersion(version));
        assert!(of(false, 50).contains("multiplexed"));
        assert!(of(true, 50).contains("raw") && of(false, 41).contains("raw"));
    }
}
