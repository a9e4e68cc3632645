//! What the store asks of `ireko-disk`: facts about files, new children, freezing, verification.

use crate::error::{During, Error, Result};
use crate::index::{self, DiskFacts};
use crate::{durable, step};
use ireko_disk::check::{self, RepairOptions, Severity};
use ireko_disk::freeze::{self, Recovered};
use ireko_disk::vhdx::{self, ChildOptions, Info};
use ireko_disk::{Access, Chain, FileStorage, FreezePlan, Lock, RelinkOptions, Verify};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Reads what a file says about itself.
pub(crate) fn info(path: &Path) -> Result<Info> {
    vhdx::info(path).during(|| format!("read {}", path.display()))
}

/// Reads what the index keeps of a file.
pub(crate) fn facts(path: &Path) -> Result<DiskFacts> {
    let info = info(path)?;
    let file = fs::metadata(path).during(|| format!("look at {}", path.display()))?;
    let parent = parent_name(&info, path)?;
    Ok(DiskFacts {
        identity: info.data_write_guid,
        parent_key: parent.as_deref().map(index::key),
        parent,
        virtual_size: info.geometry.virtual_size,
        allocated: file.blocks() * 512,
    })
}

/// Returns the bytes a file takes on the host; 0 for one that is not there.
pub(crate) fn allocated(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.blocks() * 512)
}

/// Returns the parent's base name; `None` for a base disk.
pub(crate) fn parent_name(info: &Info, path: &Path) -> Result<Option<String>> {
    match &info.parent {
        None => Ok(None),
        Some(link) => link.base_name().map(Some).ok_or_else(|| {
            Error::corrupt(format!("{} does not say which file is its parent", path.display()))
        }),
    }
}

/// Makes a differencing child at `path`, durably and in O(1). Nothing is left of a failure.
pub(crate) fn create_child(path: &Path, parent: &Path, locator: &str) -> Result<()> {
    let aside = durable::aside(path)?;
    let make = || {
        step::allocating().during(|| format!("create {}", path.display()))?;
        vhdx::create_child(&aside, parent, locator, &ChildOptions::default())
            .during(|| format!("create {}", path.display()))?;
        durable::rename(&aside, path)
    };
    durable::discard(&aside);
    make().inspect_err(|_| durable::discard(&aside))
}

/// Checks that the files, leaf first, make one disk.
pub(crate) fn verify(chain: &[PathBuf]) -> Result<()> {
    Chain::open(chain, Access::ReadOnly).during(|| verifying(chain))?;
    Ok(())
}

/// Brings a leaf that nobody uses into its resting state: its log replayed and empty.
pub(crate) fn settle(chain: &[PathBuf]) -> Result<()> {
    let Some(leaf) = chain.first() else { return Ok(()) };
    if info(leaf)?.dirty_log {
        Chain::open(chain, Access::ReadWrite).and_then(Chain::close).during(|| verifying(chain))?;
    }
    Ok(())
}

/// Checks a file that came from outside and brings it into its resting state: its log replayed, what
/// can be cured without loss cured. The disk reads as before, and its children know it as before.
///
/// Fails with [`crate::ErrorKind::BadInput`] where a part of the disk cannot be read or trusted.
pub(crate) fn make_sound(path: &Path) -> Result<()> {
    step::allocating().during(|| format!("check {}", path.display()))?;
    let report = check::repair(path, &RepairOptions::default())
        .during(|| format!("check {}", path.display()))?;
    if report.is_sound() && !report.dirty_log {
        return Ok(());
    }
    let mut findings: Vec<_> = report
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| finding.message.as_str())
        .collect();
    let more = findings.len().saturating_sub(FINDINGS);
    findings.truncate(FINDINGS);
    let mut text = findings.join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    Err(Error::bad_input(format!("the disk is damaged: {text}")).hint(
        "`ireko vhd check FILE` shows all that is wrong, `ireko vhd repair` cures what it can",
    ))
}

/// How many findings an error tells.
const FINDINGS: usize = 3;

/// Links a child that came from outside to its parent: the same bytes, at another place. One that says
/// so already stays as it is, byte for byte.
pub(crate) fn link(child: &Path, parent: &Path, locator: &str) -> Result<()> {
    let link = info(child)?.parent;
    if link.is_some_and(|link| link.relative_path.as_deref() == Some(locator)) {
        return Ok(());
    }
    relink(child, parent, &[], locator.to_owned(), Verify::Identity)
}

/// Links a disk that nobody uses to another parent, durably.
pub(crate) fn relink(
    disk: &Path,
    parent: &Path,
    folders: &[PathBuf],
    locator: String,
    verify: Verify,
) -> Result<()> {
    let linking = || format!("link {} to {}", disk.display(), parent.display());
    step::allocating().during(linking)?;
    let options = RelinkOptions { relative_path: Some(locator), absolute_path: None, verify };
    ireko_disk::relink(disk, parent, folders, &options, &()).during(linking)
}

/// Freezes the leaf of a chain that nobody else has open.
pub(crate) fn freeze(chain: &[PathBuf], plan: &FreezePlan) -> Result<()> {
    let freezing = || format!("freeze {} as {}", verifying(chain), plan.frozen.display());
    step::allocating().during(freezing)?;
    Chain::open(chain, Access::ReadWrite).and_then(|mut chain| chain.freeze(plan)).during(freezing)
}

/// Finishes or undoes a freeze that may have been interrupted.
///
/// Fails with [`crate::ErrorKind::InUse`], having done nothing, while a living process may still be
/// at it.
pub(crate) fn recover_freeze(leaf: &Path, frozen: &Path) -> Result<Recovered> {
    let recovering = || format!("recover the freezing of {}", leaf.display());
    // A shim holds a write lock on the old leaf's file, whatever its name, until both renames are
    // done.
    let _alone = match (durable::exists(leaf)?, durable::exists(frozen)?) {
        (true, false) => Some(FileStorage::open(leaf, Lock::Write).during(recovering)?),
        (false, true) => Some(FileStorage::open(frozen, Lock::Read).during(recovering)?),
        (true, true) | (false, false) => None,
    };
    freeze::recover(leaf, frozen).during(recovering)
}

fn verifying(chain: &[PathBuf]) -> String {
    let leaf = chain.first().map(|path| path.display().to_string()).unwrap_or_default();
    format!("open {leaf} and the {} files below it", chain.len().saturating_sub(1))
}
