//! Unpacking what a container sent. Its archive is not trusted: no entry leaves the goal, by its name
//! or over a link that came before it.

use super::goal::Goal;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};
use tar::{Archive, Entry, EntryType};

/// Unpacks an archive whose entries all begin with `base`.
pub fn unpack(from: impl Read, base: &str, goal: &Goal, keep_owners: bool) -> io::Result<()> {
    let folder = Path::new(&goal.folder);
    if !fs::metadata(folder)?.is_dir() {
        return Err(io::Error::other(format!("{} is no folder", folder.display())));
    }
    let top = match &goal.name {
        Some(name) => folder.join(name),
        None => folder.to_owned(),
    };
    let target = Target { top, is_named: goal.name.is_some(), base, keep_owners };
    let mut archive = Archive::new(from);
    let mut folders = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = target.place(&entry.path_bytes())?;
        if let Some(folder) = target.put(&mut entry, &path)? {
            folders.push(folder);
        }
    }
    // Last, because what is put into a folder changes its time and may need its permissions.
    for (path, mode, time) in folders.into_iter().rev() {
        let folder = File::open(&path)?;
        folder.set_permissions(Permissions::from_mode(mode))?;
        folder.set_modified(time)?;
    }
    Ok(())
}

struct Target<'a> {
    top: PathBuf,
    /// The top is new, or replaced; else it is there and stays as it is.
    is_named: bool,
    base: &'a str,
    keep_owners: bool,
}

impl Target<'_> {
    /// Where an entry goes.
    fn place(&self, name: &[u8]) -> io::Result<PathBuf> {
        use std::os::unix::ffi::OsStrExt;
        let outside =
            || io::Error::other(format!("{:?} leads outside", String::from_utf8_lossy(name)));
        let rest = name.strip_prefix(self.base.as_bytes()).ok_or_else(outside)?;
        let rest = Path::new(std::ffi::OsStr::from_bytes(rest));
        let mut path = self.top.clone();
        for part in rest.components() {
            match part {
                Component::Normal(part) => {
                    // Only what is above must be a folder, and no link to one.
                    if path != self.top || self.is_named {
                        match fs::symlink_metadata(&path) {
                            Ok(seen) if seen.is_dir() => {}
                            _ => return Err(outside()),
                        }
                    }
                    path.push(part);
                }
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(outside()),
            }
        }
        Ok(path)
    }

    /// Puts one entry; of a folder its permissions and time come back, to be set last.
    fn put(
        &self,
        entry: &mut Entry<'_, impl Read>,
        path: &Path,
    ) -> io::Result<Option<(PathBuf, u32, SystemTime)>> {
        let about =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let header = entry.header();
        let mode = header.mode()? & 0o7777;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(header.mtime()?);
        let kind = header.entry_type();
        let owner = (owner(header.uid()?)?, owner(header.gid()?)?);
        let is_top = path == self.top && !self.is_named;
        if is_top {
            return Ok(None);
        }
        match fs::symlink_metadata(path) {
            Ok(seen) if seen.is_dir() && kind == EntryType::Directory => {}
            Ok(seen) if seen.is_dir() => {
                return Err(about(io::Error::other("a folder is not replaced by something else")));
            }
            Ok(_) if kind == EntryType::Directory => {
                return Err(about(io::Error::other("it is not replaced by a folder")));
            }
            Ok(_) => fs::remove_file(path).map_err(about)?,
            Err(_) => {}
        }
        let mut folder = None;
        match kind {
            EntryType::Directory => {
                match DirBuilder::new().mode(0o700).create(path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    made => made.map_err(about)?,
                }
                folder = Some((path.to_owned(), mode, time));
            }
            EntryType::Regular | EntryType::Continuous => {
                let mut file = File::create_new(path).map_err(about)?;
                io::copy(entry, &mut file).map_err(about)?;
                self.give(path, owner).map_err(about)?;
                file.set_permissions(Permissions::from_mode(mode)).map_err(about)?;
                file.set_modified(time).map_err(about)?;
                return Ok(None);
            }
            EntryType::Symlink | EntryType::Link => {
                let link = entry.link_name_bytes().unwrap_or_default().into_owned();
                match kind {
                    EntryType::Symlink => {
                        use std::os::unix::ffi::OsStrExt;
                        symlink(std::ffi::OsStr::from_bytes(&link), path).map_err(about)?;
                    }
                    _ => {
                        let first = self.place(&link)?;
                        return fs::hard_link(first, path).map(|()| None).map_err(about);
                    }
                }
            }
            EntryType::Fifo => {
                let mode = rustix::fs::Mode::from_raw_mode(mode);
                let kind = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0)
                    .map_err(|cause| about(cause.into()))?;
            }
            other => {
                let message = format!("an entry of this kind ({other:?}) is not copied");
                return Err(about(io::Error::other(message)));
            }
        }
        self.give(path, owner).map_err(about)?;
        Ok(folder)
    }

    fn give(&self, path: &Path, (user, group): (u32, u32)) -> io::Result<()> {
        match self.keep_owners {
            true => lchown(path, Some(user), Some(group)),
            false => Ok(()),
        }
    }
}

fn owner(number: u64) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| io::Error::other(format!("{number} is no owner")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::{Builder, Header};

    fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, name, link) in entries {
            let mut header = Header::new_ustar();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            header.set_size(0);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            builder.append(&header, io::empty()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_hostile_archive_never_leads_out_of_the_goal() {
        use EntryType::{Directory, Link, Regular, Symlink};
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("place");
        fs::create_dir(&place).unwrap();
        fs::write(folder.path().join("secret"), "s").unwrap();
        let goal = Goal { folder: place.to_str().unwrap().into(), name: Some("new".into()) };
        for hostile in [
            archive(&[(Regular, "it/../../up", "")]),
            archive(&[(Regular, "other", "")]),
            archive(&[(Directory, "it/", ""), (Symlink, "it/l", "../.."), (Regular, "it/l/x", "")]),
            archive(&[(Symlink, "it", ".."), (Regular, "it/x", "")]),
            archive(&[(Directory, "it/", ""), (Link, "it/hard", "../secret")]),
            archive(&[(Directory, "it/", ""), (Link, "it/hard", "it/../../secret")]),
        ] {
            assert!(unpack(&hostile[..], "it", &goal, false).is_err());
            let _ = fs::remove_dir_all(place.join("new"));
            let _ = fs::remove_file(place.join("new"));
        }
        assert!(!folder.path().join("up").exists() && !folder.path().join("x").exists());
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_s_content_goes_into_one_that_stays_as_it_is() {
        use EntryType::{Directory, Regular};
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
        let goal = Goal { folder: folder.path().to_str().unwrap().into(), name: None };
        let archive = archive(&[(Directory, "./", ""), (Regular, "./a", "")]);
        unpack(&archive[..], ".", &goal, false).unwrap();
        let seen = fs::metadata(folder.path()).unwrap().permissions().mode();
        assert_eq!(seen & 0o777, 0o711);
        assert_eq!(
            fs::metadata(folder.path().join("a")).unwrap().permissions().mode() & 0o777,
            0o755
        );
    }
}
