//! Curing a VHD file: in one writing session, by the same order of writes as any other.
//!
//! ```text
//!   footers          the good one to where there is none: opening for writing does that
//!   file made longer behind a new footer, for blocks that get a place
//!   blocks copied    synced before the table names them
//!   table entries
//! ```
//! The unique id changes only if a block that could not be read becomes readable: children know the file by it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::check::{Action, Cure, cures};
use super::compact::copy;
use super::footer::FOOTER;
use super::layer::{Body, Layer};
use super::sparse::Sparse;
use crate::check::{FindingKind, Repair, RepairOptions, Report};
use crate::error::{During, Result};
use crate::guid::Guid;
use crate::storage::Storage;

const BUFFER: usize = 1 << 20;
const ALIGNMENT: u64 = 4096;

/// Cures what `report` found in the file and `options` allow.
pub(crate) fn repair(
    file: &Arc<dyn Storage>,
    report: &Report,
    options: &RepairOptions,
) -> Result<()> {
    let becomes_readable = |repair: Repair| {
        options.allows(repair)
            && report.findings.iter().any(|finding| {
                finding.repair == Some(repair) && finding.what != FindingKind::BlockPastEnd
            })
    };
    let layer = Layer::open(file.clone())?.into_writable(file.clone())?;
    if let Body::Sparse(disk) = &layer.body {
        // As much again as the file has, and no more: no accident needs it, and a hostile table must not fill the host's disk.
        let mut surgery = Surgery { disk, room: disk.limit.load(Ordering::Acquire) };
        cures(&**file, &mut |cure| match options.allows(cure.repair) {
            true => surgery.apply(cure),
            false => Ok(()),
        })?;
        disk.flush()?;
        // Counts the blocks, so that settling cuts the file behind the last. Where some are still at odds, it stays as it is.
        let _ = disk.with_space(|_| ());
    }
    match [Repair::CompleteBlock, Repair::DiscardBlock].into_iter().any(becomes_readable) {
        true => layer.settle_as(Guid::random()),
        false => layer.settle(),
    }
}

/// Cures of table entries under way.
struct Surgery<'a> {
    disk: &'a Sparse,
    /// Bytes that may still be taken.
    room: u64,
}

impl Surgery<'_> {
    fn apply(&mut self, cure: Cure) -> Result<()> {
        let (disk, block) = (self.disk, cure.block);
        match cure.action {
            Action::Clear => disk.publish_entry(block, None, &[], |_| ()),
            Action::Discard if disk.parent().is_none() => {
                disk.publish_entry(block, None, &[], |_| ())
            }
            // The parent must not show through.
            Action::Discard => {
                let Some(place) = self.take()? else { return Ok(()) };
                let ones = vec![0xFF; disk.layout.bitmap_size as usize];
                disk.storage.write_at(place.start, &ones).during("write a block's bitmap")?;
                disk.forget_bitmap(place.start);
                disk.publish_entry(block, Some(place.start), &[], |_| ())
            }
            Action::Complete { at } => {
                let (old, end) = (disk.limit.load(Ordering::Acquire), at + disk.layout.span());
                if end <= old {
                    return Ok(());
                }
                // The copy stands in for the footer, whose place is to be zeros before anybody takes it for the block's.
                disk.storage.punch_hole(old, FOOTER).during("fill a block up with zeros")?;
                disk.sync(disk.writer()?)?;
                disk.lengthen(end)
            }
            Action::Copy { at } => {
                let Some(place) = self.take()? else { return Ok(()) };
                let mut buffer = vec![0; BUFFER];
                copy(&*disk.storage, at..at + disk.layout.span(), place.start, &mut buffer)?;
                disk.forget_bitmap(place.start);
                disk.publish_entry(block, Some(place.start), &[], |_| ())
            }
        }
    }

    /// Takes zeroed space for a block behind everything else; `None` when that is too much.
    fn take(&mut self) -> Result<Option<Range<u64>>> {
        let layout = self.disk.layout;
        let Some(room) = self.room.checked_sub(layout.span()) else { return Ok(None) };
        self.room = room;
        let old = self.disk.limit.load(Ordering::Acquire);
        let start = (old + layout.bitmap_size).next_multiple_of(ALIGNMENT) - layout.bitmap_size;
        let place = start..start + layout.span();
        self.disk.lengthen(place.end)?;
        self.disk.storage.punch_hole(old, place.end - old).during("clear a part of the file")?;
        Ok(Some(place))
    }
}
