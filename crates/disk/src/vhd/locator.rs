//! Where the parent may be: the names a child stores of it.
//!
//! ```text
//!   header ── name (UTF-16, big-endian)
//!        └─── up to 8 entries ──► W2ru  .\base.vhd          UTF-16, little-endian
//!                                 W2ku  C:\disks\base.vhd
//! ```
//! A path found here is never opened as it stands: callers look for [`ParentLink::base_names`] where they expect
//! parents, and the unique id decides.

use std::ops::Range;
use std::time::SystemTime;

use super::SECTOR;
use super::header::{Entry, Header};
use crate::error::{Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::storage::Storage;

const RELATIVE: [u8; 4] = *b"W2ru";
const ABSOLUTE: [u8; 4] = *b"W2ku";

/// What a differencing disk knows of its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentLink {
    /// The parent's unique id. Writing to the parent does not change that.
    pub unique_id: Guid,
    /// When the parent's file was last written to before the child was made; to the second. Copies of files lose it.
    pub modified: SystemTime,
    /// Path from the child's folder, with backslashes: `.\base.vhd`.
    pub relative_path: Option<String>,
    /// Path on a Windows machine.
    pub absolute_path: Option<String>,
    /// What the header holds: a file name, or a path on a Windows machine.
    pub name: Option<String>,
}

impl ParentLink {
    /// Reads what a differencing disk's header says. Names that are misplaced or no text are left out.
    pub(super) fn read(storage: &dyn Storage, header: &Header, length: u64) -> Self {
        let text = |code| {
            let mut entries = header.locators(length).filter(|entry| entry.code == code);
            entries.find_map(|entry| text(storage, &entry))
        };
        Self {
            unique_id: header.parent_unique_id(),
            modified: header.parent_modified(),
            relative_path: text(RELATIVE),
            absolute_path: text(ABSOLUTE),
            name: header.parent_name(),
        }
    }

    /// Returns the file names, without any folder, that the parent may have; the likeliest first.
    pub fn base_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for path in [&self.relative_path, &self.name, &self.absolute_path].into_iter().flatten() {
            let name = base_name(path);
            if !matches!(name, "" | "." | "..") && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }
}

pub(super) fn base_name(path: &str) -> &str {
    path.rsplit(['\\', '/']).next().unwrap_or(path)
}

/// Checks a path a caller wants to store.
pub(super) fn check_path(path: &str) -> Result<()> {
    let units = path.encode_utf16().count();
    if units == 0 || units > 1024 || path.contains('\0') {
        let message = format!("{path:?} cannot be stored as a parent's path");
        return Err(Error::new(ErrorKind::OutOfRange, message));
    }
    Ok(())
}

/// Names to be stored in a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    paths: Vec<([u8; 4], Vec<u8>)>,
    header_name: String,
}

impl Names {
    /// The paths were [checked](check_path).
    pub fn new(relative_path: &str, absolute_path: Option<&str>) -> Self {
        let encode = |path: &str| path.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let absolute = absolute_path.map(|path| (ABSOLUTE, encode(path)));
        let paths = std::iter::once((RELATIVE, encode(relative_path))).chain(absolute).collect();
        // What Windows stores is the full path where it is known.
        let header_name = absolute_path.unwrap_or(base_name(relative_path)).to_owned();
        Self { paths, header_name }
    }

    /// Bytes they take in the file: a multiple of 512.
    pub fn length(&self) -> u64 {
        self.paths.iter().map(|(_, path)| space(path)).sum()
    }

    /// Returns the bytes to store at `offset`, and makes the header point there.
    pub fn place(&self, offset: u64, header: &mut Header) -> Vec<u8> {
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        for (code, path) in &self.paths {
            entries.push(Entry {
                code: *code,
                space: space(path) as u32,
                length: path.len() as u32,
                offset: offset + bytes.len() as u64,
            });
            bytes.extend_from_slice(path);
            bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
        }
        header.set_parent_names(&self.header_name, &entries);
        bytes
    }
}

fn space(path: &[u8]) -> u64 {
    (path.len() as u64).next_multiple_of(SECTOR)
}

/// The bytes of the file that a header's locators take, their unused space aside.
pub(super) fn ranges(header: &Header, length: u64) -> impl Iterator<Item = Range<u64>> {
    header.locators(length).map(|entry| entry.offset..entry.offset + u64::from(entry.length))
}

fn text(storage: &dyn Storage, entry: &Entry) -> Option<String> {
    let mut bytes = vec![0; entry.length as usize];
    storage.read_at(entry.offset, &mut bytes).ok()?;
    let units = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    let units: Vec<u16> = units.take_while(|&unit| unit != 0).collect();
    String::from_utf16(&units).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn link(relative: &str, absolute: Option<&str>) -> ParentLink {
        let mut header = Header::new(8192, 1, 2 << 20);
        let names = Names::new(relative, absolute);
        let bytes = names.place(2048, &mut header);
        assert_eq!(bytes.len() as u64, names.length());
        let storage = MemoryStorage::new([vec![0; 2048], bytes, vec![0; 512]].concat());
        ParentLink::read(&storage, &header, storage.snapshot().len() as u64)
    }

    #[test]
    fn names_survive_a_round_trip() {
        let link = link(r"..\images\base_日本.vhd", Some(r"C:\images\base.vhd"));
        assert_eq!(link.relative_path.as_deref(), Some(r"..\images\base_日本.vhd"));
        assert_eq!(link.absolute_path.as_deref(), Some(r"C:\images\base.vhd"));
        assert_eq!(link.name.as_deref(), Some(r"C:\images\base.vhd"));
        assert_eq!(link.base_names(), ["base_日本.vhd", "base.vhd"]);
    }

    #[test]
    fn only_the_last_component_of_a_path_is_used() {
        assert_eq!(link(r"..\..\a.vhd", None).base_names(), ["a.vhd"]);
        assert_eq!(link("../../etc/passwd", None).base_names(), ["passwd"]);
        assert_eq!(link(r"..\..", None).base_names(), [""; 0]);
        assert_eq!(link(r"images\", None).base_names(), [""; 0]);
    }

    #[test]
    fn names_that_are_misplaced_are_left_out() {
        let mut header = Header::new(8192, 1, 2 << 20);
        let entry = |length, offset| Entry { code: RELATIVE, space: 512, length, offset };
        header.set_parent_names(
            "",
            &[entry(0, 0), entry(u32::MAX, 0), entry(8, u64::MAX - 3), entry(3, 0)],
        );
        let storage = MemoryStorage::new(vec![0xD8; 512]);
        let link = ParentLink::read(&storage, &header, 512);
        assert_eq!((link.relative_path.as_deref(), link.base_names().len()), (None, 0));
    }
}
