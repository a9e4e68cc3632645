//! Unpacking an untrusted archive into the root disk.

use std::os::fd::OwnedFd;

use ireko_protocol::agent::{DiskSerial, FailureKind};

use crate::disks;
use crate::failure::{Failure, Result};

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of regular files written.
    pub bytes: u64,
}

/// Unpacks the archive on the disk with this serial into the folder.
pub fn apply_disk(disk: &DiskSerial, _into: &OwnedFd) -> Result<Applied> {
    let node = disks::find(disk)?.node;
    Err(Failure::new(
        FailureKind::Other,
        format!("archives such as {} are not unpacked by this agent", node.display()),
    ))
}
