//! Work that touches disks, kept off the async threads; and locks whose holder cannot have failed.

use crate::error::{Error, Result};
use std::sync::{Mutex, MutexGuard};

/// Runs `work` on a thread that may block. It runs to its end even where the caller goes away.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::caused("a task of the engine broke", error)))
}

/// Runs a verb as a task of its own: a client that goes away does not leave it half done.
pub(crate) async fn to_its_end<T: Send + 'static>(
    verb: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(verb)
        .await
        .unwrap_or_else(|error| Err(Error::caused("a task of the engine broke", error)))
}

/// Locks; what is guarded is whole even where a holder panicked, as each changes it in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
