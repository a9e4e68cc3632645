//! Starting a process of the container.
//!
//! ```text
//!   first process    view::build ─► clone3(new PID + mount ns, workload cgroup) ─► child::run
//!   any other        setns(PID ns of the first) ─► clone3(workload cgroup)      ─► child::run
//!   of a service     clone3                                                     ─► child::run
//! ```
//!
//! Runs on a thread of its own: it may wait for the disk, and `setns` of a PID namespace changes
//! what the calling thread's children are born into.

use std::ffi::{CString, c_char};
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use ireko_protocol::agent::{FailureKind, Spawn};
use ireko_protocol::bounds::{Bounds, Capability, Limited, ProcessLimit};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, ThreadNameSpaceType};

use crate::child::{self, Place, Plan, Step};
use crate::configure::Machine;
use crate::failure::{During, Failure, Result};
use crate::program;
use crate::rooted::Root;
use crate::tty::Terminal;
use crate::users::{self, Identity};
use crate::view::{self, VIEW};

/// A process that was started.
#[derive(Debug)]
pub struct Child {
    /// Its handle; readable when it ended.
    pub pidfd: Arc<OwnedFd>,
    /// Its PID in the agent's namespace.
    pub pid: u32,
    /// Its PID in the container's namespace.
    pub container_pid: u32,
    /// The agent's ends of its standard streams.
    pub ends: Ends,
}

/// The agent's ends of a process's standard streams; all non-blocking.
#[derive(Debug)]
pub enum Ends {
    /// One pipe each.
    Pipes {
        /// Absent where stdin is /dev/null.
        stdin: Option<OwnedFd>,
        /// What it writes to 1.
        stdout: OwnedFd,
        /// What it writes to 2.
        stderr: OwnedFd,
    },
    /// One terminal.
    Terminal(OwnedFd),
}

/// Where a process is started.
pub enum Target {
    /// In new namespaces, as the container's first.
    First(Arc<Machine>),
    /// Beside the first process.
    Beside {
        /// The container's machine.
        machine: Arc<Machine>,
        /// Its handle.
        pidfd: Arc<OwnedFd>,
        /// Its PID in the agent's namespace.
        pid: u32,
    },
    /// In the system that the agent is a service of.
    System,
}

impl Target {
    /// The control group it is born in, where that is not the agent's.
    fn machine(&self) -> Option<&Machine> {
        match self {
            Self::First(machine) | Self::Beside { machine, .. } => Some(machine),
            Self::System => None,
        }
    }
}

/// Starts the process; it runs its program when this returns.
pub fn spawn(wanted: &Spawn, target: &Target) -> Result<Child> {
    let root = match target {
        Target::First(machine) => {
            view::build(machine)?;
            Root::open(VIEW).during(|| "open the container's root")?
        }
        Target::System => Root::open("/").during(|| "open the root folder")?,
        // Seen through the first process, so that what it mounted is there too.
        Target::Beside { pid, .. } => {
            Root::open(&format!("/proc/{pid}/root")).map_err(|_| gone())?
        }
    };
    let name = wanted
        .argv
        .first()
        .ok_or_else(|| Failure::new(FailureKind::BadInput, "a process needs a program to run"))?;
    let cwd = if wanted.cwd.starts_with('/') { &wanted.cwd } else { "/" };
    let none = Bounds::default();
    let bounds = target.machine().map_or(&none, |machine| &machine.configure.bounds);
    let identity = users::look_up(&root, &wanted.user, &bounds.groups)?;
    match target {
        Target::First(_) => root
            .ensure_folder(cwd.as_bytes())
            .during(|| format!("make the working directory {cwd} in the container's root"))?,
        Target::Beside { .. } | Target::System => root
            .open_at(cwd.as_bytes(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC)
            .map_err(|cause| no_working_directory(cwd, cause))?,
    };
    let program = program::find(&root, name, &wanted.env, cwd)?;
    let image = Image::new(wanted, target, &program, cwd, &identity)?;
    let (ends, stdio) = open_streams(wanted, &identity, target)?;
    let started = image.start(wanted, target, (&identity, bounds), &stdio)?;
    Ok(Child { pidfd: started.pidfd, pid: started.pid, container_pid: started.container_pid, ends })
}

/// Only a container's first process has its working directory made.
fn no_working_directory(cwd: &str, cause: Errno) -> Failure {
    match cause {
        Errno::NOENT => Failure::new(
            FailureKind::NotFound,
            format!("chdir to cwd (\"{cwd}\") failed: no such file or directory"),
        ),
        cause => Failure::of(format_args!("chdir to cwd (\"{cwd}\")"), cause),
    }
}

fn gone() -> Failure {
    Failure::new(FailureKind::NoSuch, "the container is not running")
}

/// The child's ends of the standard streams, in order.
type ChildEnds = [OwnedFd; 3];

fn open_streams(wanted: &Spawn, identity: &Identity, target: &Target) -> Result<(Ends, ChildEnds)> {
    if let Some(size) = wanted.tty {
        let root = if matches!(target, Target::System) { "" } else { VIEW };
        let terminal = Terminal::open(root, size, identity)?;
        if let Target::First(_) = target {
            view::show_console(terminal.number()?)?;
        }
        let copy = || terminal.slave.try_clone().during(|| "open the terminal");
        let stdio = [copy()?, copy()?, copy()?];
        return Ok((Ends::Terminal(terminal.master), stdio));
    }
    let (stdin, stdin_end) = if wanted.stdin {
        let (read, write) = pipe_for(identity)?;
        (read, Some(write))
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        (null.during(|| "open /dev/null")?, None)
    };
    let (stdout_end, stdout) = pipe_for(identity)?;
    let (stderr_end, stderr) = pipe_for(identity)?;
    for end in stdin_end.iter().chain([&stdout_end, &stderr_end]) {
        rustix::fs::fcntl_setfl(end, OFlags::NONBLOCK).during(|| "prepare a pipe")?;
    }
    let ends = Ends::Pipes { stdin: stdin_end, stdout: stdout_end, stderr: stderr_end };
    Ok((ends, [stdin, stdout, stderr]))
}

/// A pipe (read end, write end) the user may open again through /dev/stdout.
fn pipe_for(identity: &Identity) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during(|| "make a pipe")?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    rustix::fs::fchown(&read, Some(uid), Some(gid)).during(|| "give a pipe away")?;
    Ok((read, write))
}

