//! Flow control of one stream, without any I/O.
//!
//! ```text
//!   host ──Data──► Inlet ──► process's stdin       at most WINDOW bytes wait in an Inlet;
//!        ◄─Credit──                                 what the process took is credited back
//!
//!   process's output ──► Outlet ──Data──► host     at most as many bytes as the host credited
//!                               ◄─Credit──
//! ```

use std::collections::VecDeque;

use ireko_protocol::frame::WINDOW;

/// Bytes consumed are credited in lots of this size, or when nothing more waits.
const CREDIT_LOT: u32 = WINDOW / 4;

/// The host sent more than it had credit for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun;

/// Bytes on their way from the host to a process.
#[derive(Debug)]
pub struct Inlet {
    waiting: VecDeque<u8>,
    /// What the host may still send.
    window: u32,
    /// Taken by the process, not yet credited to the host.
    uncredited: u32,
    /// How many of the waiting bytes an earlier host sent; they are never credited.
    stale: usize,
    ended: bool,
}

impl Default for Inlet {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), window: WINDOW, uncredited: 0, stale: 0, ended: false }
    }
}

impl Inlet {
    /// Takes bytes from the host.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Overrun> {
        let count = u32::try_from(bytes.len()).map_err(|_| Overrun)?;
        if self.ended {
            return Err(Overrun);
        }
        self.window = self.window.checked_sub(count).ok_or(Overrun)?;
        self.waiting.extend(bytes);
        Ok(())
    }

    /// The host sends no more.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The next bytes for the process; empty where none wait.
    pub fn front(&self) -> &[u8] {
        self.waiting.as_slices().0
    }

    /// The process took this many bytes of [`Inlet::front`].
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.waiting.len());
        self.waiting.drain(..count);
        let stale = count.min(self.stale);
        self.stale -= stale;
        // Bounded by WINDOW, see `push`.
        self.uncredited += (count - stale) as u32;
    }

    /// Drops what waits, as if the process had taken it.
    pub fn discard(&mut self) {
        self.consume(self.waiting.len());
    }

    /// Every byte was taken and no more come.
    pub fn is_finished(&self) -> bool {
        self.ended && self.waiting.is_empty()
    }

    /// The credit to give to the host now.
    pub fn take_credit(&mut self) -> Option<u32> {
        let due = self.uncredited >= CREDIT_LOT || (self.waiting.is_empty() && self.uncredited > 0);
        if !due || self.ended {
            return None;
        }
        self.window += self.uncredited;
        Some(std::mem::take(&mut self.uncredited))
    }

    /// A new host begins with a whole window; what waits stays for the process.
    pub fn renew(&mut self) {
        *self = Self {
            stale: self.waiting.len(),
            waiting: std::mem::take(&mut self.waiting),
            ended: self.ended,
            ..Self::default()
        };
    }
}

/// How much of a process's output the host is ready to take.
#[derive(Debug)]
pub struct Outlet {
    credit: u32,
}

impl Default for Outlet {
    fn default() -> Self {
        Self { credit: WINDOW }
    }
}

impl Outlet {
    /// How many bytes may be sent now.
    pub fn allowance(&self) -> usize {
        self.credit as usize
    }

    /// This many bytes were sent; never more than [`Outlet::allowance`].
    pub fn sent(&mut self, count: usize) {
        self.credit = self.credit.saturating_sub(count as u32);
    }

    /// The host credits bytes it consumed.
    pub fn grant(&mut self, count: u32) {
        self.credit = self.credit.saturating_add(count);
    }

    /// A new host begins with a whole window.
    pub fn renew(&mut self) {
        self.credit = WINDOW;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inlet_takes_one_window_and_more_only_after_credit() {
        let mut inlet = Inlet::default();
        inlet.push(&vec![7; WINDOW as usize]).unwrap();
        assert_eq!(inlet.push(&[7]), Err(Overrun));
        inlet.consume(1);
        assert_eq!(inlet.take_credit(), None, "credit goes in lots");
        assert_eq!(inlet.push(&[7]), Err(Overrun), "consumed but not yet credited");
        inlet.consume(CREDIT_LOT as usize);
        assert_eq!(inlet.take_credit(), Some(CREDIT_LOT + 1));
        inlet.push(&[7]).unwrap();
    }

    #[test]
    fn the_last_bytes_are_credited_however_few() {
        let mut inlet = Inlet::default();
        inlet.push(b"abc").unwrap();
        let taken = inlet.front().len();
        inlet.consume(taken);
        assert_eq!(inlet.take_credit(), Some(3));
        assert_eq!(inlet.take_credit(), None);
    }

    #[test]
    fn an_ended_inlet_is_finished_when_drained_and_takes_nothing_more() {
        let mut inlet = Inlet::default();
        inlet.push(b"x").unwrap();
        inlet.end();
        assert!(!inlet.is_finished());
        assert_eq!(inlet.push(b"y"), Err(Overrun));
        inlet.discard();
        assert!(inlet.is_finished());
        assert_eq!(inlet.take_credit(), None, "nobody sends on an ended stream");
    }

    #[test]
    fn a_new_host_has_a_whole_window_and_gets_no_credit_for_old_bytes() {
        let mut inlet = Inlet::default();
        inlet.push(b"old").unwrap();
        inlet.renew();
        inlet.push(&vec![7; WINDOW as usize]).unwrap();
        inlet.discard();
        assert_eq!(inlet.take_credit(), Some(WINDOW));
    }

    #[test]
    fn an_outlet_stops_at_its_credit() {
        let mut outlet = Outlet::default();
        outlet.sent(WINDOW as usize);
        assert_eq!(outlet.allowance(), 0);
        outlet.grant(5);
        assert_eq!(outlet.allowance(), 5);
        outlet.grant(u32::MAX);
        assert_eq!(outlet.allowance(), u32::MAX as usize);
    }
}
