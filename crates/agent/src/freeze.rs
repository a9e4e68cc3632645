//! Holding the container's disks still, so that the host can freeze their chains with the file systems
//! whole.
//!
//! The container may have mounted its further disks, or a part of one, wherever it likes: its own list
//! of mounts says where.
//!
//! A host that never comes back must not leave the container stuck: every freeze thaws by itself
//! after [`FREEZE_LIMIT`], and the thaw then says that what was read meanwhile cannot be trusted. Where the
//! agent itself may be ended meanwhile, a [guard](crate::thaw_guard) sees to it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ireko_protocol::agent::{FREEZE_LIMIT, FailureKind};
use rustix::fs::{Mode, OFlags};

use crate::configure::ioctl;
use crate::failure::{During, Failure, Result};
use crate::thaw_guard::ThawGuard;

/// _IOWR('X', 119, int)
const FIFREEZE: libc::c_ulong = 0xc004_5877;
/// _IOWR('X', 120, int)
const FITHAW: libc::c_ulong = 0xc004_5878;

/// Freezes and thaws file systems; shared by the threads of both requests.
#[derive(Debug, Default)]
pub struct Freezer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Thawed,
    Frozen {
        until: Instant,
        disks: Vec<OwnedFd>,
        guard: Option<ThawGuard>,
    },
}

impl Freezer {
    /// Writes everything out, then freezes the file systems `disks` are on, in that order; `guard` is over
    /// them.
    ///
    /// The caller calls [`Freezer::guard`] next, on a thread that may wait.
    pub fn freeze(&self, disks: Vec<OwnedFd>, guard: Option<ThawGuard>) -> Result<()> {
        // Most of the writing is done while writers still run; the freeze itself is then short.
        for disk in &disks {
            rustix::fs::syncfs(disk).during(|| "sync the disks")?;
        }
        let mut state = self.lock();
        if !matches!(*state, State::Thawed) {
            return Err(Failure::new(FailureKind::Other, "the disks are frozen already"));
        }
        let mut frozen = Vec::with_capacity(disks.len());
        for disk in disks {
            // SAFETY: FIFREEZE ignores its argument.
            match unsafe { ioctl(&disk, FIFREEZE, std::ptr::null_mut()) } {
                Ok(()) => frozen.push(disk),
                // One of a kind that cannot be held still is written out, and no more.
                Err(cause) if cause.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(cause) => {
                    let _ = thaw_all(&frozen);
                    return Err(Failure::of("freeze the disks", cause));
                }
            }
        }
        *state = State::Frozen { until: Instant::now() + FREEZE_LIMIT, disks: frozen, guard };
        Ok(())
    }

    /// Waits until the freeze ends, and ends it when its time is over.
    pub fn guard(&self) {
        let mut state = self.lock();
        while let State::Frozen { until, .. } = &*state {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                let frozen = std::mem::take(&mut *state);
                drop(state);
                if let Err(failure) = end(frozen) {
                    crate::kmsg::warn(failure);
                }
                return;
            };
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets the file systems take writes again; tells whether they were frozen until now.
    pub fn thaw(&self) -> Result<bool> {
        let frozen = std::mem::take(&mut *self.lock());
        self.changed.notify_all();
        end(frozen)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a freeze; whether nothing else did before.
fn end(state: State) -> Result<bool> {
    let State::Frozen { until, disks, guard } = state else { return Ok(false) };
    let stayed = thaw_all(&disks);
    let is_in_time = Instant::now() < until;
    if let Some(guard) = guard {
        guard.dismiss();
    }
    Ok(stayed? && is_in_time)
}

/// Thaws in the other order; tries all, tells the last failure. Whether all were frozen.
pub(crate) fn thaw_all(disks: &[OwnedFd]) -> Result<bool> {
    let mut result = Ok(true);
    for disk in disks.iter().rev() {
        // SAFETY: FITHAW ignores its argument.
        match unsafe { ioctl(disk, FITHAW, std::ptr::null_mut()) } {
            Ok(()) => {}
            // Somebody else did.
            Err(cause) if cause.raw_os_error() == Some(libc::EINVAL) => {
                result = result.map(|_| false);
            }
            Err(cause) => result = Err(Failure::of("thaw the disks", cause)),
        }
    }
    result
}

/// Opens the file systems on disks that the process `pid` has mounted, but the one called `root`, which
/// has to be frozen after them: they may be in files of it.
///
/// What cannot be opened is left out: it is written back, and no more, by the freeze of the rest.
pub fn mounted_disks(pid: u32, root: &OwnedFd) -> Vec<OwnedFd> {
    let mounts = std::fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let own = rustix::fs::fstat(root).map(|stat| stat.st_dev).ok();
    let (mut seen, mut disks) = (BTreeSet::from_iter(own), Vec::new());
    for place in places_of_disks(&mounts) {
        let mut path = format!("/proc/{pid}/root").into_bytes();
        path.extend(place);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let Ok(disk) = rustix::fs::open(&*path, flags, Mode::empty()) else { continue };
        if rustix::fs::fstat(&disk).is_ok_and(|stat| seen.insert(stat.st_dev)) {
            disks.push(disk);
        }
    }
    disks
}

/// Lists where file systems on block devices are mounted, later mounts first: they may be in files of
/// earlier ones. Source: proc_pid_mountinfo(5).
fn places_of_disks(mounts: &[u8]) -> Vec<Vec<u8>> {
    let mut places: Vec<_> = mounts
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mut words = line.split(|byte| *byte == b' ');
            let place = words.nth(4)?;
            let mut rest = words.skip_while(|word| *word != b"-").skip(2);
            rest.next()?.starts_with(b"/dev/").then(|| unescaped(place))
        })
        .collect();
    places.reverse();
    places
}

/// The kernel writes blanks and the like as a backslash and three octal digits.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let (mut plain, mut at) = (Vec::new(), 0);
    while let Some(&byte) = text.get(at) {
        let digits = text.get(at + 1..at + 4).filter(|_| byte == b'\\');
        let value =
            digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(value.unwrap_or(byte));
        at += if value.is_some() { 4 } else { 1 };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_file_systems_on_disks_are_held_still() {
        let mounts = b"22 1 254:0 / / rw - ext4 /dev/vda rw\n\
            23 22 0:5 / /proc rw,nosuid shared:3 - proc proc rw\n\
            24 22 254:16 / /my\\040data rw master:1 - ext4 /dev/vdb rw\n\
            25 24 7:0 / /in rw - ext4 /dev/loop0 rw\nnonsense\n";
        let places = places_of_disks(mounts);
        assert_eq!(places, [b"/in".as_slice(), b"/my data", b"/"]);
    }
}
