//! Unpacking an untrusted archive into the root disk.
//!
//! An entry's folder is resolved inside the root ([`crate::rooted`]), its last name is never
//! followed: what stands there is replaced, but for a folder that a folder merges with. Times of
//! folders are set last, because every entry made in them changes them; one that has no entry of its
//! own keeps the time it had.
//!
//! In a layer's archive a name that begins with `.wh.` is no file but a whiteout: see [`crate::whiteout`].

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use ireko_protocol::agent::{DiskSerial, FailureKind};
use ireko_tar::{Archive, Entry, Kind};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    linkat, lsetxattr, makedev, mkdirat, mknodat, openat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::disks;
use crate::failure::{During, Failure, Result};
use crate::kmsg;
use crate::removal::remove;
use crate::rooted::{Root, by_descriptor, split};
use crate::whiteout::{Paths, Whiteout, is_metadata};

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of regular files written.
    pub bytes: u64,
}

/// What an archive is to what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    /// A layer over it: whiteouts are obeyed, folders keep the times they had.
    Layer,
    /// Files that somebody copies.
    Files {
        /// The folder they go into, from the root; links are followed.
        into: Vec<u8>,
        /// A folder is not replaced by something else, nor something else by a folder.
        keep_kinds: bool,
        /// Everything gets this owner and group; `None` keeps the archive's.
        owner: Option<(u32, u32)>,
    },
}

/// Unpacks the archive on the disk with this serial into the folder, durably.
pub fn apply_disk(disk: &DiskSerial, into: &OwnedFd) -> Result<Applied> {
    let node = disks::find(disk)?.node;
    let source =
        File::open(&node).during(|| format!("open the archive's disk {}", node.display()))?;
    let root = Root::of(into.try_clone().during(|| "open the root disk's top folder")?);
    let applied = apply(BufReader::with_capacity(128 * 1024, source), root, Manner::Layer)?;
    rustix::fs::syncfs(into).during(|| "write the unpacked files out")?;
    Ok(applied)
}

/// Unpacks an archive into a root.
pub fn apply(source: impl Read, root: Root, manner: Manner) -> Result<Applied> {
    let mut archive = Archive::new(source);
    let mut target = Target {
        root,
        manner,
        folder: None,
        folder_times: Vec::new(),
        placed: Paths::default(),
        touched: Paths::default(),
    };
    let mut applied = Applied::default();
    while let Some(mut entry) = archive.next_entry()? {
        if let Manner::Files { owner: Some((uid, gid)), .. } = target.manner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        applied.bytes += target.place(&entry, &mut archive)?;
        applied.entries += 1;
    }
    target.set_folder_times()?;
    Ok(applied)
}

impl Manner {
    /// Where from the root an entry's clean path leads.
    fn placed(&self, path: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Layer => path,
            Self::Files { into, .. } => [into, b"/".as_slice(), &path].concat(),
        }
    }
}

struct Target {
    root: Root,
    manner: Manner,
    /// The folder of the last entry, by path: most entries share it with the one before.
    folder: Option<(Vec<u8>, Rc<OwnedFd>)>,
    folder_times: Vec<(Vec<u8>, (i64, u32))>,
    /// What has an entry.
    placed: Paths,
    /// Folders in which something was changed.
    touched: Paths,
}

impl Target {
    fn place<R: Read>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<u64> {
        let path =
            clean(&entry.path).ok_or_else(|| bad_input(entry, "leads outside with \"..\""))?;
        if self.manner == Manner::Layer && is_metadata(&path) {
            return Ok(0);
        }
        let path = match &self.manner {
            // The folder itself is there, and stays as it is.
            Manner::Files { .. } if path.is_empty() && entry.kind == Kind::Folder => return Ok(0),
            manner => manner.placed(path),
        };
        if entry.kind == Kind::Folder {
            self.folder_times.push((path.clone(), entry.mtime));
        }
        let Some((parent, name)) = split(&path) else {
            return self.place_top(entry);
        };
        if self.manner == Manner::Layer
            && let Some(whiteout) = Whiteout::of(name).map_err(|why| bad_input(entry, why))?
        {
            return self.hide(parent, whiteout).map(|()| 0).map_err(|cause| refused(entry, cause));
        }
        let folder = self.folder(parent).map_err(|cause| refused(entry, cause))?;
        self.placed.note(&path);
        self.check_kind(entry, &path, &folder, name)?;
        let made = self.make(entry, &path, &folder, name).map_err(|cause| refused(entry, cause))?;
        let mut bytes = 0;
        if let Some(file) = made {
            bytes = write_data(entry, archive, &File::from(file))?;
        }
        // A second name shares what the first one was given.
        if entry.kind != Kind::HardLink {
            set_metadata(entry, &folder, name)?;
        }
        Ok(bytes)
    }