struct Started {
    pidfd: Arc<OwnedFd>,
    pid: u32,
    container_pid: u32,
}

/// The strings of the new process, as `execve` wants them.
struct Image {
    name: String,
    program: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
}

impl Image {
    fn new(
        wanted: &Spawn,
        target: &Target,
        program: &str,
        cwd: &str,
        identity: &Identity,
    ) -> Result<Self> {
        let mut env: Vec<CString> =
            wanted.env.iter().map(|pair| c_string(pair)).collect::<Result<_>>()?;
        let is_named = |name: &str| wanted.env.iter().any(|pair| pair.starts_with(name));
        if !is_named("HOME=") {
            env.push(c_string(&format!("HOME={}", identity.home))?);
        }
        // A container's has what the engine says; of a system's programs the engine knows nothing.
        if !is_named("PATH=") && matches!(target, Target::System) {
            env.push(c_string(&format!("PATH={}", program::DEFAULT_PATH))?);
        }
        if !is_named("TERM=") && wanted.tty.is_some() && matches!(target, Target::System) {
            env.push(c_string("TERM=xterm")?);
        }
        Ok(Self {
            name: wanted.argv[0].clone(),
            program: c_string(program)?,
            argv: wanted.argv.iter().map(|argument| c_string(argument)).collect::<Result<_>>()?,
            env,
            cwd: c_string(cwd)?,
        })
    }

