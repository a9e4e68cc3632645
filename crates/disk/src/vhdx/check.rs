//! Checking a file against all the rules of the format.
//!
//! ```text
//!   headers ─► log ─► the file as replayed ─► regions ─► metadata ─► BAT ─► bitmaps
//! ```
//! Each step reports what it finds and hands on what it could make sense of; the next does what it can with that. What
//! breaks a rule and does no harm to any reader of ours is a warning. Source: [MS-VHDX] 2, and what its writers do.

mod bat;
mod headers;
mod metadata;
mod owners;
mod regions;

use std::sync::Arc;

pub(super) use bat::{Action, Cure};
use bat::{Cures, Table};
use metadata::Parameters;
use owners::Owners;
pub(super) use regions::Copies;

use super::bat::Layout;
use super::header::Header;
use super::layer::Layer;
use super::{MAX_FILE, MIB};
use crate::check::{CLOSED, FindingKind, Findings, Look, Repair, Report, Severity, Space};
use crate::error::{During, Result};
use crate::storage::Storage;

/// Looks for damage in a file that has the format's signature.
pub(crate) fn check(file: &Arc<dyn Storage>) -> Result<Report> {
    let (mut report, mut findings) = (Report::default(), Findings::default());
    report.space.file_length = file.len().during("read the file's length")?;
    examine(file, &mut report, &mut findings)?;
    let opened = Layer::open(file.clone());
    if let Err(error) = &opened
        && !findings.has_errors()
    {
        let message = format_args!("the file does not open: {error}");
        findings.error(FindingKind::Unopenable, message);
    }
    // What every repair begins with, opening for writing, would fail.
    let unwritable = [FindingKind::SequenceExhausted, FindingKind::LogMisplaced];
    if opened.is_err() || unwritable.iter().any(|what| findings.count(*what) > 0) {
        findings.forget_repairs();
    }
    report.findings = findings.finish();
    Ok(report)
}

fn examine(file: &Arc<dyn Storage>, report: &mut Report, findings: &mut Findings) -> Result<()> {
    let length = report.space.file_length;
    let mut look = Look { view: &**file, length, findings };
    let Some(current) = headers::check(&mut look) else { return Ok(()) };
    report.current_header = Some(current.slot());

    let replayed = headers::check_log(file, current.header(), &mut look);
    report.dirty_log = replayed.is_some();
    if let Some(replayed) = &replayed {
        look.view = replayed;
        look.length = replayed.len().during("read the file's length")?;
        report.space.file_length = look.length;
    }
    if look.length > MAX_FILE {
        let message =
            format_args!("the file has {} bytes, more than any disk needs; {CLOSED}", look.length);
        look.findings.error(FindingKind::FileLength, message);
        return Ok(());
    }
    if let Some(space) = contents(current.header(), &mut look, &mut |_| Ok(()))? {
        report.space = space;
    }
    check_length(&mut look);
    if report.space.leaked > 0 {
        let Space { leaked, file_length, .. } = report.space;
        let message = format_args!(
            "{leaked} of the file's {file_length} bytes belong to nothing; later writes use them, compacting the file \
             gives them back"
        );
        findings.add(Severity::Note, FindingKind::Leaked, None, message);
    }
    Ok(())
}

/// Looks at regions, metadata and BAT; hands out the cures for entries of the BAT, and returns who has the file's space if
/// all of that could be found. Fails only when a cure does.
fn contents(header: &Header, look: &mut Look<'_>, cures: &mut Cures<'_>) -> Result<Option<Space>> {
    let Some(regions) = regions::check(header, look) else { return Ok(None) };
    let parameters = regions.metadata.and_then(|region| metadata::check(&region, look));
    let (Some(parameters), Some(region)) = (parameters, regions.bat) else { return Ok(None) };
    let Parameters { virtual_size, block_size, sector, kind, in_doubt } = parameters;
    let layout = Layout::new(virtual_size, block_size, sector);
    let mut owners = Owners::new(look.length, &regions.reserved);
    Table { region, layout, kind, in_doubt }.check(look, &mut owners, cures)?;
    Ok(Some(owners.space()))
}

/// Hands out the cures for what is wrong with the BAT of a file that opens and whose log is not in use.
pub(super) fn cures(view: &dyn Storage, header: &Header, cures: &mut Cures<'_>) -> Result<()> {
    let length = view.len().during("read the file's length")?;
    let mut findings = Findings::default();
    contents(header, &mut Look { view, length, findings: &mut findings }, cures).map(drop)
}

fn check_length(look: &mut Look<'_>) {
    if !look.length.is_multiple_of(MIB) {
        // What is missing of a block must not become zeros unasked.
        let repair = Some(match look.findings.count(FindingKind::BlockCutOff) {
            0 => Repair::ExtendFile,
            _ => Repair::CompleteBlock,
        });
        let message = format_args!("the file has {} bytes, no multiple of 1 MiB", look.length);
        look.findings.add(Severity::Warning, FindingKind::FileLength, repair, message);
    }
}
