//! Copying one disk's bytes to another: what merging, flattening and converting have in common.
//!
//! ```text
//!   source.extents ─► windows of 256 KiB, in order ─► a few threads: read ─► leave out zeros ─► write
//! ```
//! Each thread reads and writes by turns, so that one reads while others write. Memory is a window for each. Windows
//! are small enough to stay in the processor's cache, and to be read nearly in order. One more thread flushes the target now and
//! then: the host's disk works while bytes are copied, and has little left to do when the caller flushes.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use parking_lot::Mutex;

use crate::disk::{Disk, Extent, ExtentKind};
use crate::error::{Error, ErrorKind, Result};
use crate::extents::Extents;
use crate::ranges::Ranges;
use crate::watch::{Watch, advance, go_on};

/// What is read and written at once; windows start at its multiples.
const WINDOW: u64 = 256 << 10;
/// What is made zeros at once, which may take a change for each block.
const ZERO_STEP: u64 = 1 << 30;
/// Ranges of zeros that are kept in mind: those of neighbouring windows make whole blocks, which take no space.
const MAX_ZEROS: usize = 4096;
const THREADS: usize = 3;
/// Less data than this is copied by one thread.
const ALONE: u64 = 32 << 20;
/// How much is copied before it is flushed meanwhile.
const BACKLOG: u64 = 64 << 20;
/// Where zeros are looked for, and how many there must be in one place: fewer cost the host's file system more than they save.
const PAGE: usize = 4096;
const MIN_ZEROS: usize = 8 * PAGE;

/// What a copy may take for granted of the disk it writes to, and so what it leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// A new disk that reads as zeros everywhere: only data is written.
    Blank,
    /// A disk with bytes of its own, or a parent's: zeros are written too. What no layer of the source knows stays as it is.
    Disk,
}

/// What a copy did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of data that the source has.
    pub read: u64,
    /// Bytes of it that were written; the others are zeros.
    pub written: u64,
}

/// Copies what `source` holds to the same places of `target`, which is at least as large.
///
/// Ranges of zeros are found among data too, so that the target takes no space for them. Nobody changes either disk meanwhile. Not durable
/// before the target is flushed. When it fails, or is cancelled, some of the source is copied. Progress counts bytes of data.
pub fn copy(source: &dyn Disk, target: &dyn Disk, onto: Onto, watch: &dyn Watch) -> Result<Copied> {
    let size = source.geometry().virtual_size;
    let target_size = target.geometry().virtual_size;
    if target_size < size {
        let message = format!("a disk of {size} bytes does not fit one of {target_size}");
        return Err(Error::new(ErrorKind::OutOfRange, message));
    }
    let mut total = 0;
    let mut extents = Extents::new(source);
    while let Some(extent) = extents.take(u64::MAX)? {
        total += if extent.kind == ExtentKind::Data { extent.length } else { 0 };
        advance(watch, 0, total)?;
    }
    let copy = Copy {
        source,
        target,
        onto,
        watch,
        total,
        extents: Mutex::new(Extents::new(source)),
        done: AtomicU64::new(0),
        written: AtomicU64::new(0),
        zeros: Mutex::new(Ranges::default()),
        stopped: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    copy.run()?;
    advance(watch, total, total)?;
    Ok(Copied { read: total, written: copy.written.into_inner() })
}

/// A copy under way, shared by its threads.
struct Copy<'a> {
    source: &'a dyn Disk,
    target: &'a dyn Disk,
    onto: Onto,
    watch: &'a dyn Watch,
    /// Bytes of data there are.
    total: u64,
    extents: Mutex<Extents<'a>>,
    /// Bytes of data dealt with.
    done: AtomicU64,
    written: AtomicU64,
    /// Known to be zeros, not yet made so.
    zeros: Mutex<Ranges>,
    stopped: AtomicBool,
    /// The first one.
    failure: Mutex<Option<Error>>,
}

