//! The machine's clock, which the host's is the measure of.

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::failure::{During, Failure, Result};

const SECOND: i128 = 1_000_000_000;
/// Up to here the kernel takes a correction in by running faster or slower (adjtimex(2)).
const SLEWED: i64 = 500_000_000;

/// Nanoseconds since 1970 UTC.
pub fn read() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    (i128::from(now.tv_sec) * SECOND + i128::from(now.tv_nsec)).clamp(0, u64::MAX.into()) as u64
}

/// Sets the clock to nanoseconds since 1970 UTC.
pub fn set(unix_nanos: u64) -> Result<()> {
    let time = Timespec {
        tv_sec: (unix_nanos / SECOND as u64) as i64,
        tv_nsec: (unix_nanos % SECOND as u64) as i64,
    };
    clock_settime(ClockId::Realtime, time).during(|| "set the clock")
}

/// Moves the clock by so many nanoseconds: slowly where that is little, so that no time is seen twice.
pub fn shift(nanos: i64) -> Result<()> {
    if nanos.unsigned_abs() > SLEWED.unsigned_abs() {
        return set(read().saturating_add_signed(nanos));
    }
    // SAFETY: an all-zero timex is a valid value of that C struct.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_OFFSET_SINGLESHOT;
    change.offset = nanos / 1000;
    // SAFETY: adjtimex reads and writes the one struct.
    match unsafe { libc::adjtimex(&raw mut change) } {
        -1 => Err(Failure::of("move the clock", std::io::Error::last_os_error())),
        _ => Ok(()),
    }
}
