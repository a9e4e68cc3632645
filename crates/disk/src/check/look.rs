//! Looking at a file's metadata without giving up at the first fault.

use std::fmt;
use std::io;

use super::report::{FindingKind, Findings};
use crate::storage::Storage;

/// What follows from a fault in what every opening reads.
pub(crate) const CLOSED: &str = "the file does not open";

/// The file being looked at, and what was found in it so far.
pub(crate) struct Look<'a> {
    /// The file as it is, or as it will be once its log is replayed.
    pub view: &'a dyn Storage,
    /// Bytes in it.
    pub length: u64,
    pub findings: &'a mut Findings,
}

impl Look<'_> {
    /// Fills the buffer; `false`, with a finding that tells the outcome, when that fails.
    pub fn read(
        &mut self,
        name: impl fmt::Display,
        at: u64,
        buffer: &mut [u8],
        outcome: &str,
    ) -> bool {
        match self.view.read_at(at, buffer) {
            Ok(()) => return true,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let message = format_args!(
                    "the file ends at {:#x}, before its {name}: {outcome}",
                    self.length
                );
                self.findings.error(FindingKind::Truncated, message);
            }
            Err(error) => {
                let message =
                    format_args!("the {name} at {at:#x} cannot be read: {error}; {outcome}");
                self.findings.error(FindingKind::Unreadable, message);
            }
        }
        false
    }
}
