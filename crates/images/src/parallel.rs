//! The same work on many files at once: what waits for a cold disk waits together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Files that are worked on at the same time.
const THREADS: usize = 16;
/// Files that are worth a thread.
const WORTH: usize = 16;

/// Does `work` on each item, and returns the results in the items' order.
pub(crate) fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let share = || {
        let mut done = Vec::new();
        while let Some((at, item)) = take(items, &next) {
            done.push((at, work(item)));
        }
        done
    };
    let mut results = thread::scope(|scope| {
        let others = (items.len() / WORTH).min(THREADS - 1);
        // Where there are no more threads, fewer do it.
        let threads: Vec<_> = (0..others)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, share).ok())
            .collect();
        let mut results = share();
        for thread in threads {
            match thread.join() {
                Ok(more) => results.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    });
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

fn take<'a, T>(items: &'a [T], next: &AtomicUsize) -> Option<(usize, &'a T)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    items.get(at).map(|item| (at, item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        for count in [0, 1, 15, 16, 1000] {
            let items: Vec<usize> = (0..count).collect();
            assert_eq!(map(&items, |item| item * 2), Vec::from_iter((0..count).map(|n| n * 2)));
        }
    }
}
