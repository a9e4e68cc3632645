//! Long work: shown on a terminal, and undone when interrupted.

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::{output, progress, signals};
use ireko_disk::Watch;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shows progress, and carries an interrupt to the work.
struct Watcher {
    bar: progress::Bytes,
    cancelled: AtomicBool,
}

impl Watch for Watcher {
    fn advanced(&self, done: u64, total: u64) {
        self.bar.at(done, total);
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Does `work` on a thread of its own; `title` stands beside its progress.
///
/// An interrupt asks the work to undo itself; the status is then 128 + signal, as the shell has it. A second one is not waited for.
pub async fn watched<T: Send + 'static>(
    title: &str,
    work: impl FnOnce(&dyn Watch) -> Result<T> + Send + 'static,
    then: impl FnOnce(T) -> Result<Exit>,
) -> Result<Exit> {
    let watcher =
        Arc::new(Watcher { bar: progress::Bytes::new(title), cancelled: AtomicBool::new(false) });
    let for_work = watcher.clone();
    let mut task = tokio::task::spawn_blocking(move || work(&*for_work));
    let signal = tokio::select! {
        outcome = &mut task => {
            watcher.bar.finish();
            return then(finished(outcome)?);
        }
        signal = signals::fatal() => signal,
    };
    watcher.cancelled.store(true, Ordering::Relaxed);
    let outcome = tokio::select! {
        outcome = &mut task => outcome,
        _ = signals::fatal() => return Ok(Exit::of_signal(signal)),
    };
    watcher.bar.finish();
    match finished(outcome) {
        // It was done before it noticed.
        Ok(done) => then(done),
        Err(error) if is_cancelled(&error) => {
            output::note("ireko: interrupted; what had begun is undone");
            Ok(Exit::of_signal(signal))
        }
        Err(error) => Err(error),
    }
}

fn finished<T>(outcome: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.map_err(|error| Error::local("the work broke off").because(error))?
}

fn is_cancelled(error: &Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<ireko_disk::Error>())
        .any(|error| error.kind() == ireko_disk::ErrorKind::Cancelled)
}
