//! Holding the root disk still, so that the host can freeze its chain with the file system whole.
//!
//! A host that never comes back must not leave the container stuck: every freeze thaws by itself
//! after [`FREEZE_LIMIT`], and the thaw then says that what was read meanwhile cannot be trusted.

use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ireko_protocol::agent::{FREEZE_LIMIT, FailureKind};

use crate::configure::ioctl;
use crate::failure::{During, Failure, Result};

/// _IOWR('X', 119, int)
const FIFREEZE: libc::c_ulong = 0xc004_5877;
/// _IOWR('X', 120, int)
const FITHAW: libc::c_ulong = 0xc004_5878;

/// Freezes and thaws one file system; shared by the threads of both requests.
#[derive(Debug, Default)]
pub struct Freezer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Thawed,
    Frozen {
        until: Instant,
    },
}

impl Freezer {
    /// Writes everything out, then freezes the file system `disk` is on.
    ///
    /// The caller calls [`Freezer::guard`] next, on a thread that may wait.
    pub fn freeze(&self, disk: &OwnedFd) -> Result<()> {
        // Most of the writing is done while writers still run; the freeze itself is then short.
        rustix::fs::syncfs(disk).during(|| "sync the root disk")?;
        let mut state = self.lock();
        if *state != State::Thawed {
            return Err(Failure::new(FailureKind::Other, "the root disk is frozen already"));
        }
        // SAFETY: FIFREEZE ignores its argument.
        unsafe { ioctl(disk, FIFREEZE, std::ptr::null_mut()) }.during(|| "freeze the root disk")?;
        *state = State::Frozen { until: Instant::now() + FREEZE_LIMIT };
        Ok(())
    }

    /// Waits until the freeze ends, and ends it when its time is over.
    pub fn guard(&self, disk: &OwnedFd) {
        let mut state = self.lock();
        while let State::Frozen { until } = *state {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                *state = State::Thawed;
                if let Err(failure) = thaw_now(disk) {
                    crate::kmsg::warn(failure);
                }
                return;
            };
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets the file system take writes again; tells whether it was frozen until now.
    pub fn thaw(&self, disk: &OwnedFd) -> Result<bool> {
        let mut state = self.lock();
        if *state == State::Thawed {
            return Ok(false);
        }
        thaw_now(disk)?;
        *state = State::Thawed;
        self.changed.notify_all();
        Ok(true)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Thaws without looking at the state; fails where nothing is frozen.
pub(crate) fn thaw_now(disk: &OwnedFd) -> Result<()> {
    // SAFETY: FITHAW ignores its argument.
    unsafe { ioctl(disk, FITHAW, std::ptr::null_mut()) }.during(|| "thaw the root disk")
}
