//! Reading a zip of layers that somebody made: which files are in it, and their bytes.
//!
//! Entries are taken by their base names alone, so a zip of a folder, or one that Windows made with
//! `\` in its names, is as good as a flat one. What an honest archiver never writes refuses the whole
//! zip: ways out of a folder, links, two files of one key, bytes that belong to several files.
//!
//! Nothing is believed of a length: no more is written than the archive says, no more than the file
//! system has room for, and runs of zeros take no space.

use crate::copy;
use crate::deflate::is_zero;
use crate::error::{During, Error, ErrorKind, Result};
use crate::id::LayerGuid;
use crate::state::{Exported, MAX_SIDECAR};
use crate::{layer_file, names, step};
use ireko_disk::vhdx::Info;
use ireko_zip::{Archive, Entry, Kind, Method, Time};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes of all sidecars together; each has [`MAX_SIDECAR`].
const MAX_SIDECARS: u64 = 64 << 20;
const PIECE: usize = 1 << 20;
/// What is left out of a file where it is zeros.
const PAGE: usize = 4 << 10;
/// How often the room on the file system is looked at.
const ROOM_STEP: u64 = 64 << 20;
/// Where a VHDX file's metadata is known, as a rule.
const HEAD: u64 = 8 << 20;
/// The longest VHDX file there can be: 64 TiB, and something for its metadata.
const MAX_DISK: u64 = 65 << 40;
const SIGNATURE: &[u8] = b"vhdxfile";

/// A zip of layers.
#[derive(Debug)]
pub(crate) struct ZipReader {
    path: PathBuf,
    archive: Archive<File>,
    /// In the order of the archive.
    pub layers: Vec<ZippedLayer>,
    /// Names of entries that are neither layers nor their sidecars.
    pub passed_over: Vec<String>,
}

/// A layer's file in a zip.
#[derive(Debug)]
pub(crate) struct ZippedLayer {
    entry: usize,
    /// The key in its name, or one that it gets.
    pub guid: LayerGuid,
    /// Its name had no key.
    pub is_keyless: bool,
    /// Its base name in the zip.
    pub called: String,
    /// The same with its key.
    pub file: String,
    pub length: u64,
    /// When it was put there, as far as the zip says.
    pub time: Option<Timestamp>,
    /// Its sidecar, where there is one.
    pub sidecar: Option<Exported>,
}

impl ZipReader {
    /// Opens a zip and looks at the names in it, and at the sidecars.
    pub(crate) fn open(path: &Path) -> Result<ZipReader> {
        let file = File::open(path).during(|| format!("open {}", path.display()))?;
        let archive =
            Archive::open(file).map_err(|error| unreadable(error, &path.display().to_string()))?;
        let refused = |why: &str| Error::bad_input(format!("{} {why}", path.display()));
        let mut zip = ZipReader {
            path: path.to_owned(),
            archive,
            layers: Vec::new(),
            passed_over: Vec::new(),
        };
        let sidecars = zip.look()?;
        zip.read_sidecars(sidecars)?;
        if zip.layers.is_empty() {
            return Err(refused("holds no VHDX file").hint(
                "an export's zip is taken, or any of VHDX files; unzip other disks, and import them \
                 by themselves",
            ));
        }
        Ok(zip)
    }

    /// Lists the layers; returns where the sidecars are.
    fn look(&mut self) -> Result<BTreeMap<LayerGuid, usize>> {
        let (mut sidecars, mut keys) = (BTreeMap::new(), BTreeMap::new());
        for (number, entry) in self.archive.entries().iter().enumerate() {
            let name = &entry.name;
            let refused =
                |why: &str| Error::bad_input(format!("{}: {name:?} {why}", self.path.display()));
            let base = base_name(name).map_err(refused)?;
            match entry.kind {
                Kind::Folder => continue,
                Kind::File => {}
                Kind::Other => return Err(refused("is a link, or another thing that is no file")),
            }
            let is_hidden = base.starts_with('.') || name.starts_with("__MACOSX");
            let (disk, sidecar) = (as_disk(base), names::parse_sidecar_file(base));
            if is_hidden || (disk.is_none() && sidecar.is_none()) {
                self.passed_over.push(name.clone());
                continue;
            }
            if entry.is_encrypted {
                return Err(refused("is encrypted").hint("unzip it, and import what comes out"));
            }
            if let Method::Other(method) = entry.method {
                return Err(refused(&format!(
                    "is compressed by method {method}; stored and deflated are known"
                ))
                .hint("unzip it, and import what comes out"));
            }
            if let Some((guid, is_keyless)) = disk {
                if let Some(other) = keys.insert(guid, base.to_owned()) {
                    return Err(refused(&format!("has the same GUID as {other:?}")));
                }
                if entry.length > MAX_DISK {
                    return Err(refused("says that it is longer than any VHDX file can be"));
                }
                self.layers.push(ZippedLayer {
                    entry: number,
                    guid,
                    is_keyless,
                    called: base.to_owned(),
                    file: match is_keyless {
                        true => names::disk_file(names::without_disk_suffix(base), guid),
                        false => base.to_owned(),
                    },
                    length: entry.length,
                    time: entry.time.and_then(timestamp),
                    sidecar: None,
                });
            } else if let Some((_, guid)) = sidecar
                && sidecars.insert(guid, number).is_some()
            {
                return Err(refused("is the second sidecar of one file"));
            }
        }
        Ok(sidecars)
    }

