//! Work with the container's files: what a [`FileJob`] asks for, done between two pipes.
//!
//! While the container runs its paths are looked up through its first process, so that what is mounted
//! there is seen; else on its disk. Either way no link leads out of the container's root.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::OwnedFd;

use ireko_protocol::agent::FailureKind;
use ireko_protocol::files::{FileAnswer, FileJob};
use rustix::fs::{OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::apply_tar::{Manner, apply};
use crate::configure::Machine;
use crate::failure::{During, Failure, Result};
use crate::look::look;
use crate::rooted::Root;
use crate::{list, pack, users};

/// A job's ends of its streams.
pub struct Pipes {
    /// What the host sends.
    pub input: OwnedFd,
    /// What the host gets.
    pub output: OwnedFd,
}

/// Does a job; `first` is the container's first process, where it runs. The streams end with it.
pub fn work(
    machine: &Machine,
    first: Option<u32>,
    job: FileJob,
    pipes: Pipes,
) -> Result<FileAnswer> {
    let disk = || -> Result<Root> {
        Ok(Root::of(machine.disk.try_clone().during(|| "open the root disk's top folder")?))
    };
    let view = || match first {
        Some(pid) => {
            Root::open(&format!("/proc/{pid}/root")).during(|| "open the container's root")
        }
        None => disk(),
    };
    let output = File::from(pipes.output);
    let input = BufReader::with_capacity(128 * 1024, File::from(pipes.input));
    match job {
        FileJob::Look { path } => return look(&view()?, path.as_bytes()).map(FileAnswer::Stat),
        FileJob::Pack { path } => pack::pack(&view()?, path.as_bytes(), output)?,
        FileJob::Unpack { path, keep_kinds, owner } => {
            let root = view()?;
            check_writable(&root, &path)?;
            let owner = match owner {
                Some(user) => {
                    let identity = users::look_up(&root, &user, &[])?;
                    Some((identity.uid, identity.gid))
                }
                None => None,
            };
            apply(input, root, Manner::Files { into: path.into_bytes(), keep_kinds, owner })?;
        }
        FileJob::Export => pack::export(&disk()?, output)?,
        FileJob::List => list::list(&disk()?, output)?,
        FileJob::Read => pack::read_listed(&disk()?, input, output)?,
        FileJob::PackListed => pack::pack_listed(&disk()?, input, output)?,
    }
    Ok(FileAnswer::Done)
}

fn check_writable(root: &Root, path: &str) -> Result<()> {
    let folder = match root.open_at(path.as_bytes(), OFlags::PATH | OFlags::DIRECTORY) {
        Err(Errno::NOTDIR) => {
            let message = "extraction point is not a directory";
            return Err(Failure::new(FailureKind::BadInput, message));
        }
        Err(Errno::NOENT) => {
            return Err(Failure::new(FailureKind::NoSuch, format!("{path} is not there")));
        }
        folder => folder.during(|| format!("open {path}"))?,
    };
    let flags = rustix::fs::fstatvfs(&folder).during(|| format!("look at {path}"))?.f_flag;
    match flags.contains(StatVfsMountFlags::RDONLY) {
        true => Err(Failure::new(FailureKind::ReadOnly, "container rootfs is marked read-only")),
        false => Ok(()),
    }
}
