//! A start for nobody, so that the next is quick.
//!
//! An emulated CPU translates code the first time that it runs. A machine that has mounted a disk once and
//! started a process does so again in a third of the time. All that a rehearsal leaves is that.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ireko_protocol::agent::{Configure, FailureKind, ProcessId, Spawn};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::configure::{DISK, configure};
use crate::disks;
use crate::failure::{During, Failure, Result};
use crate::power_off::{close_disk, close_view};
use crate::spawn::{self, Ends, Target};

/// What the process of a rehearsal is called on the disk, and what it is told.
const ACTOR: &str = "/ireko-rehearsal";
const ACT: &str = "rehearse";
/// How long the kernel may take to let go of a file system that was unmounted.
const PATIENCE: Duration = Duration::from_secs(10);

/// This process was started by a rehearsal, and has nothing to do.
pub fn is_the_actor() -> bool {
    std::env::args_os().nth(1).is_some_and(|word| word == ACT)
}

/// Starts the agent itself as the only process on the disk, waits for its end, and lets go of the disk.
///
/// Where this fails the machine is of no use.
pub fn rehearse(wanted: Configure) -> Result<()> {
    let serial = wanted.root.clone();
    let machine = Arc::new(configure(wanted)?);
    fs::copy("/proc/self/exe", format!("{DISK}{ACTOR}")).during(|| "copy the agent")?;
    let process = Spawn {
        process: ProcessId::INIT,
        argv: vec![ACTOR.to_owned(), ACT.to_owned()],
        env: vec!["PATH=/".to_owned()],
        cwd: "/".to_owned(),
        user: String::new(),
        tty: None,
        stdin: false,
        init: false,
        privileged: false,
    };
    let child = spawn::spawn(&process, &Target::First(Arc::clone(&machine)))?;
    if let Ends::Pipes { stdout, stderr, .. } = child.ends {
        for end in [stdout, stderr] {
            rustix::fs::fcntl_setfl(&end, OFlags::empty()).during(|| "prepare a pipe")?;
            let mut said = Vec::new();
            fs::File::from(end).read_to_end(&mut said).during(|| "hear a process")?;
        }
    }
    loop {
        match waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            ended => break ended.map(drop).during(|| "wait for a process")?,
        }
    }
    drop(machine);
    rustix::fs::sync();
    close_view();
    close_disk();
    await_release(&disks::find(&serial)?.node)
}

/// A disk that nobody has mounted can be opened alone. Then the kernel keeps nothing of it.
fn await_release(node: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        match rustix::fs::open(node, flags, Mode::empty()) {
            Ok(_) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::BUSY) => {
                let message = "the disk of the rehearsal is still in use";
                return Err(Failure::new(FailureKind::Other, message));
            }
            Err(cause) => return Err(Failure::of("open the disk of the rehearsal", cause)),
        }
    }
}
