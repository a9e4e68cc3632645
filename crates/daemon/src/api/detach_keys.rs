//! The keys that leave a terminal session while its process runs on.

use crate::api::error::{ApiError, ApiResult};

/// Docker's: Ctrl-P, Ctrl-Q.
const DEFAULT: [u8; 2] = [16, 17];

/// A sequence of keys, watched for in what a client types.
#[derive(Clone, Debug)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

/// What to do with what was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    /// These bytes go on to the process.
    pub(crate) pass: Vec<u8>,
    /// The sequence was completed; what follows it is dropped.
    pub(crate) detached: bool,
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q` or `a,b`; none given means docker's default.
    pub(crate) fn parse(text: Option<&str>) -> ApiResult<Self> {
        let keys = match text {
            None | Some("") => DEFAULT.to_vec(),
            Some(text) => text.split(',').map(key).collect::<ApiResult<_>>()?,
        };
        Ok(Self { keys, matched: 0 })
    }

    /// Takes what was typed; keys that may become the sequence are held back until that is known.
    pub(crate) fn typed(&mut self, bytes: &[u8]) -> Typed {
        let mut pass = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if *byte != self.keys[self.matched] {
                pass.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return Typed { pass, detached: true };
                }
            } else {
                pass.push(*byte);
            }
        }
        Typed { pass, detached: false }
    }
}

fn key(name: &str) -> ApiResult<u8> {
    let code = match name.as_bytes() {
        [one] => Some(*one),
        [b'c', b't', b'r', b'l', b'-', control] => match control {
            b'a'..=b'z' => Some(control - b'a' + 1),
            b'@' => Some(0),
            b'[' | b'\\' | b']' | b'^' | b'_' => Some(control - b'[' + 27),
            _ => None,
        },
        _ => None,
    };
    code.ok_or_else(|| ApiError::bad_request(format!("Unknown character: '{name}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pass: &[u8], detached: bool) -> Typed {
        Typed { pass: pass.to_vec(), detached }
    }

    #[test]
    fn the_sequence_is_found_across_pieces_and_all_else_passes() {
        let mut keys = DetachKeys::parse(None).unwrap();
        assert_eq!(keys.typed(b"ab\x10"), typed(b"ab", false));
        assert_eq!(keys.typed(b"c"), typed(b"\x10c", false));
        assert_eq!(keys.typed(b"\x10\x10"), typed(b"\x10", false));
        assert_eq!(keys.typed(b"\x11rest"), typed(b"", true));
    }

    #[test]
    fn keys_have_names() {
        let mut keys = DetachKeys::parse(Some("ctrl-a,x")).unwrap();
        assert_eq!(keys.typed(b"\x01x"), typed(b"", true));
        assert!(DetachKeys::parse(Some("ctrl-?")).is_err());
        assert!(DetachKeys::parse(Some("a,,b")).is_err());
    }
}
