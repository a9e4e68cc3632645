//! Lines for the kernel log: the only place a guest without a console can complain to.

use std::fmt::Display;
use std::io::Write;

/// Writes one line to /dev/kmsg; where that fails there is nobody left to tell.
pub fn warn(line: impl Display) {
    if let Ok(mut log) = std::fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        // One write is one record; `<4>` is the kernel's level "warning".
        let _ = log.write_all(format!("<4>ireko-agent: {line}\n").as_bytes());
    }
}
