//! Curing what a check found, where that is certain to lose nothing.

use std::path::Path;
use std::sync::Arc;

use super::report::{Finding, Repair, Report};
use super::{Storage, check_storage};
use crate::error::Result;
use crate::format::Format;
use crate::storage::{FileStorage, Lock};
use crate::{vhd, vhdx};

/// How far a repair may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairOptions {
    /// Settle for what is left where a block's bytes are lost already.
    ///
    /// A block whose place is nowhere in the file, or over its metadata, becomes undefined: it reads as zeros, never as a
    /// parent's old bytes. A block that the file ends within keeps what is there and has zeros for the rest.
    /// Blocks that share a place get a copy each, of which one is wrong. A block behind the disk's end is forgotten.
    ///
    /// Without this such blocks stay as they are, so that a backup or another tool can be tried first.
    pub discard_lost_blocks: bool,
}

impl RepairOptions {
    pub(crate) fn allows(&self, repair: Repair) -> bool {
        self.discard_lost_blocks || !repair.accepts_loss()
    }

    fn wants(&self, finding: &Finding) -> bool {
        finding.repair.is_some_and(|repair| self.allows(repair))
    }
}

/// Cures what [`super::check`] finds and knows a [`Repair`] for, and reports what is left.
///
/// A file without anything to cure is not changed, nor is one that does not open. What the disk reads stays as it was, and so does its identity for its
/// children, except that blocks which could not be read become readable if the options say so. Every step is durable before the
/// next where a crash could tell the difference: after a crash the file is as good as before or better, and the
/// repair can be repeated. Durable on return.
///
/// Fails with [`crate::ErrorKind::InUse`] when the file is open elsewhere.
pub fn repair(path: &Path, options: &RepairOptions) -> Result<Report> {
    let cure = || {
        let file: Arc<dyn Storage> = Arc::new(FileStorage::open(path, Lock::Write)?);
        repair_storage(&file, options)
    };
    cure().map_err(|error| error.context(format!("repair {}", path.display())))
}

/// As [`repair`], without a lock.
pub fn repair_storage(file: &Arc<dyn Storage>, options: &RepairOptions) -> Result<Report> {
    let before = check_storage(file)?;
    if !before.findings.iter().any(|finding| options.wants(finding)) {
        return Ok(before);
    }
    match Format::of(&**file)? {
        Some(Format::Vhdx) => vhdx::repair::repair(file, &before, options)?,
        Some(Format::Vhd) => vhd::repair::repair(file, &before, options)?,
        Some(Format::Raw) | None => return Ok(before),
    }
    let mut after = check_storage(file)?;
    let wanted = |finding: &Finding| {
        before.findings.iter().any(|other| other.what == finding.what && options.wants(other))
    };
    let gone = |finding: &&Finding| wanted(finding) && !after.findings.contains(finding);
    after.repaired = before.findings.iter().filter(gone).cloned().collect();
    Ok(after)
}
