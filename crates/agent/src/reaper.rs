//! The minimal init of docker's `--init`: forwards signals to one child, reaps the rest.
//!
//! It is the child of a clone that never executes anything, so the rules of [`crate::child`] hold:
//! no allocation, system calls only.

use std::ptr::null_mut;

use rustix::io::{Errno, Result};

use crate::child::{Plan, exit, last_errno};

/// Forks: the child returns and goes on to become the program, the parent never returns.
pub(crate) fn become_reaper(plan: &Plan<'_>) -> Result<()> {
    // The agent blocked every signal before its clone, so none is lost before the wait below.
    // SAFETY: clone without CLONE_VM is fork; both sides go on with system calls only.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    match child {
        0 => {
            if plan.terminal {
                take_foreground()?;
            }
            Ok(())
        }
        1.. => reap(child as i32),
        _ => Err(last_errno()),
    }
}

/// Puts the program into a process group of its own, in the foreground of the terminal.
fn take_foreground() -> Result<()> {
    // SAFETY: plain system calls on this process; SIGTTOU is blocked as all signals are.
    unsafe {
        if libc::setpgid(0, 0) < 0 || libc::tcsetpgrp(0, libc::getpid()) < 0 {
            return Err(last_errno());
        }
    }
    Ok(())
}

fn reap(child: i32) -> ! {
    // SAFETY: system calls only. Closing all but the standard streams takes the agent's port and
    // the report's pipe away from this process; nothing here uses them again.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
        libc::prctl(libc::PR_SET_NAME, c"ireko-init".as_ptr());
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, null_mut());
        loop {
            match libc::sigwaitinfo(&all, null_mut()) {
                libc::SIGCHLD => reap_dead(child),
                signal @ 1.. => {
                    libc::kill(child, signal);
                }
                _ if last_errno() == Errno::INTR => {}
                _ => exit(1),
            }
        }
    }
}

/// Ends this process as the child ended, as far as an exit code can tell.
fn reap_dead(child: i32) {
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one int.
        match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) } {
            dead if dead == child && libc::WIFSIGNALED(status) => {
                exit(128 + libc::WTERMSIG(status))
            }
            dead if dead == child && libc::WIFEXITED(status) => exit(libc::WEXITSTATUS(status)),
            1.. => {}
            _ => return,
        }
    }
}
