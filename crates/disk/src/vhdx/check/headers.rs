//! The two headers, and the log that the current one names.

use std::error::Error as _;
use std::sync::Arc;

use super::super::PAGE;
use super::super::header::{self, Current, Header, SLOTS};
use super::super::log::replay::Replayed;
use crate::check::{CLOSED, FindingKind, Look, Repair, Severity};
use crate::error::{Error, ErrorKind};
use crate::storage::Storage;

/// Looks at both headers; returns the one that counts, if one does.
pub(super) fn check(look: &mut Look<'_>) -> Option<Current> {
    let mut pages = [[0; PAGE]; 2];
    for (slot, at) in SLOTS.into_iter().enumerate() {
        if !look.read(format_args!("header {}", slot + 1), at, &mut pages[slot], CLOSED) {
            return None;
        }
    }
    let valid = [header::is_valid(&pages[0]), header::is_valid(&pages[1])];
    let (severity, outcome) = match valid {
        [false, false] => (Severity::Error, "neither can be used, and the file does not open"),
        _ => (Severity::Warning, "the other one is used, and there is no second if it is lost"),
    };
    for slot in (0..2).filter(|slot| !valid[*slot]) {
        let repair = (severity == Severity::Warning).then_some(Repair::RewriteHeader);
        let (number, at) = (slot + 1, SLOTS[slot]);
        let message = format_args!("header {number} at {at:#x} is damaged; {outcome}");
        look.findings.add(severity, FindingKind::HeaderDamaged, repair, message);
    }
    if valid == [true, true] && pages[0] == pages[1] {
        let repair = Some(Repair::RewriteHeader);
        let message =
            format_args!("both headers are the same, as Disk2vhd leaves them; the first is used");
        look.findings.add(Severity::Warning, FindingKind::HeadersIdentical, repair, message);
    }
    match Current::of(&pages) {
        Ok(current) => {
            check_sequence(&current, look);
            Some(current)
        }
        Err(error) => {
            if valid.contains(&true) {
                report_unusable(&pages, &error, look);
            }
            None
        }
    }
}

/// Says why a header with a right checksum does not count.
fn report_unusable(pages: &[[u8; PAGE]; 2], error: &Error, look: &mut Look<'_>) {
    let what = match error.kind() {
        ErrorKind::Unsupported => FindingKind::Unsupported,
        _ if header::in_conflict(pages) => FindingKind::HeadersConflict,
        _ => FindingKind::LogMisplaced,
    };
    look.findings.error(what, format_args!("{error}; {CLOSED}"));
}

fn check_sequence(current: &Current, look: &mut Look<'_>) {
    // A session takes some; nothing but damage gets anywhere near the end.
    if current.header().sequence > u64::MAX - 1024 {
        let message = format_args!(
            "header {} has sequence number {:#x}, the end of all numbers: the file can be read and not written",
            current.slot() + 1,
            current.header().sequence
        );
        look.findings.error(FindingKind::SequenceExhausted, message);
    }
}

/// Looks at the log; returns the file as replayed when the log was left in use and can be.
pub(super) fn check_log(
    file: &Arc<dyn Storage>,
    header: &Header,
    look: &mut Look<'_>,
) -> Option<Replayed> {
    let (at, length) = (header.log_offset, header.log_length);
    match Replayed::read(file, header) {
        Ok(Some(replayed)) => {
            let message = format_args!(
                "the log at {at:#x} is in use: the file was not closed; whoever opens it for writing replays the log"
            );
            let repair = Some(Repair::ReplayLog);
            look.findings.add(Severity::Note, FindingKind::LogInUse, repair, message);
            return Some(replayed);
        }
        Err(error) if error.kind() == ErrorKind::Io => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            let message = format_args!("the log at {at:#x} cannot be read{cause}; {CLOSED}");
            look.findings.error(FindingKind::Unreadable, message);
        }
        Err(error) => {
            let message = format_args!(
                "the log at {at:#x} cannot be replayed: {error}; the file does not open, and what else is found may be \
                 what the log would have mended"
            );
            look.findings.error(FindingKind::LogDamaged, message);
        }
        Ok(None) if length == 0 => {
            let message = format_args!("there is no log: the file can be read and not written");
            look.findings.error(FindingKind::LogMisplaced, message);
        }
        Ok(None) if at + u64::from(length) > look.length => {
            let message = format_args!(
                "the log at {at:#x} lies past the end of the file at {:#x}: the file can be read and not written",
                look.length
            );
            look.findings.error(FindingKind::LogMisplaced, message);
        }
        Ok(None) => {}
    }
    None
}
