//! What a tar archive is, by the names of its first members.

use super::{Packing, Recognised};
use crate::compression::Compression;
use ireko_tar::{Archive, Error, Kind, Result};
use std::io::Read;

/// How many members are looked at, and how many bytes of the archive at most: what tells an archive
/// stands at its beginning.
const MEMBERS: usize = 64;
const BYTES: u64 = 64 << 20;

/// What was seen so far.
#[derive(Default)]
struct Seen {
    ovf: bool,
    /// `metadata.json`, of every Vagrant box.
    metadata: bool,
    /// A name that only boxes have.
    boxed: bool,
    /// A disk's name or a folder of them.
    disk: bool,
    oci_layout: bool,
    manifest: bool,
    /// What stands beside docker's manifest in all of its versions.
    saved: bool,
}

/// Tells what an archive is; one that cannot be read to a decision is an error.
pub(super) fn of_tar(source: impl Read, compression: Compression) -> Result<Recognised> {
    let mut archive = Archive::new(source.take(BYTES));
    let mut seen = Seen::default();
    for number in 0..MEMBERS {
        match archive.next_entry() {
            Ok(Some(entry)) => seen.note(&entry.path, entry.kind, number == 0),
            Ok(None) => break,
            // The limit above, or a damaged archive: whoever unpacks it finds out.
            Err(Error::Malformed(_)) if number > 0 => break,
            Err(error) => return Err(error),
        }
        if seen.ovf {
            break;
        }
    }
    Ok(seen.verdict(compression))
}

impl Seen {
    fn note(&mut self, path: &[u8], kind: Kind, first: bool) {
        let path = String::from_utf8_lossy(path);
        let name = path.strip_prefix("./").unwrap_or(&path).trim_end_matches('/');
        let lower = name.to_ascii_lowercase();
        if lower.starts_with("virtual hard disks") {
            self.disk = true;
        }
        if name == "blobs" || name.starts_with("blobs/") || name.ends_with("/layer.tar") {
            self.saved = true;
        }
        if kind != Kind::File || name.contains('/') {
            return;
        }
        let suffix = lower.rsplit_once('.').map(|(_, suffix)| suffix).unwrap_or_default();
        match (name, suffix) {
            ("oci-layout", _) => self.oci_layout = true,
            ("manifest.json", _) => self.manifest = true,
            ("repositories", _) => self.saved = true,
            ("metadata.json", _) => self.metadata = true,
            ("Vagrantfile" | "box.ovf" | "box.img" | "box_0.img", _) => self.boxed = true,
            // The description of an OVA is its first member.
            (_, "ovf") if first => self.ovf = true,
            (_, "vmdk" | "vhd" | "vhdx" | "qcow2" | "img" | "vdi" | "raw") => self.disk = true,
            _ => {}
        }
    }

    fn verdict(&self, compression: Compression) -> Recognised {
        match self {
            Seen { ovf: true, .. } => Recognised::Packed(Packing::Ova, compression),
            Seen { manifest: true, saved: true, .. } => Recognised::DockerArchive,
            Seen { oci_layout: true, .. } => Recognised::OciLayout,
            Seen { boxed: true, .. } | Seen { metadata: true, disk: true, .. } => {
                Recognised::Packed(Packing::VagrantBox, compression)
            }
            _ => Recognised::RootFs,
        }
    }
}
