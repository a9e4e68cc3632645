//! Keeps a guest's clock with the host's, for as long as the guest is there.
//!
//! A guest counts by a rate that was measured once, and loses what its host sleeps. It is asked what its
//! clock shows; a difference that is more than the asking can account for is taken off.

use crate::guest::{Guest, GuestError};
use crate::records;
use ireko_protocol::agent::{Reply, RequestBody};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How often it is looked at.
const PERIOD: Duration = Duration::from_secs(30);
/// A smaller difference is left alone, in nanoseconds.
const TOLERANCE: u64 = 50_000_000;
/// How long the guest may take to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// Begins to look after the guest's clock.
pub fn keep(guest: &Arc<Guest>) -> io::Result<()> {
    let guest = Arc::clone(guest);
    let keep = move || {
        loop {
            thread::sleep(PERIOD);
            match correct(&guest) {
                Ok(()) => {}
                Err(GuestError::Gone | GuestError::Io(_)) => return,
                Err(error) => tracing::debug!(%error, "the guest's clock is not looked at"),
            }
        }
    };
    thread::Builder::new().name("clock".into()).spawn(keep).map(drop)
}

fn correct(guest: &Guest) -> Result<(), GuestError> {
    let before = records::now();
    let answer = guest.call(RequestBody::ReadClock, LIMIT)?;
    let after = records::now();
    let Reply::Clock { unix_nanos } = answer else { return Err(GuestError::Confused) };
    match difference(before, unix_nanos, after) {
        Some(nanos) => guest.order(RequestBody::MoveClock { nanos }),
        None => Ok(()),
    }
}

/// How far a clock that showed `seen` some time between two moments has to be moved; `None` where it may
/// well be right.
fn difference(before: u64, seen: u64, after: u64) -> Option<i64> {
    let least = before.saturating_sub(TOLERANCE);
    let most = after.saturating_add(TOLERANCE);
    if (least..=most).contains(&seen) || after < before {
        return None;
    }
    let middle = before + (after - before) / 2;
    i64::try_from(i128::from(middle) - i128::from(seen)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn what_the_asking_accounts_for_is_left_alone() {
        assert_eq!(difference(1000 * MS, 1001 * MS, 1002 * MS), None);
        assert_eq!(difference(1000 * MS, 960 * MS, 1002 * MS), None);
        assert_eq!(difference(1000 * MS, 2500 * MS, 3000 * MS), None);
        // The host's own clock was set back meanwhile.
        assert_eq!(difference(3000 * MS, 10 * MS, 1000 * MS), None);
    }

    #[test]
    fn a_clock_that_is_wrong_is_moved_to_the_middle() {
        assert_eq!(difference(1000 * MS, 900 * MS, 1002 * MS), Some(101_000_000));
        assert_eq!(difference(1000 * MS, 1200 * MS, 1000 * MS), Some(-200_000_000));
        assert_eq!(difference(0, u64::MAX, 0), None);
    }
}
