//! Between `clone` and `execve`: the child's own steps.
//!
//! The agent has threads, so its copy in the child may hold any lock for ever: nothing here
//! allocates, and every step is one system call with arguments made before the clone. A step that
//! fails is written to a pipe which `execve` closes.

use std::convert::Infallible;
use std::ffi::{CStr, c_char};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use crate::reaper;

/// Everything the child needs, made by the parent.
pub struct Plan<'a> {
    /// Where it runs.
    pub place: Place<'a>,
    /// Its standard streams.
    pub stdio: [BorrowedFd<'a>; 3],
    /// The standard streams are a terminal, which becomes the controlling one.
    pub terminal: bool,
    /// A reaper runs as this process, the program as its child.
    pub reaper: bool,
    /// User number.
    pub uid: rustix::fs::Uid,
    /// Group number.
    pub gid: rustix::fs::Gid,
    /// Supplementary groups.
    pub groups: &'a [rustix::fs::Gid],
    /// Capabilities that nothing it executes can have.
    pub without: &'a [CapabilitySet],
    /// Nothing it executes has more rights than it has.
    pub no_new_privileges: bool,
    /// What it may use.
    pub limits: &'a [(Resource, Rlimit)],
    /// Working directory in the container.
    pub cwd: &'a CStr,
    /// The program's path in the container.
    pub program: &'a CStr,
    /// Arguments; the last pointer is null.
    pub argv: &'a [*const c_char],
    /// Environment; the last pointer is null.
    pub envp: &'a [*const c_char],
    /// Where a failed step is reported.
    pub report: BorrowedFd<'a>,
}

/// Which namespaces the child runs in.
pub enum Place<'a> {
    /// It was cloned into new ones and moves into the view.
    New {
        /// The view's path in the agent's mount namespace.
        view: &'a CStr,
        /// It may write to its control groups.
        privileged: bool,
    },
    /// It joins those of the container's first process.
    Join {
        /// That process.
        init: BorrowedFd<'a>,
    },
    /// It stays where the agent is.
    Here,
}

/// What the child was at when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Entering the namespaces and the root.
    Enter,
    /// Mounting /proc and /sys/fs/cgroup.
    Mount,
    /// Setting limits, and giving capabilities up.
    Bounds,
    /// Setting up session, terminal and standard streams.
    Stdio,
    /// Becoming the user.
    Identity,
    /// Entering the working directory.
    Cwd,
    /// Starting the reaper's child.
    Reaper,
    /// `execve`.
    Exec,
}

impl Step {
    const ALL: [Self; 8] = [
        Self::Enter,
        Self::Mount,
        Self::Bounds,
        Self::Stdio,
        Self::Identity,
        Self::Cwd,
        Self::Reaper,
        Self::Exec,
    ];
}

/// Bytes of a report.
pub const REPORT_LEN: usize = 5;

/// Reads a report; `None` where the child had nothing to report.
pub fn parse_report(bytes: &[u8]) -> Option<(Step, Errno)> {
    let (step, errno) = bytes.split_first_chunk::<1>()?;
    let step = Step::ALL.into_iter().find(|known| *known as u8 == step[0])?;
    let errno = i32::from_le_bytes(*errno.first_chunk()?);
    Some((step, Errno::from_raw_os_error(errno)))
}

/// Runs the plan. The caller is a child just cloned.
pub fn run(plan: &Plan<'_>) -> ! {
    let Err((step, errno)) = follow(plan);
    let mut report = [step as u8, 0, 0, 0, 0];
    report[1..].copy_from_slice(&errno.raw_os_error().to_le_bytes());
    let _ = rustix::io::write(plan.report, &report);
    exit(127)
}

/// Ends the process without the C library's exit handlers, which belong to the agent.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit touches no memory.
    unsafe { libc::_exit(code) }
}

