//! The keys that leave a container running: `ctrl-p,ctrl-q`.
//!
//! The daemon watches for them and ends the stream. It looks the same from here as the end of
//! the process, so the keys are watched here too; nothing is held back or altered.

/// Docker's default.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// A sequence of keys, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    codes: Vec<u8>,
    text: String,
}

impl std::fmt::Display for Keys {
    /// As it was typed, which is how requests carry it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Keys {
    type Err = String;

    /// `a`, `ctrl-a` … `ctrl-z`, `ctrl-@ [ \ ] ^ _`, joined by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let key = |key: &str| match key.as_bytes() {
            [byte @ (b'!'..=b'~' | b' ')] => Ok(*byte),
            [b'c', b't', b'r', b'l', b'-', byte] => match byte.to_ascii_lowercase() {
                byte @ b'a'..=b'z' => Ok(byte - b'a' + 1),
                b'@' => Ok(0),
                byte @ b'['..=b'_' => Ok(byte - b'[' + 27),
                _ => Err(()),
            },
            b"DEL" => Ok(127),
            _ => Err(()),
        };
        let codes: Result<Vec<u8>, ()> = text.split(',').map(key).collect();
        match codes {
            Ok(codes) => Ok(Self { codes, text: text.to_owned() }),
            Err(()) => Err("write keys as a letter or ctrl-LETTER, joined by ','".into()),
        }
    }
}

/// Looks for the keys in what is typed.
pub struct Watch {
    keys: Keys,
    seen: usize,
}

impl Watch {
    /// Begins to look.
    pub fn new(keys: Keys) -> Self {
        Self { keys, seen: 0 }
    }

    /// Whether the keys are complete with these bytes; what follows them is not looked at.
    pub fn typed(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            self.seen = match self.keys.codes[self.seen] == byte {
                true => self.seen + 1,
                false => usize::from(self.keys.codes[0] == byte),
            };
            if self.seen == self.keys.codes.len() {
                self.seen = 0;
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_found_across_reads() {
        let mut watch = Watch::new(DEFAULT.parse().unwrap());
        assert!(!watch.typed(b"ls\r"));
        assert!(!watch.typed(&[0x10]));
        assert!(!watch.typed(b"x"));
        assert!(!watch.typed(&[0x10]));
        assert!(watch.typed(&[0x11]));
        assert!(!watch.typed(&[0x11]));
        assert!(watch.typed(&[0x10, 0x10, 0x11]));
    }

    #[test]
    fn keys_are_written_as_docker_writes_them() {
        let keys: Keys = "ctrl-a,ctrl-@,ctrl-_,q".parse().unwrap();
        assert_eq!(keys.codes, [1, 0, 31, b'q']);
        assert_eq!(keys.to_string(), "ctrl-a,ctrl-@,ctrl-_,q");
        for wrong in ["", "ctrl-", "ctrl-ab", "ctrl-a,", "ctrl-1"] {
            assert!(wrong.parse::<Keys>().is_err(), "{wrong}");
        }
    }
}
