//! Checking a VHD file against all the rules of the format.
//!
//! ```text
//!   footer, its copy ─► dynamic header ─► names of the parent ─► table ─► bitmaps
//! ```
//! Each step reports what it finds and hands on what it could make sense of; the next does what it can with that. What
//! breaks a rule and does no harm to any reader of ours is a warning.

mod table;

use std::ops::Range;
use std::sync::Arc;

pub(super) use table::{Action, Cure};
use table::{Cures, Table};

use super::bat::{ENTRY, Layout};
use super::bytes::Checksums;
use super::footer::{FOOTER, Footer, Found};
use super::header::{HEADER, Header};
use super::layer::Layer;
use super::locator::ranges;
use super::{Kind, MAX_FILE, SECTOR};
use crate::check::{CLOSED, FindingKind, Findings, Look, Repair, Report, Severity, Space};
use crate::error::{During, Error, ErrorKind, Result};
use crate::storage::Storage;

/// Looks for damage in a file that has the format's signature.
pub(crate) fn check(file: &Arc<dyn Storage>) -> Result<Report> {
    let (mut report, mut findings) = (Report::default(), Findings::default());
    report.space.file_length = file.len().during("read the file's length")?;
    let mut look =
        Look { view: &**file, length: report.space.file_length, findings: &mut findings };
    if let Some(space) = examine(&mut look, &mut |_| Ok(()))? {
        report.space = space;
    }
    if report.space.leaked > 0 {
        let Space { leaked, file_length, .. } = report.space;
        let message = format_args!(
            "{leaked} of the file's {file_length} bytes belong to nothing; later writes use them, compacting the file \
             gives them back"
        );
        findings.add(Severity::Note, FindingKind::Leaked, None, message);
    }
    if let Err(error) = Layer::open(file.clone()) {
        if !findings.has_errors() {
            let message = format_args!("{error}; {CLOSED}");
            findings.error(FindingKind::Unopenable, message);
        }
        findings.forget_repairs();
    }
    report.findings = findings.finish();
    Ok(report)
}

/// Hands out the cures for what is wrong with the table of a file that opens.
pub(super) fn cures(view: &dyn Storage, cures: &mut Cures<'_>) -> Result<()> {
    let length = view.len().during("read the file's length")?;
    let mut findings = Findings::default();
    examine(&mut Look { view, length, findings: &mut findings }, cures).map(drop)
}

/// Looks at everything; returns who has the file's space if that could be found. Fails only when a cure does.
fn examine(look: &mut Look<'_>, cures: &mut Cures<'_>) -> Result<Option<Space>> {
    let Some((footer, limit)) = footers(look) else { return Ok(None) };
    facts(&footer, look);
    if footer.kind() == Kind::Fixed {
        return Ok(fixed(&footer, limit, look));
    }
    if look.length > MAX_FILE + FOOTER {
        let message =
            format_args!("the file has {} bytes: blocks cannot be named behind 2 TiB", look.length);
        look.findings.warning(FindingKind::FileLength, message);
    }
    let Some(header) = header(&footer, look) else { return Ok(None) };
    let Some(reserved) = reserved(&footer, &header, limit, look) else { return Ok(None) };
    let names = match footer.kind() {
        Kind::Differencing => names(&header, limit, &reserved, look),
        Kind::Fixed | Kind::Dynamic => Vec::new(),
    };
    let table = Table {
        start: header.table_offset(),
        entries: u64::from(header.table_entries()),
        layout: Layout::new(footer.virtual_size(), header.block_size()),
        kind: footer.kind(),
        limit,
        reserved,
        names,
    };
    table.check(look, cures).map(Some)
}

/// Looks at the footer and its copy; returns the one that counts and where blocks end.
fn footers(look: &mut Look<'_>) -> Option<(Footer, u64)> {
    let (view, length) = (look.view, look.length);
    let at_end = Footer::at_end(view, length, Checksums::Required);
    match (&at_end, Footer::find(view, Checksums::Required)) {
        (Ok(footer), _) => {
            if footer.kind() != Kind::Fixed {
                check_copy(footer, look);
            }
            let footer = footer.clone();
            Some((footer, length - FOOTER))
        }
        (Err(error), Ok((footer, Found::Copy))) => {
            let message = format_args!(
                "{error}: the file does not end with one, as a writer that was interrupted leaves it; its copy at the \
                 beginning is used, and there is no second if that is lost"
            );
            let repair = Some(Repair::RewriteFooter);
            look.findings.add(Severity::Warning, FindingKind::FooterDamaged, repair, message);
            Some((footer, length))
        }
        (Err(_), Ok((footer, _))) => {
            let message = format_args!(
                "the footer is a byte short, as old versions of Virtual PC wrote it: the disk can be read and copied, \
                 not written to"
            );
            look.findings.error(FindingKind::FooterDamaged, message);
            Some((footer, length - FOOTER + 1))
        }
        (Err(_), Err(error)) => {
            let what = match error.kind() {
                ErrorKind::Unsupported => FindingKind::Unsupported,
                ErrorKind::Io => FindingKind::Unreadable,
                _ => FindingKind::FooterDamaged,
            };
            look.findings.error(what, format_args!("{error}, and no copy of it is good; {CLOSED}"));
            None
        }
    }
}