fn follow(plan: &Plan<'_>) -> std::result::Result<Infallible, (Step, Errno)> {
    let at = |step| move |errno| (step, errno);
    match plan.place {
        Place::New { view, privileged } => {
            enter_view(view).map_err(at(Step::Enter))?;
            mount_own(privileged).map_err(at(Step::Mount))?;
        }
        Place::Join { init } => join(init).map_err(at(Step::Enter))?,
        Place::Here => {}
    }
    set_bounds(plan).map_err(at(Step::Bounds))?;
    take_stdio(plan).map_err(at(Step::Stdio))?;
    if plan.reaper {
        reaper::become_reaper(plan).map_err(at(Step::Reaper))?;
    }
    become_user(plan).map_err(at(Step::Identity))?;
    rustix::process::chdir(plan.cwd).map_err(at(Step::Cwd))?;
    reset_signals();
    // SAFETY: the plan's strings outlive the call and both arrays end with a null pointer.
    unsafe { libc::execve(plan.program.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr()) };
    Err((Step::Exec, last_errno()))
}

fn enter_view(view: &CStr) -> Result<()> {
    // SAFETY: no descriptor of this process is shared or split by a new cgroup namespace.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP)? };
    rustix::process::chdir(view)?;
    // The old root ends up on top of the new one and is taken away: nothing of ours stays visible.
    rustix::process::pivot_root(c".", c".")?;
    unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

fn mount_own(privileged: bool) -> Result<()> {
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(c"proc", c"/proc", c"proc", quiet, c"")?;
    let access = if privileged { MountFlags::empty() } else { MountFlags::RDONLY };
    mount(c"cgroup", c"/sys/fs/cgroup", c"cgroup2", quiet | access, c"")
}

fn join(init: BorrowedFd<'_>) -> Result<()> {
    // The PID namespace was joined by the parent before the clone.
    rustix::thread::move_into_thread_name_spaces(
        init,
        ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::CONTROL_GROUP,
    )
}

fn take_stdio(plan: &Plan<'_>) -> Result<()> {
    rustix::process::setsid()?;
    for (number, stream) in plan.stdio.iter().enumerate() {
        // SAFETY: plain system call; the agent's own 0 to 2 are of no use to the child.
        if unsafe { libc::dup2(stream.as_raw_fd(), number as i32) } < 0 {
            return Err(last_errno());
        }
    }
    if plan.terminal {
        // SAFETY: 0 was just made.
        let terminal = unsafe { BorrowedFd::borrow_raw(0) };
        rustix::process::ioctl_tiocsctty(terminal.as_fd())?;
    }
    Ok(())
}

fn become_user(plan: &Plan<'_>) -> Result<()> {
    // These are the calls of one thread; the C library's would signal threads that are not here.
    rustix::thread::set_thread_groups(plan.groups)?;
    rustix::thread::set_thread_res_gid(plan.gid, plan.gid, plan.gid)?;
    rustix::thread::set_thread_res_uid(plan.uid, plan.uid, plan.uid)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

/// While it is root still: limits may be raised then, and capabilities taken from the bounding set, out of
/// which `execve` gives root its own.
fn set_bounds(plan: &Plan<'_>) -> Result<()> {
    set_file_limit()?;
    for (resource, limit) in plan.limits {
        setrlimit(*resource, *limit)?;
    }
    for capability in plan.without {
        match rustix::thread::remove_capability_from_bounding_set(*capability) {
            // The kernel does not know it, so nobody can have it.
            Ok(()) | Err(Errno::INVAL) => {}
            failed => failed?,
        }
    }
    match plan.no_new_privileges {
        true => rustix::thread::set_no_new_privs(true),
        false => Ok(()),
    }
}

/// Programs that use `select`, or walk all file numbers, work with the traditional limit; the others
/// raise it. Docker 29 and systemd do the same.
fn set_file_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(1024), ..limit })
}

fn reset_signals() {
    // SAFETY: both calls work on this process's signal state only; the set is initialised.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Why the system call just made failed; only to be asked when one did.
pub(crate) fn last_errno() -> Errno {
    // SAFETY: the location is this thread's.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written_and_rubbish_is_not() {
        for step in Step::ALL {
            assert_eq!(parse_report(&[step as u8, 13, 0, 0, 0]), Some((step, Errno::ACCESS)));
        }
        assert_eq!(parse_report(&[]), None);
        assert_eq!(parse_report(&[99, 13, 0, 0, 0]), None);
        assert_eq!(parse_report(&[0, 13]), None);
    }
}
