//! The files of saved images, read by name: members of a tar archive that is not unpacked, or a folder.

use crate::error::{During, Error, Result};
use ireko_tar::{Archive, Kind};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Take};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// The most members an archive may have: each is kept in memory.
const MEMBERS: usize = 100_000;
/// The most bytes of their names together.
const NAMES: usize = 32 << 20;
/// Links that lead to links.
const HOPS: usize = 8;

/// Where saved images are.
#[derive(Debug)]
pub(super) enum Files {
    Archive { path: PathBuf, members: HashMap<String, Member> },
    Folder(PathBuf),
}

#[derive(Clone, Debug)]
pub(super) enum Member {
    /// Bytes of the archive.
    File { at: u64, size: u64 },
    /// One more name; from the top of the archive.
    Link(String),
}

/// One file's bytes.
pub(super) struct Content {
    pub size: u64,
    pub bytes: Take<File>,
}

impl Files {
    /// Looks through an uncompressed archive, or takes the folder.
    pub fn open(path: &Path) -> Result<Files> {
        let opening = || format!("open {}", path.display());
        if path.metadata().during(opening)?.is_dir() {
            return Ok(Files::Folder(path.to_owned()));
        }
        let file = File::open(path).during(opening)?;
        let members = members(file).map_err(|error| {
            Error::bad_input(format!("{}: {}", path.display(), crate::error::chain(&error)))
        })?;
        Ok(Files::Archive { path: path.to_owned(), members })
    }

    /// Tells whether there is such a file.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Files::Archive { members, .. } => members.contains_key(name),
            Files::Folder(folder) => folder.join(name).is_file(),
        }
    }

    /// Opens a file; fails with [`crate::ErrorKind::BadInput`] where there is none.
    pub fn content(&self, name: &str) -> Result<Content> {
        let missing = || Error::bad_input(format!("{name:?} is not in it; the file is incomplete"));
        match self {
            Files::Archive { path, members } => {
                let mut name = clean(name).ok_or_else(missing)?;
                for _ in 0..HOPS {
                    match members.get(&name).ok_or_else(missing)? {
                        Member::Link(target) => name.clone_from(target),
                        &Member::File { at, size } => {
                            let reading = || format!("read {}", path.display());
                            let mut file = File::open(path).during(reading)?;
                            file.seek(SeekFrom::Start(at)).during(reading)?;
                            return Ok(Content { size, bytes: file.take(size) });
                        }
                    }
                }
                Err(missing())
            }
            Files::Folder(folder) => {
                let plain = |part| matches!(part, Component::Normal(_));
                if !Path::new(name).components().all(plain) {
                    return Err(missing());
                }
                let path = folder.join(name);
                let reading = || format!("read {}", path.display());
                // A fifo in its place must not hold us up.
                let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
                let open = File::options().read(true).custom_flags(flags.bits() as i32).open(&path);
                let file = match open {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        return Err(missing());
                    }
                    other => other.during(reading)?,
                };
                let metadata = file.metadata().during(reading)?;
                match metadata.is_file() {
                    true => Ok(Content { size: metadata.len(), bytes: file.take(metadata.len()) }),
                    false => Err(Error::bad_input(format!("{} is no file", path.display()))),
                }
            }
        }
    }

    /// Reads a small file whole.
    pub fn text(&self, name: &str, most: usize) -> Result<Vec<u8>> {
        let content = self.content(name)?;
        if content.size > most as u64 {
            let size = content.size;
            return Err(Error::bad_input(format!(
                "{name:?} has {size} bytes, at most {most} are read"
            )));
        }
        let mut bytes = Vec::new();
        let mut file = content.bytes;
        file.read_to_end(&mut bytes).during(|| format!("read {name:?}"))?;
        Ok(bytes)
    }
}

/// Notes where each member's bytes are.
fn members(file: File) -> ireko_tar::Result<HashMap<String, Member>> {
    let (mut members, mut names) = (HashMap::new(), 0);
    let source = Counted { inner: BufReader::with_capacity(256 << 10, file), count: 0 };
    let mut archive = Archive::new(source);
    while let Some(entry) = archive.next_entry()? {
        let Ok(path) = std::str::from_utf8(&entry.path) else { continue };
        let Some(name) = clean(path) else { continue };
        let member = match entry.kind {
            Kind::File if !entry.is_sparse() => {
                Member::File { at: archive.source().count, size: entry.size }
            }
            Kind::HardLink | Kind::Symlink => match link(&name, &entry.link, entry.kind) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            _ => continue,
        };
        names += name.len();
        members.insert(name, member);
        if members.len() > MEMBERS || names > NAMES {
            return Err(ireko_tar::Error::Malformed("the archive has too many members".into()));
        }
    }
    Ok(members)
}

/// Where a link leads, from the top of the archive; `None` where it leads outside.
fn link(name: &str, target: &[u8], kind: Kind) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    if kind == Kind::HardLink {
        return clean(target);
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            other => parts.push(other),
        }
    }
    (!target.starts_with('/')).then(|| parts.join("/"))
}

/// A name as it is looked up; `None` where it leads outside.
fn clean(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (!parts.contains(&"..") && !parts.is_empty()).then(|| parts.join("/"))
}

/// Counts what was read.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count += length as u64;
        Ok(length)
    }
}
