//! How many connections there are at a time, and which one goes for another.
//!
//! ```text
//!   accept ─► waits for a request ─► is served ─► waits for the next
//!              │ the longest waiting goes            │
//!              │ when there are too many             └ too many: answered 503 at once
//!              └───────────────────────────────────── no seat left: 503, closed
//! ```
//!
//! So nobody who opens connections, or leaves requests open, keeps others out for good: who waits
//! gives way, and a quarter of the seats is never taken by requests under way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// The most connections, however many files may be open.
const MOST: usize = 4096;
/// The most that wait for a request; each may have sent the beginning of one.
const MOST_WAITING: usize = 512;
/// Descriptors that one connection may take: itself, the way to a shim, a log.
const FILES_EACH: u64 = 3;
/// Descriptors that are left for all else.
const OTHER_FILES: u64 = 256;

/// The seats of one daemon.
#[derive(Clone, Debug)]
pub(crate) struct Seats(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    most_waiting: usize,
    room: Mutex<Room>,
}

#[derive(Debug, Default)]
struct Room {
    taken: usize,
    /// By the order in which they began to wait; cancelling shows one out.
    waiting: BTreeMap<u64, CancellationToken>,
    next: u64,
}

/// One connection's seat, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    shared: Arc<Shared>,
    shown_out: CancellationToken,
    /// Its place among those that wait.
    place: Mutex<Option<u64>>,
}

/// A request under way; its drop is the request's end.
#[derive(Debug)]
pub(crate) struct Served {
    seat: Arc<Seat>,
    /// There are so many that only the most urgent is to be answered.
    pub(crate) is_crowded: bool,
}

impl Seats {
    /// As many as this many open files allow.
    pub(crate) fn for_files(files: Option<u64>) -> Self {
        let files = files.unwrap_or(u64::MAX);
        let most = (files.saturating_sub(OTHER_FILES) / FILES_EACH).clamp(64, MOST as u64) as usize;
        Self::of(most, MOST_WAITING.min(most / 4))
    }

    fn of(most: usize, most_waiting: usize) -> Self {
        Self(Arc::new(Shared { most, most_waiting, room: Mutex::default() }))
    }

    /// Takes a seat; `None` where all are taken by requests under way.
    pub(crate) fn take(&self) -> Option<Arc<Seat>> {
        let mut room = self.0.room();
        if room.taken >= self.0.most && !room.show_one_out() {
            return None;
        }
        room.taken += 1;
        let shown_out = CancellationToken::new();
        let place = self.0.wait(&mut room, &shown_out);
        Some(Arc::new(Seat {
            shared: Arc::clone(&self.0),
            shown_out,
            place: Mutex::new(Some(place)),
        }))
    }
}

impl Shared {
    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, room: &mut Room, shown_out: &CancellationToken) -> u64 {
        if room.waiting.len() >= self.most_waiting {
            room.show_one_out();
        }
        let place = room.next;
        room.next += 1;
        room.waiting.insert(place, shown_out.clone());
        place
    }
}

impl Room {
    /// The one that has waited longest.
    fn show_one_out(&mut self) -> bool {
        match self.waiting.pop_first() {
            Some((_, longest)) => {
                longest.cancel();
                true
            }
            None => false,
        }
    }
}

impl Seat {
    /// Returns when the seat is needed by somebody else.
    pub(crate) async fn shown_out(&self) {
        self.shown_out.cancelled().await;
    }

    /// A request has come.
    pub(crate) fn serve(self: &Arc<Self>) -> Served {
        let mut room = self.shared.room();
        if let Some(place) = self.place().take() {
            room.waiting.remove(&place);
        }
        let served = room.taken.saturating_sub(room.waiting.len());
        Served { seat: Arc::clone(self), is_crowded: served > self.shared.most / 4 * 3 }
    }

    fn place(&self) -> MutexGuard<'_, Option<u64>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let Seat { shared, shown_out, place: _ } = &*self.seat;
        let mut room = shared.room();
        let place = shared.wait(&mut room, shown_out);
        *self.seat.place() = Some(place);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut room = self.shared.room();
        if let Some(place) = self.place().take() {
            room.waiting.remove(&place);
        }
        room.taken -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_shown_out(seat: &Seat) -> bool {
        seat.shown_out.is_cancelled()
    }

    #[test]
    fn the_longest_waiting_gives_way_and_who_is_served_does_not() {
        let seats = Seats::of(4, 2);
        let first = seats.take().unwrap();
        let served = first.serve();
        assert!(!served.is_crowded);
        let (second, third) = (seats.take().unwrap(), seats.take().unwrap());
        let fourth = seats.take().unwrap();
        assert!(!is_shown_out(&first) && is_shown_out(&second) && !is_shown_out(&third));
        drop(second);
        let fifth = seats.take().unwrap();
        assert!(is_shown_out(&third) && !is_shown_out(&fourth) && !is_shown_out(&fifth));
        // It waits again, behind the others.
        drop(served);
        assert!(is_shown_out(&fourth) && !is_shown_out(&fifth) && !is_shown_out(&first));
    }

    #[test]
    fn requests_under_way_leave_room_and_take_all_seats_at_most() {
        let seats = Seats::of(4, 4);
        let all: Vec<_> = (0..4).map(|_| seats.take().unwrap()).collect();
        let served: Vec<_> = all.iter().map(Seat::serve).collect();
        assert_eq!(
            served.iter().map(|one| one.is_crowded).collect::<Vec<_>>(),
            [false, false, false, true]
        );
        assert!(seats.take().is_none());
        drop((served, all));
        assert_eq!(seats.0.room().taken, 0);
        assert!(seats.0.room().waiting.is_empty());
        seats.take().unwrap();
    }

    #[test]
    fn few_files_are_few_seats() {
        assert_eq!(Seats::for_files(Some(1024)).0.most, 256);
        assert_eq!(Seats::for_files(Some(0)).0.most, 64);
        assert_eq!(Seats::for_files(None).0.most, MOST);
    }
}
