//! Work with the container's files: what a [`FileJob`] asks for, done between two pipes.
//!
//! While the container runs its paths are looked up through its first process, so that what is mounted
//! there is seen; else on its disk. Either way no link leads out of the container's root. In a whole operating
//! system they are the system's.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ireko_protocol::agent::FailureKind;
use ireko_protocol::files::{FileAnswer, FileJob};
use rustix::fs::{OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

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

/// Whose files a job is about.
pub enum Scene {
    /// A container's.
    Container {
        /// Its machine.
        machine: Arc<Machine>,
        /// Its first process, where it runs.
        first: Option<u32>,
    },
    /// Those of the system that the agent is a service of.
    System,
}

impl Scene {
    /// All that is there, with what is mounted.
    fn view(&self) -> Result<Root> {
        match self {
            Self::Container { first: Some(pid), .. } => {
                Root::open(&format!("/proc/{pid}/root")).during(|| "open the container's root")
            }
            Self::Container { first: None, .. } => self.disk(),
            Self::System => Root::open("/").during(|| "open the root folder"),
        }
    }

    /// The disk alone, with nothing mounted over it.
    fn disk(&self) -> Result<Root> {
        match self {
            Self::Container { machine, .. } => {
                let top = machine.disk.try_clone();
                top.map(Root::of).during(|| "open the root disk's top folder")
            }
            Self::System => {
                check_that_var_is_there()?;
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                let alone = open_tree(rustix::fs::CWD, "/", flags);
                alone
                    .map(Root::of)
                    .during(|| "open the root file system without what is mounted in it")
            }
        }
    }
}

/// One mounted file system is looked at, where a machine that does not run shows /var's as well.
fn check_that_var_is_there() -> Result<()> {
    let device = |path: &str| rustix::fs::stat(path).map(|stat| stat.st_dev);
    match (device("/"), device("/var/lib")) {
        (Ok(root), Ok(var)) if root != var => {
            let message = "its /var is a file system of its own: all of the disk can be seen while the \
                           machine does not run";
            Err(Failure::new(FailureKind::BadInput, message))
        }
        _ => Ok(()),
    }
}

/// Does a job. The streams end with it.
pub fn work(scene: &Scene, job: FileJob, pipes: Pipes) -> Result<FileAnswer> {
    let output = File::from(pipes.output);
    let input = BufReader::with_capacity(128 * 1024, File::from(pipes.input));
    match job {
        FileJob::Look { path } => {
            return look(&scene.view()?, path.as_bytes()).map(FileAnswer::Stat);
        }
        FileJob::Pack { path } => pack::pack(&scene.view()?, path.as_bytes(), output)?,
        FileJob::Unpack { path, keep_kinds, owner } => {
            let root = scene.view()?;
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
        FileJob::Export => pack::export(&scene.disk()?, output)?,
        FileJob::List => list::list(&scene.disk()?, output)?,
        FileJob::Read => pack::read_listed(&scene.disk()?, input, output)?,
        FileJob::PackListed => pack::pack_listed(&scene.disk()?, input, output)?,
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