    /// Docker's words where a folder would be replaced by something else, or something else by a folder.
    fn check_kind(&self, entry: &Entry, path: &[u8], folder: &OwnedFd, name: &[u8]) -> Result<()> {
        let Manner::Files { into, keep_kinds: true, .. } = &self.manner else { return Ok(()) };
        let (old, new) = match (is_folder(folder, name), entry.kind == Kind::Folder) {
            (Ok(true), false) => ("directory", "non-directory"),
            (Ok(false), true) => ("non-directory", "directory"),
            _ => return Ok(()),
        };
        let whole = |path: &[u8]| [b"/", clean(path).as_deref().unwrap_or(path)].concat();
        let (path, into) = (whole(path), whole(into));
        let message =
            format!("cannot overwrite {old} {} with {new} {}", shown(&path), shown(&into));
        Err(Failure::new(FailureKind::BadInput, message))
    }

    /// Removes what a whiteout names; nothing where its folder is none.
    fn hide(&mut self, parent: &[u8], whiteout: Whiteout<'_>) -> rustix::io::Result<()> {
        let open = OFlags::RDONLY | OFlags::DIRECTORY;
        let folder = match self.root.open_at(parent, open) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            folder => folder?,
        };
        self.keep_time(parent, &folder)?;
        // What is removed may be on the way to the folder that is remembered.
        self.folder = None;
        whiteout.apply(&folder, parent, &self.placed)
    }

    /// The archive's `./`: the root itself, which is there already.
    fn place_top(&self, entry: &Entry) -> Result<u64> {
        if entry.kind != Kind::Folder {
            return Err(bad_input(entry, "would replace the root folder"));
        }
        set_metadata(entry, self.root.top(), b".")?;
        Ok(0)
    }

    fn folder(&mut self, path: &[u8]) -> rustix::io::Result<Rc<OwnedFd>> {
        if let Some((known, folder)) = &self.folder
            && known == path
        {
            return Ok(Rc::clone(folder));
        }
        let folder = Rc::new(self.root.ensure_folder(path)?);
        self.keep_time(path, &folder)?;
        self.folder = Some((path.to_vec(), Rc::clone(&folder)));
        Ok(folder)
    }

    /// Notes a folder's time before something in it changes, once; `path` may end with a slash.
    fn keep_time(&mut self, path: &[u8], folder: &OwnedFd) -> rustix::io::Result<()> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        if self.manner != Manner::Layer {
            return Ok(());
        }
        if !self.placed.holds(path) && self.touched.note(path) {
            let seen = rustix::fs::fstat(folder)?;
            self.folder_times.push((path.to_vec(), (seen.st_mtime, seen.st_mtime_nsec as u32)));
        }
        Ok(())
    }

    /// Makes what the entry says, in the place of what is there; a file comes back open.
    fn make(
        &mut self,
        entry: &Entry,
        path: &[u8],
        folder: &OwnedFd,
        name: &[u8],
    ) -> rustix::io::Result<Option<OwnedFd>> {
        match self.try_make(entry, folder, name) {
            Err(Errno::EXIST) => {}
            result => return result,
        }
        if entry.kind == Kind::Folder && is_folder(folder, name)? {
            return Ok(None);
        }
        let link = clean(&entry.link).map(|link| self.manner.placed(link));
        if entry.kind == Kind::HardLink && link.is_some_and(|link| link == path) {
            return Ok(None);
        }
        remove(folder, name)?;
        // It may have been a link on the way to the folder that is remembered.
        self.folder = None;
        self.try_make(entry, folder, name)
    }

    fn try_make(
        &self,
        entry: &Entry,
        folder: &OwnedFd,
        name: &[u8],
    ) -> rustix::io::Result<Option<OwnedFd>> {
        // Nobody else gets at it before owner and mode are set.
        let private = Mode::from_raw_mode(0o600);
        match entry.kind {
            Kind::File => {
                let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                return openat(folder, name, create | OFlags::CLOEXEC, private).map(Some);
            }
            Kind::Folder => mkdirat(folder, name, Mode::from_raw_mode(0o700)),
            Kind::Symlink => symlinkat(entry.link.as_slice(), folder, name),
            Kind::HardLink => {
                let target = clean(&entry.link).ok_or(Errno::INVAL)?;
                let target = self.manner.placed(target);
                let target = self.root.open_at(&target, OFlags::PATH | OFlags::NOFOLLOW)?;
                linkat(&target, c"", folder, name, AtFlags::EMPTY_PATH)
            }
            Kind::CharDevice(major, minor) => {
                let kind = FileType::CharacterDevice;
                mknodat(folder, name, kind, private, makedev(major, minor))
            }
            Kind::BlockDevice(major, minor) => {
                let kind = FileType::BlockDevice;
                mknodat(folder, name, kind, private, makedev(major, minor))
            }
            Kind::Fifo => mknodat(folder, name, FileType::Fifo, private, 0),
        }
        .map(|()| None)
    }

    fn set_folder_times(&self) -> Result<()> {
        let open = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        for (path, mtime) in &self.folder_times {
            // A later entry may have put something else there.
            if let Ok(folder) = self.root.open_at(path, open) {
                rustix::fs::futimens(&folder, &timestamps(*mtime))
                    .during(|| format!("set the time of {}", shown(path)))?;
            }
        }
        Ok(())
    }
}