    fn start(
        &self,
        wanted: &Spawn,
        target: &Target,
        (identity, bounds): (&Identity, &Bounds),
        stdio: &ChildEnds,
    ) -> Result<Started> {
        let (report_end, report) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during(|| "make a pipe")?;
        let view = c_string(VIEW)?;
        let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let is_bound = !bounds.privileged && !wanted.privileged;
        let without = if is_bound { bounds.without.as_slice() } else { &[] };
        let without: Vec<_> = without.iter().map(|one| capability(*one)).collect();
        let limits: Vec<_> = bounds.limits.iter().map(process_limit).collect();
        let [argv, envp] = [pointers(&self.argv), pointers(&self.env)];
        let plan = Plan {
            place: match target {
                Target::First(_) => Place::New { view: &view, privileged: bounds.privileged },
                Target::Beside { pidfd, .. } => Place::Join { init: pidfd.as_fd() },
                Target::System => Place::Here,
            },
            stdio: stdio.each_ref().map(AsFd::as_fd),
            terminal: wanted.tty.is_some(),
            reaper: wanted.init,
            uid: Uid::from_raw(identity.uid),
            gid: Gid::from_raw(identity.gid),
            groups: &groups,
            without: &without,
            no_new_privileges: bounds.no_new_privileges && !wanted.privileged,
            limits: &limits,
            cwd: &self.cwd,
            program: &self.program,
            argv: &argv,
            envp: &envp,
            report: report.as_fd(),
        };
        let cgroup = target.machine().map(|machine| machine.workload.open()).transpose()?;
        let mut flags = libc::CLONE_PIDFD as u64;
        match target {
            Target::System => {}
            Target::First(_) => flags |= (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64,
            Target::Beside { pidfd, .. } => {
                rustix::thread::move_into_thread_name_spaces(
                    pidfd.as_fd(),
                    ThreadNameSpaceType::PROCESS_ID,
                )
                .map_err(|_| gone())?;
            }
        }
        let (pid, pidfd) = clone_into(flags, cgroup.as_ref(), &plan)?;
        // The child's own copy is the last writer now: the pipe ends when it executes or dies.
        drop(report);
        let mut bytes = Vec::with_capacity(child::REPORT_LEN);
        let read = fs::File::from(report_end).take(64).read_to_end(&mut bytes);
        read.during(|| "hear from the new process")?;
        if let Some((step, errno)) = child::parse_report(&bytes) {
            reap(&pidfd);
            return Err(self.explain(step, errno));
        }
        Ok(Started { pid, container_pid: container_pid(pid), pidfd: Arc::new(pidfd) })
    }

    fn explain(&self, step: Step, errno: rustix::io::Errno) -> Failure {
        let what = match step {
            Step::Enter => "enter the container",
            Step::Mount => "mount /proc and /sys/fs/cgroup in the container",
            Step::Bounds => "set the process's limits and give capabilities up",
            Step::Stdio => "set the process's standard streams up",
            Step::Identity => "become the process's user",
            Step::Cwd => {
                return Failure::of(
                    format_args!("change to the working directory {}", self.cwd.to_string_lossy()),
                    errno,
                );
            }
            Step::Reaper => "start the process under its init",
            Step::Exec => return program::exec_failure(&self.name, errno),
        };
        Failure::of(what, errno)
    }
}

fn capability(one: Capability) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << one.number())
}

fn process_limit(limit: &ProcessLimit) -> (Resource, Rlimit) {
    let resource = match limit.of {
        Limited::Core => Resource::Core,
        Limited::Cpu => Resource::Cpu,
        Limited::Data => Resource::Data,
        Limited::Fsize => Resource::Fsize,
        Limited::Locks => Resource::Locks,
        Limited::Memlock => Resource::Memlock,
        Limited::Msgqueue => Resource::Msgqueue,
        Limited::Nice => Resource::Nice,
        Limited::Nofile => Resource::Nofile,
        Limited::Nproc => Resource::Nproc,
        Limited::Rss => Resource::Rss,
        Limited::Rtprio => Resource::Rtprio,
        Limited::Rttime => Resource::Rttime,
        Limited::Sigpending => Resource::Sigpending,
        Limited::Stack => Resource::Stack,
    };
    (resource, Rlimit { current: limit.soft, maximum: limit.hard })
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text)
        .map_err(|_| Failure::new(FailureKind::BadInput, format!("{text:?} holds a zero byte")))
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}

/// `CLONE_INTO_CGROUP` of linux/sched.h; the C library's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Clones a child that runs the plan, into a control group or the agent's own; returns its PID here and its
/// handle.
fn clone_into(flags: u64, cgroup: Option<&OwnedFd>, plan: &Plan<'_>) -> Result<(u32, OwnedFd)> {
    let mut pidfd: i32 = -1;
    // SAFETY: all zeroes is a valid clone_args.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child runs on a copy of this stack; it only makes system calls
    // (see `child`) and never returns. Signals are blocked around the clone so that none reaches
    // the child before it has its own place. The kernel writes the new descriptor to `pidfd`.
    let pid = unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let pid = libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            std::mem::size_of::<libc::clone_args>(),
        );
        if pid == 0 {
            child::run(plan);
        }
        let failure = (pid < 0).then(child::last_errno);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        if let Some(errno) = failure {
            return Err(Failure::of("make a process", errno));
        }
        pid
    };
    // SAFETY: the clone succeeded, so the kernel stored a descriptor that nobody else owns.
    Ok((pid as u32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

fn reap(pidfd: &OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}

/// The PID as the container sees it; a process that died meanwhile still has its status file,
/// because only the agent's main thread reaps it, later.
fn container_pid(pid: u32) -> u32 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            line.split_whitespace().last()?.parse().ok()
        })
        .unwrap_or(0)
}
