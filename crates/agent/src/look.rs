//! What is at a path of the container's.

use std::collections::VecDeque;

use ireko_protocol::agent::FailureKind;
use ireko_protocol::files::PathStat;
use rustix::fs::{AtFlags, FileType, OFlags, Stat, readlinkat};
use rustix::io::Errno;

use crate::failure::{Failure, Result};
use crate::rooted::Root;

/// How many links are followed before they are taken for a circle: docker's limit.
const LINK_LIMIT: u32 = 255;

/// Looks at a path; a link at its end is not followed, unless a slash stands after it.
pub fn look(root: &Root, path: &[u8]) -> Result<PathStat> {
    let stat = stat(root, path)?;
    let link_target = match FileType::from_raw_mode(stat.st_mode).is_symlink() {
        true => {
            let target = follow(root, path).map_err(|cause| refused(path, cause))?;
            String::from_utf8_lossy(&target).into_owned()
        }
        false => String::new(),
    };
    Ok(PathStat {
        mode: stat.st_mode,
        size: stat.st_size.try_into().unwrap_or_default(),
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        link_target,
    })
}

/// `lstat` inside the root.
pub fn stat(root: &Root, path: &[u8]) -> Result<Stat> {
    root.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)
        .and_then(|file| rustix::fs::statat(&file, c"", AtFlags::EMPTY_PATH))
        .map_err(|cause| refused(path, cause))
}

/// Where the links in a path lead, as far as there is anything; an absolute path.
fn follow(root: &Root, path: &[u8]) -> rustix::io::Result<Vec<u8>> {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect()
    };
    let (mut ahead, mut done): (VecDeque<_>, Vec<Vec<u8>>) = (parts(path).into(), Vec::new());
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                done.pop();
                continue;
            }
            _ => {}
        }
        let folder = root.open_at(&done.join(&b'/'), OFlags::PATH | OFlags::DIRECTORY);
        let target = folder.and_then(|folder| readlinkat(&folder, &*part, Vec::new()));
        match target {
            Ok(target) => {
                links += 1;
                if links > LINK_LIMIT {
                    return Err(Errno::LOOP);
                }
                if target.as_bytes().starts_with(b"/") {
                    done.clear();
                }
                for part in parts(target.as_bytes()).into_iter().rev() {
                    ahead.push_front(part);
                }
            }
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => done.push(part),
            Err(cause) => return Err(cause),
        }
    }
    Ok([b"/".as_slice(), &done.join(&b'/')].concat())
}

fn refused(path: &[u8], cause: Errno) -> Failure {
    let failure = Failure::of(format_args!("lstat {}", String::from_utf8_lossy(path)), cause);
    let kind = match cause {
        Errno::NOENT => FailureKind::NoSuch,
        Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG => FailureKind::BadInput,
        _ => return failure,
    };
    Failure { kind, ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path().to_str().unwrap()).unwrap();
        (folder, root)
    }

    #[test]
    fn a_link_is_shown_with_where_it_leads_inside_the_root() {
        let (folder, root) = root();
        std::fs::create_dir_all(folder.path().join("usr/lib")).unwrap();
        symlink("usr/lib", folder.path().join("lib")).unwrap();
        symlink("../../../lib", folder.path().join("out")).unwrap();
        symlink("/usr/gone/x", folder.path().join("dangling")).unwrap();
        for (path, target) in
            [("/lib", "/usr/lib"), ("out", "/usr/lib"), ("/dangling", "/usr/gone/x")]
        {
            assert_eq!(look(&root, path.as_bytes()).unwrap().link_target, target, "{path}");
        }
        let followed = look(&root, b"/lib/").unwrap();
        assert!(FileType::from_raw_mode(followed.mode).is_dir());
        assert_eq!(followed.link_target, "");
    }

    #[test]
    fn what_is_not_there_and_links_in_a_circle_are_told_apart() {
        let (folder, root) = root();
        symlink("two", folder.path().join("one")).unwrap();
        symlink("one", folder.path().join("two")).unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let kind = |path: &str| look(&root, path.as_bytes()).unwrap_err().kind;
        assert_eq!(kind("/nowhere"), FailureKind::NoSuch);
        assert_eq!(kind("/one"), FailureKind::BadInput);
        assert_eq!(kind("/file/x"), FailureKind::BadInput);
    }
}
