//! Unpacking the one disk of an OVA or a Vagrant box.
//!
//! ```text
//!   archive ─► its names are sane, each once ─► the one member that is a disk ─► a file of ours
//!                                           └─► others: not unpacked, of limited size
//! ```
//!
//! No name in the archive becomes a path: what is unpacked lies at the path that the caller chose.
//! Zeros become holes, so what a small archive claims costs no space.

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
use std::path::Path;

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

/// Unpacks the disk that an archive holds to `to`, where nothing is.
///
/// Fails with [`crate::ErrorKind::BadInput`] where there is none or more than one, or where a name in
/// the archive leads anywhere, is there twice, or is a link.
pub(super) fn the_disk(
    source: &Path,
    packing: Packing,
    compression: Compression,
    to: &Path,
    watch: &dyn Watch,
) -> Result<()> {
    let opening = || format!("open {}", source.display());
    let file = File::open(source).during(opening)?;
    let total = file.metadata().during(opening)?.len();
    let watched = Watched { file, done: 0, total, watch };
    let plain = BufReader::with_capacity(256 << 10, watched);
    let plain = compression.decoder(plain).during(opening)?;
    let mut members = Members { packing, names: BTreeSet::new(), disk: None };
    let mut archive = Archive::new(plain);
    while let Some(entry) = archive.next_entry().map_err(|error| members.unreadable(error))? {
        let name = members.admit(&entry)?;
        if entry.kind == Kind::File {
            members.take(&mut archive, &entry, name, to)?;
        }
    }
    // To the very end: what was compressed has its checksum there.
    let rest = std::io::copy(&mut archive.into_inner().take(MAX_PADDING), &mut io::sink());
    match rest {
        Ok(..MAX_PADDING) => {}
        Ok(_) => return Err(members.refused("goes on after its end")),
        Err(error) => return Err(members.refused(format_args!("cannot be read: {error}"))),
    }
    match members.disk {
        Some(_) => File::open(to).and_then(|file| file.sync_all()).during(opening),
        None => Err(members.refused("holds no disk that is known")),
    }
}

/// What was seen of the archive.
struct Members {
    packing: Packing,
    names: BTreeSet<String>,
    /// The name of the disk that was unpacked.
    disk: Option<String>,
}

impl Members {
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

    /// Unpacks a file if it is the disk; reads past it if it is none.
    fn take(
        &mut self,
        archive: &mut Archive<impl Read>,
        entry: &Entry,
        name: String,
        to: &Path,
    ) -> Result<()> {
        if entry.size > MAX_DISK {
            return Err(self.refused(format_args!("claims that {name:?} has {} bytes", entry.size)));
        }
        let mut taking = Taking { to, file: None, room: 0 };
        let mut first = true;
        let read = archive.read_data(entry, |offset, bytes| {
            if std::mem::take(&mut first) && is_disk(&name, offset, bytes) {
                if let Some(other) = &self.disk {
                    return Err(self.several(other, &name));
                }
                taking.begin(entry.size)?;
            }
            match taking.file.is_some() {
                true => taking.write(offset, bytes),
                false if entry.size > MAX_OTHER => Err(self.too_large(&name, entry.size).into()),
                false => Ok(()),
            }
        });
        read.map_err(|error| match error {
            Failure::Archive(error) => self.unreadable(error),
            Failure::Other(error) => error,
        })?;
        if taking.file.is_some() {
            self.disk = Some(name);
        }
        Ok(())
    }

    fn several(&self, first: &str, second: &str) -> Failure {
        let error = self.refused(format_args!("holds several disks: {first:?}, {second:?}"));
        error.hint("unpack it with tar, and import each of them").into()
    }

    fn too_large(&self, name: &str, size: u64) -> Error {
        self.refused(format_args!("holds {name:?}, {size} bytes of no disk that is known"))
    }

    fn refused(&self, what: impl std::fmt::Display) -> Error {
        Error::bad_input(format!("the {} {what}", self.packing))
    }

    fn unreadable(&self, error: ireko_tar::Error) -> Error {
        self.refused(format_args!("cannot be read: {}", crate::error::chain(&error)))
    }
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
    file: Option<File>,
    /// Bytes that may still be written.
    room: u64,
}

impl Taking<'_> {
    fn begin(&mut self, size: u64) -> Result<()> {
        crate::step::allocating().during(|| self.writing())?;
        self.room = copy::room(self.to)?;
        let file = OpenOptions::new().write(true).create_new(true).open(self.to);
        let file = file.and_then(|file| file.set_len(size).map(|()| file));
        self.file = Some(file.during(|| self.writing())?);
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let Some(file) = &self.file else { return Ok(()) };
        for (index, page) in bytes.chunks(PAGE).enumerate() {
            if page.iter().all(|byte| *byte == 0) {
                continue;
            }
            match self.room.checked_sub(page.len() as u64) {
                Some(room) => self.room = room,
                None => copy::check_room(self.to, u64::MAX)?,
            }
            let at = offset + (index * PAGE) as u64;
            file.write_all_at(page, at).during(|| self.writing())?;
        }
        Ok(())
    }

    fn writing(&self) -> String {
        format!("unpack the disk to {}", self.to.display())
    }
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
