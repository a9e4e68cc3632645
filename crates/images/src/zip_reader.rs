//! Reading a zip of layers that somebody made: which files are in it, and their bytes.
//!
//! Entries are taken by their base names alone, so a zip of a folder, or one that Windows made with
//! `\` in its names, is as good as a flat one. What an honest archiver never writes refuses the whole
//! zip: ways out of a folder, links, two files of one key, bytes that belong to several files.
//!
//! Nothing is believed of a length: no more is written than the archive says, no more than the file
//! system has room for, and runs of zeros take no space.

use crate::copy::check_room;
use crate::deflate::is_zero;
use crate::error::{During, Error, ErrorKind, Result};
use crate::id::LayerGuid;
use crate::state::{Exported, MAX_SIDECAR};
use crate::{layer_file, names, step};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use zip::{CompressionMethod, DateTime, ZipArchive};

/// More entries than any chain has.
const MAX_ENTRIES: usize = 4096;
const PIECE: usize = 1 << 20;
/// What is left out of a file where it is zeros.
const PAGE: usize = 64 << 10;
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
    archive: ZipArchive<BufReader<File>>,
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
        let reading = || format!("read the zip {}", path.display());
        let mut archive = ZipArchive::new(BufReader::new(file)).during(reading)?;
        let refused = |why: &str| Error::bad_input(format!("{} {why}", path.display()));
        if archive.len() > MAX_ENTRIES {
            return Err(refused(&format!("has {} entries, too many", archive.len())));
        }
        if archive.has_duplicate_names() {
            return Err(refused("has two entries of one name"));
        }
        if archive.has_overlapping_entries().during(reading)? {
            return Err(refused("has bytes that belong to several files: not an honest archive"));
        }
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
        for number in 0..self.archive.len() {
            let reading = || format!("read the zip {}", self.path.display());
            let entry = self.archive.by_index_data(number).during(reading)?;
            let name = entry.name().during(reading)?.into_owned();
            let refused =
                |why: &str| Error::bad_input(format!("{}: {name:?} {why}", self.path.display()));
            let Some(base) = base_name(&name).map_err(refused)? else { continue };
            if entry.is_dir() {
                continue;
            }
            if entry.is_symlink() {
                return Err(refused("is a symbolic link"));
            }
            let is_hidden = base.starts_with('.') || name.starts_with("__MACOSX");
            let (disk, sidecar) = (as_disk(base), names::parse_sidecar_file(base));
            if is_hidden || (disk.is_none() && sidecar.is_none()) {
                self.passed_over.push(name);
                continue;
            }
            if entry.encrypted() {
                return Err(refused("is encrypted").hint("unzip it, and import what comes out"));
            }
            if !matches!(
                entry.compression(),
                CompressionMethod::Stored | CompressionMethod::Deflated
            ) {
                return Err(refused(&format!(
                    "is compressed by {}; stored and deflated are known",
                    entry.compression()
                )));
            }
            if let Some((guid, is_keyless)) = disk {
                if let Some(other) = keys.insert(guid, base.to_owned()) {
                    return Err(refused(&format!("has the same GUID as {other:?}")));
                }
                if entry.size() > MAX_DISK {
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
                    length: entry.size(),
                    time: entry.last_modified().and_then(timestamp),
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
        for layer in &mut self.layers {
            let Some(number) = sidecars.remove(&layer.guid) else { continue };
            let name = names::sidecar_file(&layer.file);
            let reading = || format!("read {name} in {}", self.path.display());
            let mut entry = self.archive.by_index(number).during(reading)?;
            let mut bytes = Vec::new();
            entry.by_ref().take(MAX_SIDECAR + 1).read_to_end(&mut bytes).during(reading)?;
            let refused =
                |why: String| Error::bad_input(format!("{name} in {}: {why}", self.path.display()));
            if bytes.len() as u64 > MAX_SIDECAR {
                return Err(refused("too long".to_owned()));
            }
            let sidecar = Exported::from_json(&bytes)
                .map_err(|error| refused(crate::error::chain(&error).to_string()))?;
            if sidecar.sidecar.guid != layer.guid {
                return Err(refused(format!("it speaks of {}", sidecar.sidecar.guid)));
            }
            layer.sidecar = Some(sidecar);
        }
        for (_, number) in sidecars {
            let entry = self.archive.by_index_data(number);
            let name = entry.and_then(|entry| Ok(entry.name()?.into_owned()));
            self.passed_over.push(name.during(|| format!("read {}", self.path.display()))?);
        }
        Ok(())
    }

    /// Writes a layer's file to a path where nothing is, synced. `advanced` is told how far it is.
    pub(crate) fn extract(
        &mut self,
        number: usize,
        to: &Path,
        advanced: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let writing = || format!("write {}", to.display());
        step::allocating().during(writing)?;
        let file = OpenOptions::new().write(true).create_new(true).open(to).during(writing)?;
        let length = self.layers[number].length;
        file.set_len(length).during(writing)?;
        let name = self.layers[number].called.clone();
        let (mut since, mut is_plausible) = (0, false);
        check_room(to, 1)?;
        self.read(number, &mut |offset, bytes| {
            if offset == 0 && !bytes.starts_with(SIGNATURE) {
                return Err(Error::bad_input(format!("{name} in the zip is no VHDX file")));
            }
            if !is_plausible && offset >= HEAD {
                check_plausible(to, length)?;
                is_plausible = true;
            }
            for (page, at) in bytes.chunks(PAGE).zip((offset..).step_by(PAGE)) {
                if !is_zero(page) {
                    file.write_all_at(page, at).during(writing)?;
                    since += page.len() as u64;
                }
            }
            if since >= ROOM_STEP {
                since = 0;
                check_room(to, 1)?;
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
        &mut self,
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
    fn read(
        &mut self,
        number: usize,
        take: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let layer = &self.layers[number];
        let length = layer.length;
        let damaged = |why: &dyn std::fmt::Display| {
            let (file, zip) = (&layer.called, self.path.display());
            Error::bad_input(format!("{file} in {zip} cannot be read: {why}"))
                .hint("the zip is damaged or cut off: copy or make it once more")
        };
        let mut entry = self.archive.by_index(layer.entry).map_err(|error| damaged(&error))?;
        let (mut piece, mut at) = (Vec::with_capacity(PIECE), 0);
        loop {
            piece.clear();
            entry
                .by_ref()
                .take(PIECE as u64)
                .read_to_end(&mut piece)
                .map_err(|error| damaged(&error))?;
            if piece.is_empty() {
                break;
            }
            let end = at + piece.len() as u64;
            if end > length {
                return Err(damaged(&format_args!("it is longer than the {length} bytes it says")));
            }
            take(at, &piece)?;
            at = end;
        }
        match at == length {
            true => Ok(()),
            false => Err(damaged(&format_args!("it has {at} bytes and not the {length} it says"))),
        }
    }
}

/// Refuses a file longer than the disk in it explains, as soon as the file says what disk that is.
pub(crate) fn check_plausible(file: &Path, length: u64) -> Result<()> {
    // Metadata may also lie further on; then the disk is opened once it is whole.
    let Ok(info) = layer_file::info(file) else { return Ok(()) };
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

/// Returns the last part of an entry's name, `None` for a folder's.
fn base_name(name: &str) -> std::result::Result<Option<&str>, &'static str> {
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
    Ok(parts.next_back().filter(|base| !base.is_empty()))
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

fn timestamp(time: DateTime) -> Option<Timestamp> {
    let number = |number: u8| i8::try_from(number).ok();
    let time = jiff::civil::DateTime::new(
        i16::try_from(time.year()).ok()?,
        number(time.month())?,
        number(time.day())?,
        number(time.hour())?,
        number(time.minute())?,
        number(time.second())?,
        0,
    );
    time.ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|time| time.timestamp())
}

impl<T> During<T> for zip::result::ZipResult<T> {
    fn during(self, operation: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| match error {
            zip::result::ZipError::Io(error) if is_of_the_host(&error) => {
                Err::<(), _>(error).during(operation).unwrap_err()
            }
            error => Error::new(ErrorKind::BadInput, format!("{}: {error}", operation())),
        })
    }
}

/// Tells failures of the machine from those that the archive's bytes cause.
fn is_of_the_host(error: &io::Error) -> bool {
    error.raw_os_error().is_some()
}
