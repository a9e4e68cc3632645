//! Writing files as a tar archive: PAX, with nanoseconds, extended attributes and hard links.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufWriter, Read, Write};
use std::os::fd::OwnedFd;

use ireko_protocol::agent::FailureKind;
use ireko_protocol::listing::MAX_PATH;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, lgetxattr, llistxattr, major, minor, openat,
    readlinkat, statat,
};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::failure::{During, Failure, Result};
use crate::look::stat;
use crate::rooted::{Root, by_descriptor, split};
use crate::walk::{Found, walk};

/// The longest value of an extended attribute.
const VALUE_LIMIT: usize = 64 * 1024;
/// So many names of files with several are remembered; what goes beyond is stored once more.
const LINKS: usize = 1 << 20;
/// ext4's own folder, which is nobody's content.
const LOST_AND_FOUND: u64 = 11;
/// The beginning of the name of what a layer's archive says is gone.
const WHITEOUT: &[u8] = b".wh.";

/// Writes what is at a path: its own entry is called as the last part of the path.
pub fn pack(root: &Root, path: &[u8], to: File) -> Result<()> {
    // Before the first byte: what is not there is told as such.
    stat(root, path)?;
    let base = base_name(path);
    let mut archive = Archive::new(to);
    walk(root, path, |found| {
        let name = match (base, found.path) {
            (base, b"") => base.to_vec(),
            (b"/", path) => [b"/", path].concat(),
            (base, path) => [base, b"/", path].concat(),
        };
        archive.add(found, &name)
    })?;
    archive.finish()
}

/// Writes the whole disk; its top folder, and what ext4 keeps there, have no entry.
pub fn export(disk: &Root, to: File) -> Result<()> {
    let mut archive = Archive::new(to);
    walk(disk, b"/", |found| match found.path {
        b"" => Ok(()),
        b"lost+found" if found.stat.st_ino == LOST_AND_FOUND => Ok(()),
        path => archive.add(found, path),
    })?;
    archive.finish()
}

/// Writes what is at the paths that come in, each with a zero byte after it.
pub fn pack_listed(disk: &Root, paths: impl BufRead, to: File) -> Result<()> {
    let mut archive = Archive::new(to);
    each_listed(disk, paths, |path, folder| {
        let (_, name) = split(path).ok_or_else(no_file)?;
        if name.starts_with(WHITEOUT) {
            return archive.add_whiteout(path);
        }
        let folder = folder.during(|| reading(path))?;
        let stat = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).during(|| reading(path))?;
        archive.add(&Found { path, folder: &folder, name, stat }, path)
    })?;
    archive.finish()
}

/// Writes the sizes and bytes of the files at the paths that come in, each with a zero byte after it.
pub fn read_listed(disk: &Root, paths: impl BufRead, to: File) -> Result<()> {
    let writing = || "write the files' bytes";
    let mut to = BufWriter::with_capacity(64 * 1024, to);
    each_listed(disk, paths, |path, folder| {
        let (_, name) = split(path).ok_or_else(no_file)?;
        let folder = folder.during(|| reading(path))?;
        let stat = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).during(|| reading(path))?;
        let (file, size) = open_file(&Found { path, folder: &folder, name, stat })?
            .ok_or_else(|| Failure::new(FailureKind::NoSuch, reading(path)))?;
        to.write_all(&size.to_le_bytes()).during(writing)?;
        let mut content = Exactly { file, left: size, failure: None };
        std::io::copy(&mut content, &mut to).during(writing)?;
        match content.failure {
            Some(cause) => Err(Failure::of(reading(path), cause)),
            None => Ok(()),
        }
    })?;
    to.flush().during(writing)
}

/// Hands on each path with the folder it is in.
fn each_listed(
    disk: &Root,
    mut paths: impl BufRead,
    mut take: impl FnMut(&[u8], rustix::io::Result<OwnedFd>) -> Result<()>,
) -> Result<()> {
    let mut path = Vec::new();
    loop {
        path.clear();
        let most = MAX_PATH as u64 + 2;
        (&mut paths).take(most).read_until(0, &mut path).during(|| "read the list of files")?;
        if path.pop() != Some(0) {
            return match path.is_empty() {
                true => Ok(()),
                false => Err(Failure::new(FailureKind::BadInput, "the list of files is cut off")),
            };
        }
        let (parent, _) = split(&path).ok_or_else(no_file)?;
        take(&path, disk.open_at(parent, OFlags::PATH | OFlags::DIRECTORY))?;
    }
}

