//! How far a long verb is, and the way to stop it.
//!
//! ```text
//!   verb, on a thread ── Watcher ──► Progress, with whoever asked
//!                        cancelled ◄── dropped
//! ```

use ireko_images::Watch;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// So many bytes of work are done before it is told again.
const STEP: u64 = 4 << 20;

/// How far a verb is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Bytes of work that are done.
    pub current: u64,
    /// Bytes of work there are, as far as is known.
    pub total: u64,
}

/// What a verb tells its progress to.
#[derive(Debug)]
pub struct Watcher {
    told: watch::Sender<Done>,
    cancelled: Arc<AtomicBool>,
}

/// What is told of a verb. Dropping it stops the verb, which then undoes itself.
#[derive(Debug)]
pub struct Progress {
    told: watch::Receiver<Done>,
    cancelled: Arc<AtomicBool>,
}

/// Makes both ends.
pub fn progress() -> (Watcher, Progress) {
    let (sender, receiver) = watch::channel(Done::default());
    let cancelled = Arc::new(AtomicBool::new(false));
    let watcher = Watcher { told: sender, cancelled: Arc::clone(&cancelled) };
    (watcher, Progress { told: receiver, cancelled })
}

impl Watch for Watcher {
    fn advanced(&self, current: u64, total: u64) {
        self.told.send_if_modified(|last| {
            let due = current >= last.current.saturating_add(STEP) || current < last.current;
            let told = due || (current, total) == (total, total) || last.total == 0;
            if told {
                *last = Done { current, total };
            }
            told
        });
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl Progress {
    /// Waits until the verb is farther; `None` once nobody works on it any more.
    pub async fn next(&mut self) -> Option<Done> {
        self.told.changed().await.ok()?;
        Some(*self.told.borrow_and_update())
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn progress_is_told_in_steps_and_at_the_end() {
        let (watcher, mut progress) = progress();
        watcher.advanced(0, 10 << 20);
        assert_eq!(progress.next().await, Some(Done { current: 0, total: 10 << 20 }));
        for current in [1, 2, 4, 5, 10] {
            watcher.advanced(current << 20, 10 << 20);
        }
        assert_eq!(progress.next().await, Some(Done { current: 10 << 20, total: 10 << 20 }));
        drop(watcher);
        assert_eq!(progress.next().await, None);
    }

    #[test]
    fn whoever_wants_no_more_stops_the_verb() {
        let (watcher, progress) = progress();
        assert!(!watcher.cancelled());
        drop(progress);
        assert!(watcher.cancelled());
    }
}
