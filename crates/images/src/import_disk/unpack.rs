//! Unpacking the disks of an OVA or a Vagrant box.
//!
//! ```text
//!   archive ─► its names are sane, each once ─┬─► members that are disks ─► files of ours ─┐
//!                                             ├─► the description of the machine ──────────┴─► in order
//!                                             └─► others: not unpacked, of limited size
//! ```
//!
//! No name in the archive becomes a path: what is unpacked lies at the paths that the caller chose.
//! Zeros become holes, so what a small archive claims costs no space.

use super::described::Descriptions;
use crate::compression::Compression;
use crate::copy;
use crate::error::{During, Error, Result};
use crate::recognise::{Packing, disk_by_head};
use crate::vet::MAX_DISK;
use ireko_disk::Watch;
use ireko_tar::{Archive, Entry, Kind};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Members of an archive; more are no machine.
const MAX_MEMBERS: usize = 10_000;
/// The largest member that is not a disk.
const MAX_OTHER: u64 = 1 << 30;
/// What may stand after an archive's last member: it is padded to the blocks of some tape.
const MAX_PADDING: u64 = 16 << 20;
/// What a machine's disk may be called where its content does not say it: fixed VHD and raw disks.
const DISK_ENDINGS: [&str; 3] = [".vhd", ".raw", ".img"];
/// Where zeros are looked for.
const PAGE: usize = 4096;

/// A disk that was unpacked.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// Its name in the archive.
    pub name: String,
    /// What the description of the machine calls it.
    pub called: Option<String>,
    pub path: PathBuf,
}

/// Unpacks the disks that an archive holds to `paths`, where nothing is, and returns them in the order
/// of its description: the one that the machine boots from first.
///
/// Fails with [`crate::ErrorKind::BadInput`] where there are none or more than `paths`, where nothing
/// says which of several is the first, or where a name in the archive leads anywhere, is there
/// twice, or is a link.
pub(super) fn disks(
    source: &Path,
    (packing, compression): (Packing, Compression),
    paths: &[PathBuf],
    watch: &dyn Watch,
) -> Result<Vec<Unpacked>> {
    let opening = || format!("open {}", source.display());
    let file = File::open(source).during(opening)?;
    let total = file.metadata().during(opening)?.len();
    let watched = Watched { file, done: 0, total, watch };
    let plain = BufReader::with_capacity(256 << 10, watched);
    let plain = compression.decoder(plain).during(opening)?;
    let (names, descriptions) = (BTreeSet::new(), Descriptions::default());
    let mut members = Members { packing, names, descriptions, disks: Vec::new(), paths };
    let mut archive = Archive::new(plain);
    while let Some(entry) = archive.next_entry().map_err(|error| members.unreadable(error))? {
        let name = members.admit(&entry)?;
        if entry.kind == Kind::File {
            members.take(&mut archive, &entry, name)?;
        }
    }
    // To the very end: what was compressed has its checksum there.
    let rest = std::io::copy(&mut archive.into_inner().take(MAX_PADDING), &mut io::sink());
    match rest {
        Ok(..MAX_PADDING) => {}
        Ok(_) => return Err(members.refused("goes on after its end")),
        Err(error) => return Err(members.refused(format_args!("cannot be read: {error}"))),
    }
    for Unpacked { path, .. } in &members.disks {
        File::open(path).and_then(|file| file.sync_all()).during(opening)?;
    }
    members.in_order()
}

/// What was seen of the archive.
struct Members<'a> {
    packing: Packing,
    names: BTreeSet<String>,
    descriptions: Descriptions,
    /// The disks that were unpacked.
    disks: Vec<Unpacked>,
    /// Where they go.
    paths: &'a [PathBuf],
}

