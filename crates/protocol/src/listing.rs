//! A file system's entries as bytes: what `List` of [`crate::files`] writes.
//!
//! ```text
//!   ┌────────────┬──────┬─────┬─────┬──────┬──────┬───────┬───────┬───────┬────────┬──────┐
//!   │ path: u16  │ mode │ uid │ gid │ size │ rdev │ inode │ mtime │ ctime │ xattrs │ path │
//!   └────────────┴──────┴─────┴─────┴──────┴──────┴───────┴───────┴───────┴────────┴──────┘
//!     little-endian; times are seconds (i64) and nanoseconds (u32)
//! ```
//! A folder comes before what is in it, and that follows in the order of the names' bytes. So two
//! listings can be gone through side by side.

use std::cmp::Ordering;

const HEAD: usize = 2 + 4 * 3 + 8 * 3 + 12 * 2 + 8;
/// The longest path.
pub const MAX_PATH: usize = 4096;

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// From the root, without a slash in front; empty for the root itself.
    pub path: Vec<u8>,
    /// Linux's `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// In bytes.
    pub size: u64,
    /// A device's number.
    pub rdev: u64,
    /// Which file it is a name of.
    pub inode: u64,
    /// Last change of its content.
    pub mtime: (i64, u32),
    /// Last change of anything about it.
    pub ctime: (i64, u32),
    /// A hash of its extended attributes.
    pub xattrs: u64,
}

impl Listed {
    /// It is a folder.
    pub fn is_folder(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    /// Adds it to a listing. Errors where its path is longer than [`MAX_PATH`].
    pub fn encode(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
        if self.path.len() > MAX_PATH {
            return Err(TooLong);
        }
        to.extend((self.path.len() as u16).to_le_bytes());
        for number in [self.mode, self.uid, self.gid] {
            to.extend(number.to_le_bytes());
        }
        for number in [self.size, self.rdev, self.inode] {
            to.extend(number.to_le_bytes());
        }
        for (seconds, nanos) in [self.mtime, self.ctime] {
            to.extend(seconds.to_le_bytes());
            to.extend(nanos.to_le_bytes());
        }
        to.extend(self.xattrs.to_le_bytes());
        to.extend(&self.path);
        Ok(())
    }

    /// Takes the first entry off `bytes`: itself and its length; `None` where it is not there whole.
    ///
    /// Errors where it cannot be one.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, TooLong> {
        let mut fields = Fields(bytes);
        let Some(length) = fields.take().map(u16::from_le_bytes) else { return Ok(None) };
        let length = usize::from(length);
        if length > MAX_PATH {
            return Err(TooLong);
        }
        if bytes.len() < HEAD + length {
            return Ok(None);
        }
        Ok(fields.entry(length).map(|entry| (entry, HEAD + length)))
    }
}

/// A path is longer than it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn time(&mut self) -> Option<(i64, u32)> {
        Some((i64::from_le_bytes(self.take()?), u32::from_le_bytes(self.take()?)))
    }

    fn entry(&mut self, length: usize) -> Option<Listed> {
        Some(Listed {
            mode: u32::from_le_bytes(self.take()?),
            uid: u32::from_le_bytes(self.take()?),
            gid: u32::from_le_bytes(self.take()?),
            size: u64::from_le_bytes(self.take()?),
            rdev: u64::from_le_bytes(self.take()?),
            inode: u64::from_le_bytes(self.take()?),
            mtime: self.time()?,
            ctime: self.time()?,
            xattrs: u64::from_le_bytes(self.take()?),
            path: self.0.get(..length)?.to_vec(),
        })
    }
}

/// The order of a listing: part by part, a folder before what is in it.
pub fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let parts = |path| <[u8]>::split(path, |byte| *byte == b'/');
    match (one.is_empty(), other.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => parts(one).cmp(parts(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written_and_only_when_it_is_whole() {
        let entry = Listed {
            path: b"etc/motd".to_vec(),
            mode: 0o100_644,
            uid: 1,
            gid: 2,
            size: 3,
            rdev: 4,
            inode: 5,
            mtime: (-6, 7),
            ctime: (8, 9),
            xattrs: 10,
        };
        let mut bytes = Vec::new();
        entry.encode(&mut bytes).unwrap();
        assert_eq!(Listed::decode(&bytes), Ok(Some((entry, bytes.len()))));
        for length in 0..bytes.len() {
            assert_eq!(Listed::decode(&bytes[..length]), Ok(None), "{length}");
        }
        assert_eq!(Listed::decode(&[0xff; 200]), Err(TooLong));
        let long = Listed { path: vec![b'x'; MAX_PATH + 1], ..Listed::default() };
        assert_eq!(long.encode(&mut bytes), Err(TooLong));
    }

    #[test]
    fn a_folder_comes_before_what_is_in_it_and_that_before_its_neighbours() {
        let sorted: [&[u8]; 6] = [b"", b"a", b"a/b", b"a/b/c", b"a-b", b"b"];
        for pair in sorted.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        assert_eq!(compare(b"a/b", b"a/b"), Ordering::Equal);
    }
}
