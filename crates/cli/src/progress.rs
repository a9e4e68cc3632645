//! Showing how far something is, on standard error and only on a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(120);

/// An archive on its way to the daemon, and what the daemon does with it.
#[derive(Clone)]
pub struct Upload(ProgressBar);

impl Upload {
    /// Begins; how long the archive is nobody knows.
    pub fn new() -> Self {
        let bar = ProgressBar::no_length();
        bar.set_style(style("sending {spinner} {bytes} {bytes_per_sec}"));
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// So many bytes more were sent.
    pub fn sent(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// The daemon is at work on it.
    pub fn working(&self, status: &str) {
        self.0.set_style(style("{spinner} {wide_msg} {elapsed}"));
        self.0.set_message(crate::table::printable(status));
    }

    /// It is over; nothing remains on the screen.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// Bytes on their way from the daemon, of a number that nobody knows.
pub struct Download(ProgressBar);

impl Download {
    /// Begins; `title` says what is done.
    pub fn new(title: &str) -> Self {
        let bar = ProgressBar::no_length();
        bar.set_style(style("{msg} {spinner} {bytes} {bytes_per_sec}"));
        bar.set_message(crate::table::printable(title));
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// So many bytes more came.
    pub fn received(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// It is over; nothing remains on the screen.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// Bytes of work done.
pub struct Bytes(ProgressBar);

impl Bytes {
    /// Begins; `title` says what is done.
    pub fn new(title: &str) -> Self {
        let bar = ProgressBar::new(0);
        bar.set_style(style("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}"));
        bar.set_message(crate::table::printable(title));
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// So many bytes of so many are done.
    pub fn at(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    /// It is over; nothing remains on the screen.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