    fn read_sidecars(&mut self, mut sidecars: BTreeMap<LayerGuid, usize>) -> Result<()> {
        let mut left = MAX_SIDECARS;
        for layer in &mut self.layers {
            let Some(number) = sidecars.remove(&layer.guid) else { continue };
            let entry = &self.archive.entries()[number];
            let place = format!("{} in {}", entry.name, self.path.display());
            let refused = |why: &str| Error::bad_input(format!("{place} {why}"));
            left = left
                .checked_sub(entry.length)
                .filter(|_| entry.length <= MAX_SIDECAR)
                .ok_or_else(|| refused("is too long for what it is"))?;
            let mut bytes = Vec::new();
            let mut take = |_, piece: &[u8]| {
                bytes.extend_from_slice(piece);
                Ok(())
            };
            read(&self.archive, entry, &place, &mut take)?;
            let sidecar = Exported::from_json(&bytes).map_err(|error| {
                refused(&format!("cannot be read: {}", crate::error::chain(&error)))
            })?;
            if sidecar.sidecar.guid != layer.guid {
                return Err(refused(&format!(
                    "is another's: it speaks of {}",
                    sidecar.sidecar.guid
                )));
            }
            layer.sidecar = Some(sidecar);
        }
        let unused = sidecars.values().map(|number| self.archive.entries()[*number].name.clone());
        self.passed_over.extend(unused);
        Ok(())
    }

    /// Writes a layer's file to a path where nothing is, synced. `advanced` is told how far it is;
    /// `admit` sees what disk it is, if that can be told early, and may end it.
    pub(crate) fn extract(
        &self,
        number: usize,
        to: &Path,
        advanced: &mut dyn FnMut(u64) -> Result<()>,
        admit: &dyn Fn(Info) -> Result<()>,
    ) -> Result<()> {
        let writing = || format!("write {}", to.display());
        step::allocating().during(writing)?;
        let file = OpenOptions::new().write(true).create_new(true).open(to).during(writing)?;
        let length = self.layers[number].length;
        file.set_len(length).during(writing)?;
        let name = self.layers[number].called.clone();
        let (mut since, mut is_admitted) = (0, false);
        check_room(to, &name)?;
        self.read(number, &mut |offset, bytes| {
            if offset == 0 && !bytes.starts_with(SIGNATURE) {
                return Err(Error::bad_input(format!("{name} in the zip is no VHDX file")));
            }
            if !is_admitted && offset >= HEAD {
                is_admitted = true;
                // Metadata may also lie further on; then the disk is opened once it is whole.
                if let Ok(info) = layer_file::info(to) {
                    check_plausible(&info, length)?;
                    admit(info)?;
                }
            }
            since += write_sparsely(&file, offset, bytes).during(writing)?;
            if since >= ROOM_STEP {
                since = 0;
                check_room(to, &name)?;
            }
            advanced(offset + bytes.len() as u64)
        })?;
        if length == 0 {
            return Err(Error::bad_input(format!("{name} in the zip is empty")));
        }
        file.sync_all().during(writing)
    }

