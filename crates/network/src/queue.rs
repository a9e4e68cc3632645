//! Frames as QEMU's `stream` network backend cuts them: a big-endian u32 length, then the frame.
//!
//! Both directions are bounded: a VM that does not read loses frames, and one that claims an
//! impossible length loses its connection.

/// The longest frame a VM may send or get: an Ethernet header and the longest IP packet.
const MAX_FRAME: usize = 14 + 65535;
const LENGTH: usize = 4;
/// Bytes waiting for one VM from which on the gateway's TCP holds back.
const ENOUGH: usize = 256 << 10;
/// Bytes waiting for one VM from which on its frames are dropped.
const FULL: usize = 1 << 20;
/// How much is read from a VM at once.
const READ: usize = 256 << 10;

/// Frames on their way to a VM.
#[derive(Debug, Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// Adds a frame of `length` bytes that `fill` writes; dropped where the queue is full, or the
    /// frame too long.
    pub fn push(&mut self, length: usize, fill: impl FnOnce(&mut [u8])) {
        if !self.is_full() && length <= MAX_FRAME {
            self.push_always(length, fill);
        }
    }

    /// Adds a frame however long the queue is; for a sender that looks at
    /// [`Outgoing::has_room`] first.
    pub(crate) fn push_always<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.bytes.len() + LENGTH;
        // A frame is shorter than MAX_FRAME by far.
        self.bytes.extend_from_slice(&(length as u32).to_be_bytes());
        self.bytes.resize(start + length, 0);
        fill(&mut self.bytes[start..])
    }

    /// Whether a sender that can wait may send on.
    pub fn has_room(&self) -> bool {
        self.waiting() < ENOUGH
    }

    /// Whether frames are dropped.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting() >= FULL
    }

    /// What is to be written next.
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// The first `count` pending bytes were written.
    pub fn written(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.bytes.len() {
            self.clear();
        } else if self.sent >= ENOUGH {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
        self.bytes.shrink_to(ENOUGH);
    }

    fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }
}

/// A VM claimed a frame longer than any can be.
#[derive(Debug, PartialEq, Eq)]
pub struct Overlong;

/// Bytes from a VM, cut into frames.
#[derive(Debug, Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    /// Where the next bytes are to be read into; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        // What is left is less than a frame.
        self.bytes.resize(READ + LENGTH + MAX_FRAME, 0);
        &mut self.bytes[self.end..]
    }

    /// So many bytes of [`Incoming::space`] were filled.
    pub fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// The next whole frame; `None` until more is read.
    ///
    /// # Errors
    /// The connection's cut is lost and it must be closed.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, Overlong> {
        let held = &self.bytes[self.start..self.end];
        let Some((length, rest)) = held.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MAX_FRAME {
            return Err(Overlong);
        }
        if rest.len() < length {
            return Ok(None);
        }
        let frame = self.start + LENGTH;
        self.start = frame + length;
        Ok(Some(&self.bytes[frame..frame + length]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(chunks: &[&[u8]]) -> Result<Vec<Vec<u8>>, Overlong> {
        let (mut incoming, mut seen) = (Incoming::default(), Vec::new());
        for chunk in chunks {
            incoming.space()[..chunk.len()].copy_from_slice(chunk);
            incoming.filled(chunk.len());
            while let Some(frame) = incoming.next_frame()? {
                seen.push(frame.to_vec());
            }
        }
        Ok(seen)
    }

    #[test]
    fn frames_survive_being_cut_at_every_byte() {
        let mut outgoing = Outgoing::default();
        for frame in [&b"abc"[..], b"", b"defgh"] {
            outgoing.push(frame.len(), |bytes| bytes.copy_from_slice(frame));
        }
        let bytes: Vec<_> = outgoing.pending().chunks(1).collect();
        assert_eq!(frames(&bytes).unwrap(), [&b"abc"[..], b"", b"defgh"]);
    }

    #[test]
    fn an_impossible_length_is_refused_before_the_frame_arrives() {
        assert_eq!(frames(&[&[0, 1, 0, 14]]), Err(Overlong));
    }

    #[test]
    fn a_vm_that_does_not_read_loses_frames_and_costs_bounded_memory() {
        let mut outgoing = Outgoing::default();
        for _ in 0..10_000 {
            outgoing.push(1500, |_| {});
        }
        assert!(outgoing.pending().len() < FULL + 2000);
        assert!(!outgoing.has_room());
        let half = outgoing.pending().len() / 2;
        outgoing.written(half);
        outgoing.written(outgoing.pending().len());
        assert!(outgoing.has_room() && outgoing.pending().is_empty());
    }
}
