//! Looking for damage in disk files, and curing what can be cured without loss.
//!
//! ```text
//!   check ──► Report: findings, space              nothing is changed
//!   repair ─► check ─► cures ─► check ─► Report    a crash leaves a file that is no worse
//! ```
//! Opening a file looks at what it needs and stops at the first fault. A check looks at everything the format demands, goes on
//! after a fault where that makes sense, and says of each what follows from it. What a format demands is
//! its own module's affair; here is what all of them report.

mod chain;
mod look;
mod repair;
mod report;

use std::path::Path;
use std::sync::Arc;

pub use chain::check_chain;
pub(crate) use look::{CLOSED, Look};
pub use repair::{RepairOptions, repair, repair_storage};
pub(crate) use report::Findings;
pub use report::{Finding, FindingKind, Repair, Report, Severity, Space};

use crate::error::Result;
use crate::format::Format;
use crate::storage::{FileStorage, Lock, Storage};
use crate::{vhd, vhdx};

/// Looks for damage in one file, without changing it and without its parents.
///
/// A log that was left in use is looked through, as opening does. Time depends on the size of the file's metadata, memory
/// hardly on anything. Fails with [`crate::ErrorKind::InUse`] while another process writes to the file; what is wrong with the file
/// itself is never an error but a [`Finding`].
pub fn check(path: &Path) -> Result<Report> {
    let file: Arc<dyn Storage> = Arc::new(FileStorage::open(path, Lock::Read)?);
    check_storage(&file).map_err(|error| error.context(format!("check {}", path.display())))
}

/// As [`check`], without a lock.
pub fn check_storage(file: &Arc<dyn Storage>) -> Result<Report> {
    match Format::of(&**file)? {
        Some(Format::Vhdx) => vhdx::check::check(file),
        Some(Format::Vhd) => vhd::check::check(file),
        Some(Format::Raw) | None => Report::of_no_disk(&**file),
    }
}
