//! Checking the files of a chain and the links between them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::report::{FindingKind, Findings, Report};
use super::{Storage, check_storage};
use crate::error::{ErrorKind, Result};
use crate::format::Format;
use crate::layer::Layer;
use crate::storage::{FileStorage, Lock};

/// A file of the chain, held against writers while its neighbours are looked at.
struct Member {
    report: Report,
    /// Device and inode.
    identity: (u64, u64),
    /// If it opens.
    layer: Option<Layer>,
}

/// As [`super::check`], for each file of a chain, leaf first, and for its links: each must be the parent of the one before it.
///
/// A parent that does not exist is a finding too. A link is looked at when both its files open, and what is
/// wrong with it is told of the child. No path found inside a file is followed.
pub fn check_chain(paths: &[PathBuf]) -> Result<Vec<(PathBuf, Report)>> {
    let mut members: Vec<Option<Member>> = Vec::with_capacity(paths.len());
    for path in paths {
        let member = match Member::look(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && !members.is_empty() => None,
            member => {
                Some(member.map_err(|error| error.context(format!("check {}", path.display())))?)
            }
        };
        members.push(member);
    }
    let reports = (0..paths.len()).map(|index| {
        let mut findings = Findings::default();
        let (above, here) = members.split_at(index);
        match &here[0] {
            None => {
                let message = format_args!("the file does not exist: no disk above it can be read");
                findings.error(FindingKind::ParentMissing, message);
                Report::of_findings(findings)
            }
            Some(member) => {
                if above.iter().flatten().any(|other| other.identity == member.identity) {
                    let message = format_args!("the file is in its own chain twice");
                    findings.error(FindingKind::Cycle, message);
                }
                check_link(member, here.get(1), &mut findings);
                let mut report = member.report.clone();
                report.findings.extend(findings.finish());
                report
            }
        }
    });
    Ok(paths.iter().cloned().zip(reports).collect())
}

impl Member {
    fn look(path: &Path) -> Result<Self> {
        let file = FileStorage::open(path, Lock::Read)?;
        let identity = file.identity()?;
        let file: Arc<dyn Storage> = Arc::new(file);
        let report = check_storage(&file)?;
        let open = || Layer::open(file.clone(), Format::required(&*file)?);
        Ok(Self { report, identity, layer: open().ok() })
    }
}

/// `below` is the next file of the chain: the innermost option is empty when it does not exist.
fn check_link(child: &Member, below: Option<&Option<Member>>, findings: &mut Findings) {
    let Some(layer) = &child.layer else { return };
    match (layer.has_parent(), below) {
        (false, None) | (true, Some(None)) => {}
        (true, None) => {
            let names = layer.parent_names().join(" or ");
            let message = format_args!("the file's parent, {names}, is not given");
            findings.error(FindingKind::ParentMissing, message);
        }
        (false, Some(_)) => {
            let message = format_args!("the file has no parent, yet one is given");
            findings.error(FindingKind::ParentUnexpected, message);
        }
        (true, Some(Some(below))) => {
            let Some(parent) = &below.layer else { return };
            if let Err(error) = layer.check_linkage(parent) {
                findings.error(FindingKind::ParentChanged, format_args!("{error}"));
            }
            if let Err(error) = layer.check_geometry(parent) {
                findings.error(FindingKind::ParentGeometry, format_args!("{error}"));
            }
        }
    }
}