fn write_data<R: Read>(entry: &Entry, archive: &mut Archive<R>, file: &File) -> Result<u64> {
    let what = || format!("write {}", shown(&entry.path));
    let (mut bytes, mut end) = (0, 0);
    archive.read_data(entry, |offset, data| -> Result<()> {
        bytes += data.len() as u64;
        end = offset + data.len() as u64;
        file.write_all_at(data, offset).during(what)
    })?;
    if end < entry.size {
        // The file ends with a hole.
        file.set_len(entry.size).during(what)?;
    }
    Ok(bytes)
}

/// Owner first, because a change of owner takes setuid and capabilities away.
fn set_metadata(entry: &Entry, folder: &OwnedFd, name: &[u8]) -> Result<()> {
    let link = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    chownat(folder, name, Some(uid), Some(gid), link)
        .during(|| format!("set the owner of {}", shown(&entry.path)))?;
    if !entry.xattrs.is_empty() {
        set_xattrs(entry, folder, name)?;
    }
    if entry.kind != Kind::Symlink {
        chmodat(folder, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .during(|| format!("set the mode of {}", shown(&entry.path)))?;
    }
    utimensat(folder, name, &timestamps(entry.mtime), link)
        .during(|| format!("set the time of {}", shown(&entry.path)))
}

fn set_xattrs(entry: &Entry, folder: &OwnedFd, name: &[u8]) -> Result<()> {
    let path = [by_descriptor(folder).as_bytes(), b"/", name].concat();
    for (key, value) in &entry.xattrs {
        match lsetxattr(path.as_slice(), key.as_slice(), value, XattrFlags::empty()) {
            Ok(()) => {}
            // Of another system, or not for this kind of file: docker unpacks without them, too.
            Err(cause @ (Errno::NOTSUP | Errno::PERM | Errno::INVAL)) => kmsg::warn(format_args!(
                "extended attribute {} of {} is left out: {cause}",
                shown(key),
                shown(&entry.path)
            )),
            Err(cause) => {
                let what = format!("set attribute {} of {}", shown(key), shown(&entry.path));
                return Err(Failure::of(what, cause));
            }
        }
    }
    Ok(())
}

fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn is_folder(folder: &OwnedFd, name: &[u8]) -> rustix::io::Result<bool> {
    let mode = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
    Ok(FileType::from_raw_mode(mode).is_dir())
}

/// The path without slashes in front and `.` parts; `None` where it has a `..`.
fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    (!parts.contains(&&b".."[..])).then(|| parts.join(&b'/'))
}

fn shown(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

fn bad_input(entry: &Entry, why: &str) -> Failure {
    let message = format!("unpack {}: the entry {why}", shown(&entry.path));
    Failure::new(FailureKind::BadInput, message)
}

/// A place that cannot be made is the archive's fault where the kernel says so.
fn refused(entry: &Entry, cause: Errno) -> Failure {
    let failure = Failure::of(format_args!("unpack {}", shown(&entry.path)), cause);
    match cause {
        Errno::NOENT
        | Errno::NOTDIR
        | Errno::LOOP
        | Errno::NAMETOOLONG
        | Errno::INVAL
        | Errno::PERM
        | Errno::MLINK
        | Errno::XDEV => Failure { kind: FailureKind::BadInput, ..failure },
        _ => failure,
    }
}
