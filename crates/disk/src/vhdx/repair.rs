//! Curing a file: in one writing session, through the log where the format has it so.
//!
//! ```text
//!   header, FileWriteGuid new    the other slot, so a damaged or repeated one is written anew
//!   log replayed
//!   file made longer             what belongs to nothing yet
//!   blocks copied                to the file's end, synced before the log names them
//!   tables, BAT entries          through the log
//!   log put out of use
//! ```
//! DataWriteGuid changes only if a block that could not be read becomes readable: children know the file by it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::MIB;
use super::check::{Action, Copies, Cure, cures};
use super::layer::Layer;
use crate::check::{FindingKind, Repair, RepairOptions, Report};
use crate::error::{During, Result};
use crate::storage::Storage;

/// Cures what `report` found in the file and `options` allow.
pub(crate) fn repair(
    file: &Arc<dyn Storage>,
    report: &Report,
    options: &RepairOptions,
) -> Result<()> {
    let wanted = |repair: Repair| {
        options.allows(repair)
            && report.findings.iter().any(|finding| {
                finding.repair == Some(repair) && finding.what != FindingKind::BlockPastEnd
            })
    };
    let layer = Layer::open(file.clone())?;
    let layer = match wanted(Repair::CompleteBlock) || wanted(Repair::DiscardBlock) {
        true => layer.into_writable(file.clone())?,
        false => layer.into_maintained(file.clone())?,
    };
    if wanted(Repair::ExtendFile) {
        layer.extend(layer.length.load(Ordering::Acquire))?;
    }
    layer.publish_pages(Copies::read(&*layer.storage)?.cure(), None)?;
    let mut surgery = Surgery { layer: &layer, room: layer.length.load(Ordering::Acquire) };
    cures(&*layer.storage, layer.header.header(), &mut |cure| match options.allows(cure.repair) {
        true => surgery.apply(cure),
        false => Ok(()),
    })?;
    layer.settle()?;
    layer.retire();
    Ok(())
}

/// Cures of BAT entries under way.
struct Surgery<'a> {
    layer: &'a Layer,
    /// Bytes that may still be copied: as much again as the file has. No accident needs more, and a hostile
    /// table must not fill the host's disk.
    room: u64,
}

impl Surgery<'_> {
    fn apply(&mut self, cure: Cure) -> Result<()> {
        match cure.action {
            Action::Set(entry) => self.layer.publish_slot(cure.slot, entry, None),
            Action::Extend(length) => self.layer.extend(length),
            Action::Copy { length, .. } if length > self.room => Ok(()),
            Action::Copy { entry, length } => {
                self.room -= length;
                let copy = self.layer.copy_to_end(entry & !(MIB - 1), length)?;
                self.layer.publish_slot(cure.slot, copy | entry & (MIB - 1), None)
            }
        }
    }
}

impl Layer {
    /// Makes the file at least so long, in whole MiB. Durable with the next commit.
    fn extend(&self, length: u64) -> Result<()> {
        let length = length.next_multiple_of(MIB);
        if length > self.storage.len().during("read the file's length")? {
            self.storage.set_len(length).during("make the file longer")?;
            self.length.store(length, Ordering::Release);
        }
        Ok(())
    }

    /// Copies bytes of the file behind its end; returns where they are now.
    fn copy_to_end(&self, from: u64, length: u64) -> Result<u64> {
        let start = self.length.load(Ordering::Acquire).next_multiple_of(MIB);
        self.extend(start + length)?;
        let mut buffer = vec![0; MIB as usize];
        for at in (0..length).step_by(MIB as usize) {
            self.storage.read_at(from + at, &mut buffer).during("read a block")?;
            if buffer.iter().any(|byte| *byte != 0) {
                self.storage.write_at(start + at, &buffer).during("copy a block")?;
            }
        }
        Ok(start)
    }
}
