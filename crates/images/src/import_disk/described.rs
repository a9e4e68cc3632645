//! What an archive says of its disks: which of them comes first.
//!
//! ```text
//!   OVA, VirtualBox box    vm.ovf            controllers in the order of the document, disks by address
//!   libvirt box            metadata.json     "disks": [{"path": …, "name": …}, …]
//! ```
//! An archive of one disk is not asked. Of several each has to be spoken of, once: one that is left out
//! or made up is more likely a mistake than nobody's.

mod ovf;

use crate::error::{Error, Result};
use serde::Deserialize;

/// The longest description that is read.
const LONGEST: u64 = 4 << 20;

/// The descriptions that were found in an archive.
#[derive(Default)]
pub(super) struct Descriptions {
    ovf: Option<Vec<u8>>,
    metadata: Option<Vec<u8>>,
}

/// A disk as a description speaks of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Described {
    /// Its file, relative to the description's folder.
    pub file: String,
    /// What it is called there.
    pub name: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    disks: Vec<MetadataDisk>,
}

#[derive(Deserialize)]
struct MetadataDisk {
    path: String,
    name: Option<String>,
}

/// The files that one description speaks of; `name` is its own.
pub(crate) fn files(name: &str, text: &[u8]) -> Result<Vec<String>> {
    let mut descriptions = Descriptions::default();
    if let Some(place) = descriptions.take(name, text.len() as u64)? {
        place.extend(text);
    }
    Ok(descriptions.disks()?.into_iter().map(|disk| disk.file).collect())
}

impl Descriptions {
    /// Makes room for a member that describes the machine; `None` for any other.
    pub(super) fn take(&mut self, name: &str, size: u64) -> Result<Option<&mut Vec<u8>>> {
        let lower = name.to_ascii_lowercase();
        let place = match lower.as_str() {
            _ if name.contains('/') => return Ok(None),
            "metadata.json" => &mut self.metadata,
            _ if lower.ends_with(".ovf") => &mut self.ovf,
            _ => return Ok(None),
        };
        if size > LONGEST {
            return Err(Error::bad_input(format!("{name:?} has {size} bytes: no description has")));
        }
        if place.is_some() {
            return Err(Error::bad_input(format!("{name:?} is its second description")));
        }
        Ok(Some(place.insert(Vec::new())))
    }

    /// Lists the disks of the machine, the one that it boots from first.
    pub(super) fn disks(&self) -> Result<Vec<Described>> {
        let (described, text) = match (&self.ovf, &self.metadata) {
            (Some(text), _) => (ovf::disks as fn(&str) -> Result<Vec<Described>>, text),
            (None, Some(text)) => (of_metadata as fn(&str) -> Result<Vec<Described>>, text),
            (None, None) => return Ok(Vec::new()),
        };
        let text = std::str::from_utf8(text)
            .map_err(|_| Error::bad_input("its description is not written in UTF-8"))?;
        described(text)
    }
}

fn of_metadata(text: &str) -> Result<Vec<Described>> {
    let metadata: Metadata = serde_json::from_str(text)
        .map_err(|error| Error::bad_input(format!("its metadata.json cannot be read: {error}")))?;
    let disks = metadata.disks.into_iter();
    Ok(disks.map(|disk| Described { file: disk.path, name: disk.name }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_libvirt_boxs_metadata_lists_its_disks() {
        let mut descriptions = Descriptions::default();
        let text =
            br#"{"provider":"libvirt","disks":[{"path":"b.img"},{"path":"a.img","name":"data"}]}"#;
        let place = descriptions.take("metadata.json", text.len() as u64).unwrap().unwrap();
        place.extend(text);
        let disks = descriptions.disks().unwrap();
        let seen: Vec<_> = disks.iter().map(|it| (it.file.as_str(), it.name.as_deref())).collect();
        assert_eq!(seen, [("b.img", None), ("a.img", Some("data"))]);
        assert!(descriptions.take("metadata.json", 1).is_err(), "a second one");
        assert!(descriptions.take("x/metadata.json", 1).unwrap().is_none());
        assert!(descriptions.take("vm.ovf", LONGEST + 1).is_err());
    }

    #[test]
    fn nonsense_is_refused_and_nothing_is_said_where_nothing_is() {
        assert_eq!(Descriptions::default().disks().unwrap(), []);
        assert_eq!(of_metadata("{}").unwrap(), []);
        for text in ["", "7", r#"{"disks":7}"#, r#"{"disks":[{}]}"#, &"[".repeat(100_000)] {
            assert!(of_metadata(text).is_err());
        }
    }
}
