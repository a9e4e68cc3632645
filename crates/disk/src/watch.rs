//! Watching a long operation from outside, and asking it to stop.

use crate::error::{Error, ErrorKind, Result};

/// Told how far a long operation is; may be asked from several threads at once.
pub trait Watch: Sync {
    /// So many bytes of work are done out of a total that may still change. Called often: keep it cheap.
    fn advanced(&self, done: u64, total: u64);

    /// Whether the operation is to stop; it then undoes itself and fails with [`ErrorKind::Cancelled`].
    fn cancelled(&self) -> bool;
}

/// Nobody watches.
impl Watch for () {
    fn advanced(&self, _: u64, _: u64) {}

    fn cancelled(&self) -> bool {
        false
    }
}

/// Reports progress, and fails when the watcher wants no more.
pub(crate) fn advance(watch: &dyn Watch, done: u64, total: u64) -> Result<()> {
    watch.advanced(done, total);
    go_on(watch)
}

/// Fails when the watcher wants no more.
pub(crate) fn go_on(watch: &dyn Watch) -> Result<()> {
    match watch.cancelled() {
        true => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
        false => Ok(()),
    }
}
