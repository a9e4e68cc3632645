//! The parent locator: which file is the parent, and where it may be.
//!
//! ```text
//!   type GUID │ 0 │ count │ (key offset, value offset, key length, value length) × count │ UTF-16 strings
//! ```
//! A path found here is never opened as it stands: callers look for [`ParentLink::base_name`] where they
//! expect parents, and the linkage decides. Source: [MS-VHDX] 2.6.2.6.

use super::bytes::{Fields, FieldsMut};
use crate::error::{Error, ErrorKind, Result};
use crate::guid::Guid;

const VHDX_TYPE: Guid = Guid::of(0xB04AEFB7_D19E_4A81_B789_25B8E9445913);
const HEADER: usize = 20;
const ENTRY: usize = 12;
const MAX_PAIRS: usize = 256;

const LINKAGE: &str = "parent_linkage";
const LINKAGE2: &str = "parent_linkage2";
const RELATIVE: &str = "relative_path";
const ABSOLUTE: &str = "absolute_win32_path";
const VOLUME: &str = "volume_path";

/// What a differencing disk knows of its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentLink {
    /// The parent's DataWriteGuid when the child was made.
    pub linkage: Guid,
    /// A second DataWriteGuid that is accepted, during a merge.
    pub linkage2: Option<Guid>,
    /// Path from the child's folder, with backslashes: `.\base.vhdx`.
    pub relative_path: Option<String>,
    /// Path on a Windows machine.
    pub absolute_path: Option<String>,
    /// Path on a Windows volume.
    pub volume_path: Option<String>,
}

impl ParentLink {
    /// Returns whether a file with this DataWriteGuid is the parent.
    pub fn accepts(&self, data_write_guid: Guid) -> bool {
        self.linkage == data_write_guid || self.linkage2 == Some(data_write_guid)
    }

    /// Returns the parent's file name, without any folder: from the relative path, else from the others.
    pub fn base_name(&self) -> Option<String> {
        let paths = [&self.relative_path, &self.volume_path, &self.absolute_path];
        let path = paths.into_iter().flatten().next()?;
        let name = path.rsplit(['\\', '/']).next()?;
        (!matches!(name, "" | "." | "..")).then(|| name.to_owned())
    }
}

/// The item as key-value pairs; pairs we do not know are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Locator {
    pairs: Vec<(String, String)>,
}

impl Locator {
    /// A locator for a new child.
    pub fn new(linkage: Guid, relative_path: &str, absolute_path: Option<&str>) -> Self {
        let mut locator = Self { pairs: Vec::new() };
        locator.set_linkage(linkage);
        locator.set_paths(relative_path, absolute_path);
        locator
    }