/// Compares the copy with the footer at the end, which counts.
fn check_copy(footer: &Footer, look: &mut Look<'_>) {
    let repair = Some(Repair::RewriteFooter);
    match Footer::copy(look.view, Checksums::Required) {
        Ok(copy) if copy == *footer => {}
        Ok(_) => {
            let message = format_args!(
                "the footer and its copy at the beginning differ; the footer counts, but there are readers that look at \
                 the copy first"
            );
            look.findings.add(Severity::Warning, FindingKind::FootersDiffer, repair, message);
        }
        Err(error) => {
            let message = format_args!(
                "the footer's copy at the beginning: {error}; there is no second footer if the one at the end is lost"
            );
            look.findings.add(Severity::Warning, FindingKind::FooterDamaged, repair, message);
        }
    }
}

/// What is worth knowing of a good footer.
fn facts(footer: &Footer, look: &mut Look<'_>) {
    if let Some(size) = footer.chs_size() {
        let creator = footer.creator();
        let creator = String::from_utf8_lossy(&creator);
        let message = format_args!(
            "the disk has {} bytes, and {size} for QEMU and Virtual PC, which believe the cylinders in files of {}",
            footer.virtual_size(),
            creator.trim_end()
        );
        look.findings.add(Severity::Note, FindingKind::SizeInDoubt, None, message);
    }
    if footer.saved_state() {
        let message = format_args!(
            "a virtual machine was suspended on the disk: its memory knows what the disk holds, and is at odds with it \
             after any change"
        );
        look.findings.add(Severity::Note, FindingKind::SavedState, None, message);
    }
    if !look.length.is_multiple_of(SECTOR) {
        let message = format_args!(
            "the file has {} bytes, no multiple of 512: a power cut may tear its footer",
            look.length
        );
        look.findings.warning(FindingKind::FileLength, message);
    }
}

/// Looks at a fixed disk, which is nothing but its bytes.
fn fixed(footer: &Footer, limit: u64, look: &mut Look<'_>) -> Option<Space> {
    let size = footer.virtual_size();
    if size > limit {
        let message = format_args!(
            "the disk has {size} bytes and the file {limit} for it: the end is missing; {CLOSED}"
        );
        look.findings.error(FindingKind::Truncated, message);
        return None;
    }
    let mut space = Space { file_length: look.length, ..Space::default() };
    if size < limit {
        space.add_free(size..limit);
    }
    space.used = look.length - space.leaked;
    Some(space)
}

fn header(footer: &Footer, look: &mut Look<'_>) -> Option<Header> {
    let header = Header::read(look.view, footer.header_offset(), Checksums::Required);
    let report = |error: &Error| {
        let what = match error.kind() {
            ErrorKind::Unsupported => FindingKind::Unsupported,
            ErrorKind::Io => FindingKind::Unreadable,
            _ => FindingKind::HeaderDamaged,
        };
        let message = format_args!("{error}, and it has no copy; {CLOSED}");
        look.findings.error(what, message);
    };
    header.inspect_err(report).ok()
}

/// Looks at where the table is; returns the bytes of the file that no block may take.
fn reserved(
    footer: &Footer,
    header: &Header,
    limit: u64,
    look: &mut Look<'_>,
) -> Option<Vec<Range<u64>>> {
    let layout = Layout::new(footer.virtual_size(), header.block_size());
    let (entries, blocks) = (u64::from(header.table_entries()), layout.blocks());
    let start = header.table_offset();
    let table = start..(start + entries * ENTRY).next_multiple_of(SECTOR);
    if entries < blocks {
        let message = format_args!(
            "the block table has {entries} entries and the disk {blocks} blocks; {CLOSED}"
        );
        look.findings.error(FindingKind::TableTooSmall, message);
        return None;
    }
    if table.end > limit {
        let message = format_args!(
            "the block table ends at {:#x}, behind the file's blocks at {limit:#x}; {CLOSED}",
            table.end
        );
        look.findings.error(FindingKind::Truncated, message);
        return None;
    }
    if entries > blocks {
        let message = format_args!(
            "the block table has {entries} entries and the disk {blocks} blocks: Azure takes exactly as many"
        );
        look.findings.add(Severity::Note, FindingKind::TableTooLarge, None, message);
    }
    let at = footer.header_offset();
    let mut reserved = vec![0..FOOTER, at..at + HEADER];
    if reserved.iter().any(|range| range.start < table.end && table.start < range.end) {
        let message = format_args!(
            "the block table at {start:#x} lies over the footer's copy or the dynamic header: a write to one changes the \
             other"
        );
        look.findings.error(FindingKind::TableMisplaced, message);
    }
    reserved.push(table);
    Some(reserved)
}

/// Looks at what a child knows of its parent's place; returns the bytes of the file that the names take.
fn names(
    header: &Header,
    limit: u64,
    reserved: &[Range<u64>],
    look: &mut Look<'_>,
) -> Vec<Range<u64>> {
    let (stored, placed) = (header.stored_locators(), header.locators(limit).count());
    if placed < stored {
        let message = format_args!(
            "{} of {stored} names of the parent are empty or lie outside the file; they are ignored",
            stored - placed
        );
        look.findings.warning(FindingKind::LocatorDamaged, message);
    }
    if placed == 0 && header.parent_name().is_none() {
        let message = format_args!(
            "the file has no name of its parent, which has to be given; its unique id is {}",
            header.parent_unique_id()
        );
        look.findings.warning(FindingKind::LocatorDamaged, message);
    }
    let names: Vec<Range<u64>> = ranges(header, limit).collect();
    for name in &names {
        if reserved.iter().any(|range| range.start < name.end && name.start < range.end) {
            let message = format_args!(
                "a name of the parent at {:#x} lies over the footer's copy, the dynamic header or the block table: it is \
                 not what it was",
                name.start
            );
            look.findings.warning(FindingKind::LocatorDamaged, message);
        }
    }
    names
}