impl Members<'_> {
    /// Checks a member's name and kind, and returns the name.
    fn admit(&mut self, entry: &Entry) -> Result<String> {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        if path.starts_with('/') || path.split(['/', '\\']).any(|part| part == "..") {
            return Err(self.refused(format_args!("has a member that leads outside: {path:?}")));
        }
        if !matches!(entry.kind, Kind::File | Kind::Folder) {
            return Err(self.refused(format_args!("has a member that is no file: {path:?}")));
        }
        let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
        let name = parts.collect::<Vec<_>>().join("/");
        if self.names.len() == MAX_MEMBERS {
            return Err(self.refused(format_args!("has more than {MAX_MEMBERS} members")));
        }
        if !self.names.insert(name.to_lowercase()) {
            return Err(self.refused(format_args!("has {path:?} twice")));
        }
        Ok(name)
    }

    /// Unpacks a file if it is a disk, reads it if it describes the machine, and past it if it is neither.
    fn take(
        &mut self,
        archive: &mut Archive<impl Read>,
        entry: &Entry,
        name: String,
    ) -> Result<()> {
        if entry.size > MAX_DISK {
            return Err(self.refused(format_args!("claims that {name:?} has {} bytes", entry.size)));
        }
        let packing = self.packing;
        let refused = |error: Error| refused(packing, crate::error::chain(&error));
        if let Some(text) = self.descriptions.take(&name, entry.size).map_err(refused)? {
            let read = archive.read_data(entry, |_, bytes| {
                text.extend(bytes);
                Ok::<(), Failure>(())
            });
            return read.map_err(|error| self.failed(error));
        }
        let next = self.paths.get(self.disks.len());
        let mut taking: Option<Taking<'_>> = None;
        let mut first = true;
        let read = archive.read_data(entry, |offset, bytes| {
            if std::mem::take(&mut first) && is_disk(&name, offset, bytes) {
                let to = next.ok_or_else(|| self.several("more disks than it may", &name))?;
                taking = Some(Taking::begin(to, entry.size)?);
            }
            match &mut taking {
                Some(taking) => taking.write(offset, bytes),
                None if entry.size > MAX_OTHER => Err(self.too_large(&name, entry.size).into()),
                None => Ok(()),
            }
        });
        read.map_err(|error| self.failed(error))?;
        if let Some(Taking { to, .. }) = taking {
            self.disks.push(Unpacked { name, called: None, path: to.to_owned() });
        }
        Ok(())
    }

    /// Puts the disks into the order that the description has.
    fn in_order(mut self) -> Result<Vec<Unpacked>> {
        if self.disks.is_empty() {
            return Err(self.refused("holds no disk that is known"));
        }
        if self.disks.len() == 1 {
            return Ok(self.disks);
        }
        let described = self.descriptions.disks();
        let described = described.map_err(|error| {
            let remedy = error.remedy().map(str::to_owned);
            let error = self.several(&crate::error::chain(&error).to_string(), "");
            remedy.into_iter().fold(error, Error::hint)
        })?;
        if described.is_empty() {
            return Err(self.several("nothing in it says which of them is the first", ""));
        }
        let mut ordered = Vec::new();
        for disk in described {
            let at = self.disks.iter().position(|it| is_called(&it.name, &disk.file));
            let Some(at) = at else {
                return Err(
                    self.several("its description speaks of one that is not in it", &disk.file)
                );
            };
            ordered.push(Unpacked { called: disk.name, ..self.disks.swap_remove(at) });
        }
        match self.disks.first() {
            None => Ok(ordered),
            Some(other) => Err(self.several("its description does not speak of", &other.name)),
        }
    }

    fn failed(&self, failure: Failure) -> Error {
        match failure {
            Failure::Archive(error) => self.unreadable(error),
            Failure::Other(error) => error,
        }
    }

    /// Refuses several disks for this reason, which is one disk's.
    fn several(&self, reason: &str, disk: &str) -> Error {
        let disk = if disk.is_empty() { String::new() } else { format!(" {disk:?}") };
        let error = self.refused(format_args!("holds several disks, and {reason}{disk}"));
        error.hint("unpack it with tar, and import each of them")
    }

    fn too_large(&self, name: &str, size: u64) -> Error {
        self.refused(format_args!("holds {name:?}, {size} bytes of no disk that is known"))
    }

    fn refused(&self, what: impl std::fmt::Display) -> Error {
        refused(self.packing, what)
    }

    fn unreadable(&self, error: ireko_tar::Error) -> Error {
        self.refused(format_args!("cannot be read: {}", crate::error::chain(&error)))
    }
}

fn refused(packing: Packing, what: impl std::fmt::Display) -> Error {
    Error::bad_input(format!("the {packing} {what}"))
}

/// Tells whether a description means this member. In an OVF it is a part of a URL, and most write it as
/// it is.
fn is_called(name: &str, file: &str) -> bool {
    let file = file.strip_prefix("./").unwrap_or(file);
    name == file || name.replace(' ', "%20") == file
}

/// Tells a disk by its first bytes, or where they are none of a known format by its name.
fn is_disk(name: &str, offset: u64, bytes: &[u8]) -> bool {
    let lower = name.to_ascii_lowercase();
    offset == 0 && disk_by_head(bytes).is_some()
        || DISK_ENDINGS.iter().any(|ending| lower.ends_with(ending))
}

/// A disk that is being written.
struct Taking<'a> {
    to: &'a Path,
    file: File,
    /// Bytes that may still be written.
    room: u64,
}

impl<'a> Taking<'a> {
    fn begin(to: &'a Path, size: u64) -> Result<Self> {
        crate::step::allocating().during(|| writing(to))?;
        let room = copy::room(to)?;
        let file = OpenOptions::new().write(true).create_new(true).open(to);
        let file = file.and_then(|file| file.set_len(size).map(|()| file));
        Ok(Self { to, file: file.during(|| writing(to))?, room })
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        for (index, page) in bytes.chunks(PAGE).enumerate() {
            if page.iter().all(|byte| *byte == 0) {
                continue;
            }
            match self.room.checked_sub(page.len() as u64) {
                Some(room) => self.room = room,
                None => copy::check_room(self.to, u64::MAX)?,
            }
            let at = offset + (index * PAGE) as u64;
            self.file.write_all_at(page, at).during(|| writing(self.to))?;
        }
        Ok(())
    }
}

fn writing(to: &Path) -> String {
    format!("unpack the disk to {}", to.display())
}

/// What ends the reading of a member.
enum Failure {
    Archive(ireko_tar::Error),
    Other(Error),
}

impl From<ireko_tar::Error> for Failure {
    fn from(error: ireko_tar::Error) -> Failure {
        Failure::Archive(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Other(error)
    }
}

/// A file that tells how far it was read.
struct Watched<'a> {
    file: File,
    done: u64,
    total: u64,
    watch: &'a dyn Watch,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.watch.cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let count = self.file.read(buffer)?;
        self.done += count as u64;
        self.watch.advanced(self.done, self.total);
        Ok(count)
    }
}