    pub fn decode(item: &[u8]) -> Result<Self> {
        let kind = item.guid(0);
        if item.len() < HEADER {
            return Err(Error::corrupt("the parent locator is cut off"));
        }
        if kind != VHDX_TYPE {
            let message = format!("parent locator type {kind} is not known");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let count = usize::from(item.u16(18));
        if count > MAX_PAIRS || HEADER + count * ENTRY > item.len() {
            return Err(Error::corrupt(format!("the parent locator claims {count} pairs")));
        }
        let mut pairs: Vec<(String, String)> = Vec::with_capacity(count);
        for entry in item[HEADER..].chunks_exact(ENTRY).take(count) {
            let key = text(item, entry.u32(0), entry.u16(8))?;
            let value = text(item, entry.u32(4), entry.u16(10))?;
            if pairs.iter().any(|(known, _)| *known == key) {
                return Err(Error::corrupt(format!("the parent locator has {key:?} twice")));
            }
            pairs.push((key, value));
        }
        Ok(Self { pairs })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut item = vec![0; HEADER + self.pairs.len() * ENTRY];
        item.put(0, &VHDX_TYPE.to_bytes());
        item.put(18, &(self.pairs.len() as u16).to_le_bytes());
        for (index, (key, value)) in self.pairs.iter().enumerate() {
            let entry = HEADER + index * ENTRY;
            for (text, offset_field, length_field) in [(key, 0, 8), (value, 4, 10)] {
                let start = item.len() as u32;
                item.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
                let length = item.len() as u32 - start;
                item.put(entry + offset_field, &start.to_le_bytes());
                item.put(entry + length_field, &(length as u16).to_le_bytes());
            }
        }
        item
    }

    pub fn link(&self) -> Result<ParentLink> {
        let get = |key: &str| self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        let linkage =
            get(LINKAGE).ok_or_else(|| Error::corrupt("the parent locator has no linkage"))?;
        Ok(ParentLink {
            linkage: linkage.parse()?,
            linkage2: get(LINKAGE2).map(|text| text.parse()).transpose()?,
            relative_path: get(RELATIVE),
            absolute_path: get(ABSOLUTE),
            volume_path: get(VOLUME),
        })
    }

    /// Makes these the only paths, so that no reader finds a stale one first.
    pub fn set_paths(&mut self, relative_path: &str, absolute_path: Option<&str>) {
        for (key, path) in
            [(RELATIVE, Some(relative_path)), (ABSOLUTE, absolute_path), (VOLUME, None)]
        {
            self.set(key, path.map(str::to_owned));
        }
    }

    /// Accepts one DataWriteGuid as the parent's, and no second one.
    pub fn set_linkage(&mut self, linkage: Guid) {
        self.set(LINKAGE, Some(format!("{{{linkage}}}")));
        self.set(LINKAGE2, None);
    }

    /// Accepts a second DataWriteGuid, beside the first.
    pub fn set_linkage2(&mut self, linkage: Guid) {
        self.set(LINKAGE2, Some(format!("{{{linkage}}}")));
    }

    fn set(&mut self, key: &str, value: Option<String>) {
        self.pairs.retain(|(known, _)| known != key);
        self.pairs.extend(value.map(|value| (key.to_owned(), value)));
    }
}

/// Checks a path a caller wants to store: a string value is limited to 64 KiB, ours to half a page.
pub(super) fn check_path(path: &str) -> Result<()> {
    let units = path.encode_utf16().count();
    if units == 0 || units > 1024 || path.contains('\0') {
        let message = format!("{path:?} cannot be stored as a parent's path");
        return Err(Error::new(ErrorKind::OutOfRange, message));
    }
    Ok(())
}

fn text(item: &[u8], offset: u32, length: u16) -> Result<String> {
    let bad = || Error::corrupt("a string of the parent locator is misplaced or no text");
    let (start, length) = (offset as usize, usize::from(length));
    if start == 0 || length == 0 || !length.is_multiple_of(2) {
        return Err(bad());
    }
    let bytes = item.get(start..start + length).ok_or_else(bad)?;
    let units: Vec<u16> = bytes.chunks_exact(2).map(|unit| unit.u16(0)).collect();
    String::from_utf16(&units).ok().filter(|text| !text.contains('\0')).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_round_trip_and_keeps_unknown_pairs() {
        let mut locator = Locator::new(Guid::random(), r"..\..\images\base_日本.vhdx", None);
        locator.pairs.push(("vendor_key".into(), "value".into()));
        locator.pairs.push((ABSOLUTE.into(), r"C:\stale.vhdx".into()));
        assert_eq!(Locator::decode(&locator.encode()).unwrap(), locator);

        locator.set_paths(r".\base.vhdx", None);
        let link = locator.link().unwrap();
        assert_eq!(link.relative_path.as_deref(), Some(r".\base.vhdx"));
        assert_eq!(link.absolute_path, None);
        assert!(locator.pairs.iter().any(|pair| pair.0 == "vendor_key"));
    }

    #[test]
    fn a_second_linkage_is_accepted_until_the_first_is_set_anew() {
        let [first, second] = [Guid::random(), Guid::random()];
        let mut locator = Locator::new(first, r".\base.vhdx", Some(r"C:\base.vhdx"));
        locator.set_linkage2(second);
        let link = Locator::decode(&locator.encode()).unwrap().link().unwrap();
        assert!(link.accepts(first) && link.accepts(second));
        assert_eq!(link.absolute_path.as_deref(), Some(r"C:\base.vhdx"));
        locator.set_linkage(second);
        let link = locator.link().unwrap();
        assert!(!link.accepts(first) && link.accepts(second) && link.linkage2.is_none());
    }

    #[track_caller]
    fn base_name(relative: &str, expected: Option<&str>) {
        let link = Locator::new(Guid::NIL, relative, None).link().unwrap();
        assert_eq!(link.base_name().as_deref(), expected);
    }

    #[test]
    fn only_the_last_component_of_a_path_is_used() {
        base_name(r"..\..\images\a.vhdx", Some("a.vhdx"));
        base_name("../../etc/passwd", Some("passwd"));
        base_name("a.vhdx", Some("a.vhdx"));
        base_name(r"..\..", None);
        base_name(r"images\", None);
    }

    #[test]
    fn truncated_and_mutated_items_never_panic() {
        let item = Locator::new(Guid::random(), r".\base.vhdx", None).encode();
        for length in 0..item.len() {
            assert!(Locator::decode(&item[..length]).is_err(), "{length}");
        }
        for at in 0..item.len() {
            for value in [0, 1, 0x7F, 0xFF] {
                let mut bad = item.clone();
                bad[at] = value;
                let _ = Locator::decode(&bad).and_then(|locator| locator.link());
            }
        }
    }
}
