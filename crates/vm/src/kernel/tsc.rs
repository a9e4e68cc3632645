//! How fast this host's time-stamp counter runs; an emulated guest reads the same counter.

#![allow(unsafe_code)]

use rustix::time::{ClockId, clock_gettime};
use std::arch::x86_64::{__cpuid, _rdtsc};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(5);

struct Reading {
    cycles: u64,
    nanos: u64,
    /// Cycles between the two counter readings around the clock's.
    width: u64,
}

/// Measures the counter's rate in kHz against the monotonic clock, to some 20 parts in a million.
///
/// Takes 5 ms. `None` where the CPU has no counter of constant rate.
pub fn host_tsc_khz() -> Option<u32> {
    if !counter_is_constant() {
        return None;
    }
    let start = best_reading();
    std::thread::sleep(INTERVAL);
    let end = best_reading();
    let cycles = u128::from(end.cycles.checked_sub(start.cycles)?);
    let nanos = u128::from(end.nanos.checked_sub(start.nanos)?);
    u32::try_from((cycles * 1_000_000).checked_div(nanos)?).ok().filter(|khz| *khz > 0)
}

/// Source: AMD64 APM 3, CPUID Fn8000_0007 EDX bit 8 (invariant TSC).
fn counter_is_constant() -> bool {
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
}

/// Of several readings, the one least disturbed between its two looks at the counter.
fn best_reading() -> Reading {
    (0..8).map(|_| reading()).min_by_key(|reading| reading.width).expect("eight were taken")
}

fn reading() -> Reading {
    let before = counter();
    let now = clock_gettime(ClockId::MonotonicRaw);
    let width = counter().saturating_sub(before);
    let nanos = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    Reading { cycles: before + width / 2, nanos, width }
}

fn counter() -> u64 {
    // SAFETY: reading the counter has no effect; every x86-64 CPU has it, and Linux lets user
    // programs read it unless told otherwise by prctl, which Ireko never does.
    unsafe { _rdtsc() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_measurements_agree() {
        let Some(first) = super::host_tsc_khz() else {
            eprintln!("skipped: this CPU has no counter of constant rate");
            return;
        };
        let second = super::host_tsc_khz().unwrap();
        assert!(first.abs_diff(second) < first / 1000, "{first} and {second} kHz");
    }
}
