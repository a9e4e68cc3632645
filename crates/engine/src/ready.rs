//! Descriptors that are waited for: inotify's and processes'.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::unix::AsyncFd;

/// Hands a descriptor to the runtime, which tells when it can be read.
pub(crate) fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is open and owned by the `OwnedFd`, which moves into the `AsyncFd` and
    // always gives the same number; both are dropped together, or leak together.
    unsafe { AsyncFd::register(descriptor) }.map_err(Into::into)
}