impl Copy<'_> {
    fn run(&self) -> Result<()> {
        thread::scope(|scope| {
            let threads = if self.total < ALONE { 1 } else { THREADS };
            let backlog = (self.total > BACKLOG).then(|| {
                let (backlog, due) = sync_channel::<()>(1);
                // The caller's flush does it all where there is no thread.
                let _ = thread::Builder::new().spawn_scoped(scope, move || {
                    self.noting(due.iter().try_for_each(|()| self.target.flush()))
                });
                backlog
            });
            for _ in 1..threads {
                let backlog = backlog.clone();
                // Where there are no more threads, fewer do it.
                let _ = thread::Builder::new()
                    .spawn_scoped(scope, move || self.noting(self.copy_windows(backlog)));
            }
            self.noting(self.copy_windows(backlog));
        });
        self.failure.lock().take().map_or(Ok(()), Err)?;
        self.clear(self.zeros.lock().take())
    }

    fn noting(&self, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.failure.lock().get_or_insert(error);
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    /// `backlog` is told when there is much that was not flushed; the thread behind it ends when it is gone.
    fn copy_windows(&self, backlog: Option<SyncSender<()>>) -> Result<()> {
        let (mut window, mut buffer) = (Vec::new(), Vec::new());
        while self.next_window(&mut window)? {
            for extent in window.drain(..) {
                match extent.kind {
                    ExtentKind::Data => {
                        let done = self.copy_data(&extent, &mut buffer)?;
                        if (done - extent.length) / BACKLOG != done / BACKLOG
                            && let Some(backlog) = &backlog
                        {
                            // Where it is at work still, it goes on when the next is due.
                            let _ = backlog.try_send(());
                        }
                    }
                    ExtentKind::Zero | ExtentKind::Absent => {
                        self.note_zeros(extent.offset, extent.length)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes the next window's extents, those that matter; `false` when there is none.
    fn next_window(&self, window: &mut Vec<Extent>) -> Result<bool> {
        let mut extents = self.extents.lock();
        if self.stopped.load(Ordering::Relaxed) {
            return Ok(false);
        }
        // Under the lock, so that progress never goes back.
        advance(self.watch, self.done.load(Ordering::Relaxed), self.total)?;
        let Some(first) = extents.peek()? else { return Ok(false) };
        let end = window_end(&first);
        while let Some(extent) = extents.take(end)? {
            if self.matters(extent.kind) {
                window.push(extent);
            }
        }
        Ok(true)
    }

    fn matters(&self, kind: ExtentKind) -> bool {
        match kind {
            ExtentKind::Data => true,
            ExtentKind::Zero => self.onto == Onto::Disk,
            ExtentKind::Absent => false,
        }
    }

    /// Returns how much is copied by now.
    fn copy_data(&self, extent: &Extent, buffer: &mut Vec<u8>) -> Result<u64> {
        let length = extent.length as usize;
        buffer.resize(buffer.len().max(length), 0);
        let data = &mut buffer[..length];
        self.source.read_at(extent.offset, data)?;
        each_run(extent.offset, data, |offset, run, zeros| match zeros {
            true => self.note_zeros(offset, run.len() as u64),
            false => {
                self.written.fetch_add(run.len() as u64, Ordering::Relaxed);
                self.target.write_at(offset, run)
            }
        })?;
        Ok(self.done.fetch_add(extent.length, Ordering::Relaxed) + extent.length)
    }

    fn note_zeros(&self, offset: u64, length: u64) -> Result<()> {
        if self.onto == Onto::Blank {
            return Ok(());
        }
        let mut zeros = self.zeros.lock();
        zeros.add(offset..offset + length);
        if zeros.len() <= MAX_ZEROS {
            return Ok(());
        }
        let noted = zeros.take();
        drop(zeros);
        self.clear(noted)
    }

    fn clear(&self, ranges: impl Iterator<Item = Range<u64>>) -> Result<()> {
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                go_on(self.watch)?;
                let step = ZERO_STEP.min(range.end - at);
                self.target.write_zeroes(at, step)?;
                at += step;
            }
        }
        Ok(())
    }
}

/// Returns where the window ends that starts with an extent.
fn window_end(first: &Extent) -> u64 {
    let reached = match first.kind {
        ExtentKind::Data => first.offset + 1,
        ExtentKind::Zero | ExtentKind::Absent => first.offset + first.length,
    };
    reached.div_ceil(WINDOW).saturating_mul(WINDOW)
}

/// Calls `visit(offset, bytes, are zeros)` for the runs of data and of zeros in `data`, which lies at `offset`.
///
/// Runs of zeros are at least [`MIN_ZEROS`] long, or all there is.
fn each_run(
    offset: u64,
    data: &[u8],
    mut visit: impl FnMut(u64, &[u8], bool) -> Result<()>,
) -> Result<()> {
    let mut visit = |range: Range<usize>, zeros| match range.is_empty() {
        true => Ok(()),
        false => visit(offset + range.start as u64, &data[range], zeros),
    };
    // Visited up to `start`; zeros from `zeros_start` to `at`.
    let (mut start, mut zeros_start, mut at) = (0, 0, 0);
    while at < data.len() {
        let to_border = PAGE - ((offset + at as u64) % PAGE as u64) as usize;
        let end = data.len().min(at + to_border);
        if !is_zero(&data[at..end]) {
            if at - zeros_start >= MIN_ZEROS {
                visit(start..zeros_start, false)?;
                visit(zeros_start..at, true)?;
                start = at;
            }
            zeros_start = end;
        }
        at = end;
    }
    if at - zeros_start < MIN_ZEROS && zeros_start > 0 {
        zeros_start = at;
    }
    visit(start..zeros_start, false)?;
    visit(zeros_start..at, true)
}

fn is_zero(bytes: &[u8]) -> bool {
    // Without a way out, so that it is done many bytes at a time.
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn runs(offset: u64, data: &[u8], expected: &[(usize, bool)]) {
        let (mut seen, mut at) = (Vec::new(), offset);
        each_run(offset, data, |offset, run, zeros| {
            assert_eq!(offset, at);
            at += run.len() as u64;
            seen.push((run.len(), zeros));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, expected);
    }

    #[test]
    fn zeros_are_told_from_data_where_there_are_enough_of_them() {
        let data = |parts: &[(usize, u8)]| -> Vec<u8> {
            parts.iter().flat_map(|&(length, byte)| vec![byte; length]).collect()
        };
        const LONG: usize = MIN_ZEROS;
        runs(0, &[], &[]);
        runs(512, &[0; 700], &[(700, true)]);
        runs(0, &data(&[(100, 0), (1, 7), (100, 0)]), &[(201, false)]);
        runs(0, &data(&[(LONG, 0), (1, 7)]), &[(LONG, true), (1, false)]);
        runs(0, &data(&[(PAGE, 7), (LONG, 0)]), &[(PAGE, false), (LONG, true)]);
        runs(0, &data(&[(PAGE, 7), (LONG - 1, 0)]), &[(PAGE + LONG - 1, false)]);
        let two = data(&[(PAGE, 7), (LONG, 0), (1, 7), (LONG, 0)]);
        runs(0, &two, &[(PAGE, false), (LONG, true), (LONG + 1, false)]);
        // Pages are those of the disk.
        let shifted = data(&[(PAGE - 512, 7), (LONG, 0), (512, 7)]);
        runs(512, &shifted, &[(PAGE - 512, false), (LONG, true), (512, false)]);
    }
}