fn no_file() -> Failure {
    Failure::new(FailureKind::BadInput, "the list of files names no file")
}

/// Go's `filepath.Base`, but for a dot at the end.
fn base_name(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    match &path[start..end] {
        b"" => b"/",
        base => base,
    }
}

struct Archive {
    builder: Builder<BufWriter<File>>,
    /// Of files with several names: what they were called first.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Archive {
    fn new(to: File) -> Self {
        let builder = Builder::new(BufWriter::with_capacity(64 * 1024, to));
        Self { builder, links: HashMap::new() }
    }

    fn finish(self) -> Result<()> {
        let writing = || "write the archive";
        self.builder.into_inner().and_then(|mut to| to.flush()).during(writing)
    }

    fn add(&mut self, found: &Found<'_>, name: &[u8]) -> Result<()> {
        let stat = &found.stat;
        let mut header = Header::new_ustar();
        let mut name = name.to_vec();
        let mut link = Vec::new();
        let mut content = None;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                if let Some(first) = self.first_name(stat, &name) {
                    header.set_entry_type(EntryType::Link);
                    link = first;
                } else {
                    let Some((file, size)) = open_file(found)? else { return Ok(()) };
                    header.set_entry_type(EntryType::Regular);
                    content = Some(Exactly { file, left: size, failure: None });
                }
            }
            FileType::Directory => {
                header.set_entry_type(EntryType::Directory);
                if !name.ends_with(b"/") {
                    name.push(b'/');
                }
            }
            FileType::Symlink => {
                header.set_entry_type(EntryType::Symlink);
                link = match readlinkat(found.folder, found.name, Vec::new()) {
                    Ok(target) => target.into_bytes(),
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    Err(cause) => return Err(Failure::of(reading(&name), cause)),
                };
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                header.set_entry_type(match kind {
                    FileType::CharacterDevice => EntryType::Char,
                    _ => EntryType::Block,
                });
                header.set_device_major(major(stat.st_rdev)).during(|| reading(&name))?;
                header.set_device_minor(minor(stat.st_rdev)).during(|| reading(&name))?;
            }
            FileType::Fifo => header.set_entry_type(EntryType::Fifo),
            // A socket is nothing without the process that listens there.
            _ => return Ok(()),
        }
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(stat.st_uid.into());
        header.set_gid(stat.st_gid.into());
        let mut records = Records::default();
        let nanos = stat.st_mtime_nsec as u32;
        header.set_mtime(stat.st_mtime.try_into().unwrap_or_default());
        if nanos != 0 || stat.st_mtime < 0 {
            records.add(b"mtime", decimal(stat.st_mtime, nanos).into_bytes());
        }
        if header.entry_type() != EntryType::Link {
            for (key, value) in xattrs_of(found)? {
                records.add(&[b"SCHILY.xattr.", &*key].concat(), value);
            }
        }
        self.write(header, &name, &link, records, content)
    }

    fn add_whiteout(&mut self, path: &[u8]) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        self.write(header, path, b"", Records::default(), None)
    }

    fn write(
        &mut self,
        mut header: Header,
        name: &[u8],
        link: &[u8],
        mut records: Records,
        content: Option<Exactly>,
    ) -> Result<()> {
        let old = header.as_old_mut();
        if !put(&mut old.name, name) {
            records.add(b"path", name.to_vec());
        }
        if !put(&mut old.linkname, link) {
            records.add(b"linkpath", link.to_vec());
        }
        header.set_size(content.as_ref().map_or(0, |content| content.left));
        header.set_cksum();
        let writing = || format!("write {} into the archive", shown(name));
        let records = records.0;
        if !records.is_empty() {
            let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            self.builder.append_pax_extensions(records).during(writing)?;
        }
        match content {
            None => self.builder.append(&header, std::io::empty()).during(writing),
            Some(mut content) => {
                self.builder.append(&header, &mut content).during(writing)?;
                match content.failure {
                    Some(cause) => Err(Failure::of(reading(name), cause)),
                    None => Ok(()),
                }
            }
        }
    }

    /// What a file with several names was called before; else it is remembered.
    fn first_name(&mut self, stat: &Stat, name: &[u8]) -> Option<Vec<u8>> {
        if stat.st_nlink < 2 {
            return None;
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&key) {
            return Some(first.clone());
        }
        if self.links.len() < LINKS {
            self.links.insert(key, name.to_vec());
        }
        None
    }
}

