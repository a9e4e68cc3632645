//! GUIDs as VHDX and VHD store them.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};

/// A GUID in the byte order Microsoft writes to disk: the first three fields little-endian.
///
/// Displayed in lower case with hyphens; parsed in either case, with or without braces.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid([u8; 16]);

impl Guid {
    /// The GUID of all zeros; as a log GUID it means "no log to replay".
    pub const NIL: Self = Self([0; 16]);

    /// Makes a fresh random GUID.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_bytes_le())
    }

    /// Takes the 16 bytes as they lie on disk.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes as they lie on disk.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Takes the 16 bytes as VHD and most others write them: every field big-endian.
    pub(crate) fn from_big_endian(bytes: [u8; 16]) -> Self {
        Self(uuid::Uuid::from_bytes(bytes).to_bytes_le())
    }

    /// Returns the 16 bytes as VHD writes them.
    pub(crate) fn to_big_endian(self) -> [u8; 16] {
        uuid::Uuid::from_bytes_le(self.0).into_bytes()
    }

    /// Writes `0x2DC27766_F623_4200_9D64_115E9BFD4A08` for `2DC27766-F623-4200-9D64-115E9BFD4A08`.
    pub(crate) const fn of(text_order: u128) -> Self {
        Self(uuid::Uuid::from_u128(text_order).to_bytes_le())
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes_le(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Guid {
    type Err = Error;

    /// Fails with [`ErrorKind::Corrupt`] when the text is no GUID.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bare = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        match (bare.len(), uuid::Uuid::try_parse(bare)) {
            (36, Ok(uuid)) => Ok(Self(uuid.to_bytes_le())),
            _ => Err(Error::new(ErrorKind::Corrupt, format!("{text:?} is not a GUID"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_fields_are_little_endian_on_disk() {
        let bat = Guid::of(0x2DC27766_F623_4200_9D64_115E9BFD4A08);
        assert_eq!(bat.to_bytes()[..8], [0x66, 0x77, 0xC2, 0x2D, 0x23, 0xF6, 0x00, 0x42]);
        assert_eq!(bat.to_string(), "2dc27766-f623-4200-9d64-115e9bfd4a08");
    }

    #[test]
    fn vhd_writes_the_bytes_in_the_order_of_the_text() {
        let guid = Guid::of(0x2DC27766_F623_4200_9D64_115E9BFD4A08);
        assert_eq!(guid.to_big_endian()[..6], [0x2D, 0xC2, 0x77, 0x66, 0xF6, 0x23]);
        assert_eq!(Guid::from_big_endian(guid.to_big_endian()), guid);
    }

    #[test]
    fn braces_and_case_do_not_matter_when_parsing() {
        let guid = Guid::random();
        let text = guid.to_string();
        assert_eq!(text.parse::<Guid>().unwrap(), guid);
        assert_eq!(format!("{{{}}}", text.to_uppercase()).parse::<Guid>().unwrap(), guid);
        for bad in ["", "{", "{}", "2dc27766f62342009d64115e9bfd4a08", &text[1..]] {
            assert!(bad.parse::<Guid>().is_err(), "{bad:?}");
        }
    }
}