    /// Tells whether a layer's file in the zip is, byte for byte, the file at `path`.
    pub(crate) fn equals(
        &self,
        number: usize,
        path: &Path,
        advanced: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<bool> {
        let reading = || format!("read {}", path.display());
        let file = File::open(path).during(reading)?;
        if file.metadata().during(reading)?.len() != self.layers[number].length {
            return Ok(false);
        }
        let (mut here, mut is_equal) = (vec![0; PIECE], true);
        // Read to its end all the same, so that a damaged zip is never taken for a good one.
        self.read(number, &mut |offset, bytes| {
            let here = &mut here[..bytes.len()];
            if is_equal {
                file.read_exact_at(here, offset).during(reading)?;
                is_equal = here == bytes;
            }
            advanced(offset + bytes.len() as u64)
        })?;
        Ok(is_equal)
    }

    /// Reads a layer's file, piece after piece; its checksum is right when this returns.
    fn read(&self, number: usize, take: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let layer = &self.layers[number];
        let place = format!("{} in {}", layer.called, self.path.display());
        read(&self.archive, &self.archive.entries()[layer.entry], &place, take)
    }
}

fn read(
    archive: &Archive<File>,
    entry: &Entry,
    place: &str,
    take: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut take = |at, piece: &[u8]| take(at, piece).map_err(Failure::Other);
    archive.read(entry, &mut take).map_err(|failure| match failure {
        Failure::Archive(error) => unreadable(error, place)
            .hint("the zip is damaged or cut off: copy or make it once more"),
        Failure::Other(error) => error,
    })
}

/// What ends the reading of an entry.
enum Failure {
    Archive(ireko_zip::Error),
    Other(Error),
}

impl From<ireko_zip::Error> for Failure {
    fn from(error: ireko_zip::Error) -> Failure {
        Failure::Archive(error)
    }
}

fn unreadable(error: ireko_zip::Error, what: &str) -> Error {
    match error {
        ireko_zip::Error::Malformed(why) => {
            Error::bad_input(format!("{what} cannot be read: {why}"))
        }
        ireko_zip::Error::Read(error) => {
            let error = Err::<(), _>(error).during(|| format!("read {what}"));
            error.err().unwrap_or_else(|| Error::bad_input(format!("{what} cannot be read")))
        }
    }
}

/// Writes what is not zeros, and returns how much that was.
fn write_sparsely(file: &File, offset: u64, bytes: &[u8]) -> io::Result<u64> {
    let (mut written, mut start, mut at) = (0, 0, 0);
    while at < bytes.len() {
        let end = bytes.len().min(at + PAGE);
        let is_hole = is_zero(&bytes[at..end]);
        let data = if is_hole { start..at } else { start..end };
        if !data.is_empty() && (is_hole || end == bytes.len()) {
            written += data.len() as u64;
            file.write_all_at(&bytes[data.clone()], offset + data.start as u64)?;
        }
        at = end;
        if is_hole {
            start = end;
        }
    }
    Ok(written)
}

fn check_room(to: &Path, name: &str) -> Result<()> {
    match copy::room(to)? {
        0 => Err(Error::new(
            ErrorKind::NoSpace,
            format!("unpack {name}: the store's file system is full"),
        )
        .hint("free some space there; nothing was changed")),
        _ => Ok(()),
    }
}

/// Refuses a file longer than the disk in it explains.
pub(crate) fn check_plausible(info: &Info, length: u64) -> Result<()> {
    // Block tables and bitmaps are less than a hundredth, and there may be a log of some GiB.
    let size = info.geometry.virtual_size;
    let most = size.saturating_add(size / 64).saturating_add(8 << 30);
    match length > most {
        true => Err(Error::bad_input(format!(
            "a file of {length} bytes for a disk of {size}: not an honest VHDX file"
        ))),
        false => Ok(()),
    }
}

/// Returns the last part of an entry's name.
fn base_name(name: &str) -> std::result::Result<&str, &'static str> {
    if name.starts_with(['/', '\\']) || name.as_bytes().get(1) == Some(&b':') {
        return Err("is an absolute path");
    }
    if name.chars().any(char::is_control) {
        return Err("has control characters in its name");
    }
    let mut parts = name.split(['/', '\\']);
    if parts.clone().any(|part| part == "..") {
        return Err("leads out of the folder it is in");
    }
    Ok(parts.next_back().unwrap_or_default())
}

/// Returns the key of a disk's file, and whether its name had none; `None` for other files.
fn as_disk(base: &str) -> Option<(LayerGuid, bool)> {
    if names::without_disk_suffix(base) == base {
        return None;
    }
    Some(match names::parse_disk_file(base) {
        Some((_, guid)) => (guid, false),
        None => (LayerGuid::random(), true),
    })
}

/// Returns a time as if it were UTC's; the first of all is written where none is known.
fn timestamp(time: Time) -> Option<Timestamp> {
    if (time.year, time.month, time.day) == (1980, 1, 1) {
        return None;
    }
    let [month, day, hour, minute, second] =
        [time.month, time.day, time.hour, time.minute, time.second].map(i8::try_from);
    let time = jiff::civil::DateTime::new(
        i16::try_from(time.year).ok()?,
        month.ok()?,
        day.ok()?,
        hour.ok()?,
        minute.ok()?,
        second.ok()?,
        0,
    );
    time.ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|time| time.timestamp())
}