/// Opens a regular file; `None` where it is gone, or something else by now.
fn open_file(found: &Found<'_>) -> Result<Option<(File, u64)>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(found.folder, found.name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        Err(cause) => return Err(Failure::of(reading(found.path), cause)),
    };
    let stat = fstat(&file).during(|| reading(found.path))?;
    let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
    let size = stat.st_size.try_into().unwrap_or_default();
    Ok(is_file.then(|| (File::from(file), size)))
}

/// A file's bytes, as many as its header says: what was cut off meanwhile reads as zeros.
struct Exactly {
    file: File,
    left: u64,
    failure: Option<std::io::Error>,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..most];
        let count = match self.file.read(buffer) {
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => return Err(cause),
            Err(cause) => {
                self.failure = Some(cause);
                0
            }
            Ok(count) => count,
        };
        let count = match count {
            0 => {
                buffer.fill(0);
                most
            }
            count => count,
        };
        self.left -= count as u64;
        Ok(count)
    }
}

/// PAX records.
#[derive(Default)]
struct Records(Vec<(String, Vec<u8>)>);

impl Records {
    fn add(&mut self, key: &[u8], value: Vec<u8>) {
        // The names of attributes that are no text have no place in a record.
        if let Ok(key) = std::str::from_utf8(key) {
            self.0.push((key.to_owned(), value));
        }
    }
}

/// Its extended attributes, sorted; none where the file system has none.
pub fn xattrs_of(found: &Found<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = [by_descriptor(found.folder).as_bytes(), b"/", found.name].concat();
    let reading = || format!("read the attributes of {}", shown(found.path));
    let none = |cause| matches!(cause, Errno::NOTSUP | Errno::NOENT | Errno::LOOP | Errno::PERM);
    let mut names = vec![0; VALUE_LIMIT];
    let length = match llistxattr(path.as_slice(), &mut names) {
        Ok(length) => length,
        Err(cause) if none(cause) => return Ok(Vec::new()),
        Err(cause) => return Err(Failure::of(reading(), cause)),
    };
    let mut all = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; VALUE_LIMIT];
        match lgetxattr(path.as_slice(), name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                all.push((name.to_vec(), value));
            }
            Err(cause) if none(cause) || cause == Errno::NODATA => {}
            Err(cause) => return Err(Failure::of(reading(), cause)),
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// Puts a text into a field of a header; `false` where it does not fit.
fn put(field: &mut [u8; 100], text: &[u8]) -> bool {
    let count = text.len().min(field.len());
    field[..count].copy_from_slice(&text[..count]);
    count == text.len()
}

/// Seconds since 1970 with a fraction: the nanoseconds count upwards from the second below.
fn decimal(seconds: i64, nanos: u32) -> String {
    match (seconds < 0, nanos) {
        (_, 0) => seconds.to_string(),
        (false, _) => format!("{seconds}.{nanos:09}"),
        (true, _) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
    }
}

fn reading(path: &[u8]) -> String {
    format!("read {}", shown(path))
}

fn shown(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_s_last_part_is_what_the_first_entry_is_called() {
        for (path, base) in [
            ("/etc", "etc"),
            ("/etc/", "etc"),
            ("/etc/.", "."),
            ("/", "/"),
            ("//", "/"),
            ("a/b", "b"),
        ] {
            assert_eq!(base_name(path.as_bytes()), base.as_bytes(), "{path}");
        }
    }

    #[test]
    fn times_before_1970_count_down_from_it() {
        assert_eq!(decimal(5, 0), "5");
        assert_eq!(decimal(5, 40_000_000), "5.040000000");
        assert_eq!(decimal(-1, 750_000_000), "-0.250000000");
        assert_eq!(decimal(-2, 0), "-2");
    }
}
