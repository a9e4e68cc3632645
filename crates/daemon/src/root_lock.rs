//! One daemon for each root.

use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Held for as long as the daemon lives; the kernel gives it back however it ends.
#[derive(Debug)]
pub(crate) struct RootLock(#[expect(dead_code, reason = "held, not read")] File);

impl RootLock {
    /// Makes the root where it is missing and takes its lock; `None` where another daemon has it.
    pub(crate) fn take(root: &Path) -> io::Result<Option<Self>> {
        DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        let mut options = File::options();
        let file = options.create(true).append(true).mode(0o600).open(root.join("lock"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_has_one_daemon_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let first = RootLock::take(root.path()).unwrap();
        assert!(first.is_some());
        assert!(RootLock::take(root.path()).unwrap().is_none());
        drop(first);
        assert!(RootLock::take(root.path()).unwrap().is_some());
    }
}
