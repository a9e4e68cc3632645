//! The block table: every entry's place, whom the file's bytes belong to, and the bits of a child's blocks.
//!
//! Read once, in large pieces. Each fault is reported and its cure handed out, so that a repair walks the same way and a hostile
//! table costs neither of them memory: what is remembered is the places that blocks have to themselves.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use super::super::bat::{self, ENTRY, Layout};
use super::super::bytes::Fields;
use super::super::{Kind, SECTOR};
use crate::check::{FindingKind, Look, Repair, Severity, Space};
use crate::error::Result;

/// Bytes of the table that are read at once.
const STEP: usize = 256 << 10;

/// The table and what it is checked against.
pub(super) struct Table {
    /// Where it begins.
    pub start: u64,
    pub entries: u64,
    pub layout: Layout,
    pub kind: Kind,
    /// Where blocks end.
    pub limit: u64,
    /// Bytes of the file that no block may take.
    pub reserved: Vec<Range<u64>>,
    /// Bytes of the file that the parent's names take.
    pub names: Vec<Range<u64>>,
}

/// What can be done about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Cure {
    /// The entry's number; behind the last block's there may be more.
    pub block: u64,
    pub repair: Repair,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Action {
    /// The entry says that nothing is there.
    Clear,
    /// The block reads as zeros.
    Discard,
    /// The block stays where it is, and the file becomes long enough for it.
    Complete { at: u64 },
    /// The block gets a place of its own.
    Copy { at: u64 },
}

/// Where cures go.
pub(super) type Cures<'a> = dyn FnMut(Cure) -> Result<()> + 'a;

struct Walk<'a, 'l> {
    table: &'a Table,
    look: &'a mut Look<'l>,
    cures: &'a mut Cures<'a>,
    /// Where blocks begin that overlap nothing.
    claimed: BTreeSet<u64>,
}

impl Table {
    /// Looks at every entry; returns who has the file's space. Fails only when a cure does.
    pub fn check<'a>(&'a self, look: &'a mut Look<'_>, cures: &'a mut Cures<'a>) -> Result<Space> {
        let mut walk = Walk { table: self, look, cures, claimed: BTreeSet::new() };
        let end = self.start + self.entries * ENTRY;
        let (mut bytes, mut block) = (Vec::new(), 0);
        for at in (self.start..end).step_by(STEP) {
            bytes.resize((end - at).min(STEP as u64) as usize, 0);
            let first = block;
            block += bytes.len() as u64 / ENTRY;
            let outcome = "what its entries name cannot be read";
            if walk.look.read("block table", at, &mut bytes, outcome) {
                for (block, entry) in (first..).zip(bytes.chunks_exact(ENTRY as usize)) {
                    walk.entry(block, bat::decode(entry.u32(0)))?;
                }
            }
        }
        Ok(walk.space())
    }
}

impl Walk<'_, '_> {
    fn entry(&mut self, block: u64, at: Option<u64>) -> Result<()> {
        let Some(at) = at else { return Ok(()) };
        if block >= self.table.layout.blocks() {
            return self.past_end(block, at);
        }
        let (name, limit) = (self.name(block), self.table.limit);
        if at >= limit || self.is_reserved(at) {
            let message = format_args!(
                "{name} lies at {at:#x}, outside the file's blocks or over its metadata: it cannot be read"
            );
            return self.report(
                FindingKind::BlockMisplaced,
                Repair::DiscardBlock,
                block,
                Action::Discard,
                message,
            );
        }
        if at + self.table.layout.span() > limit {
            let message = format_args!(
                "{name} lies at {at:#x}, and the file's blocks end within it at {limit:#x}: it cannot be read"
            );
            return self.report(
                FindingKind::BlockCutOff,
                Repair::CompleteBlock,
                block,
                Action::Complete { at },
                message,
            );
        }
        if !self.claim(at) {
            let message = format_args!(
                "{name} lies at {at:#x}, over another one: at most one of them holds what it should, and nothing can be \
                 allocated in the file"
            );
            return self.report(
                FindingKind::BlocksOverlap,
                Repair::SeparateBlocks,
                block,
                Action::Copy { at },
                message,
            );
        }
        if self.table.kind == Kind::Differencing {
            self.bits(block, at);
        }
        if self.overlaps(&self.table.names, at) {
            let message = format_args!(
                "{name} lies at {at:#x}, over a name of the parent, which is not what it was"
            );
            self.look.findings.warning(FindingKind::LocatorDamaged, message);
        }
        Ok(())
    }

    /// Looks at an entry that belongs to no block of the disk.
    fn past_end(&mut self, block: u64, at: u64) -> Result<()> {
        let inside = at + self.table.layout.span() <= self.table.limit && !self.is_reserved(at);
        let place = self.table.start + block * ENTRY;
        let (what, repair, outcome) = match inside && self.is_free(at) {
            true => (
                FindingKind::BlockPastEnd,
                Repair::DiscardBlock,
                "names a place in the file: if that is a block, the disk was larger once",
            ),
            false => {
                (FindingKind::EntryPastEnd, Repair::ClearUnused, "says something; it is ignored")
            }
        };
        let message =
            format_args!("the table entry at {place:#x} is behind the disk's end and {outcome}");
        self.look.findings.add(Severity::Warning, what, Some(repair), message);
        (self.cures)(Cure { block, repair, action: Action::Clear })
    }

    fn report(
        &mut self,
        what: FindingKind,
        repair: Repair,
        block: u64,
        action: Action,
        message: fmt::Arguments<'_>,
    ) -> Result<()> {
        self.look.findings.add(Severity::Error, what, Some(repair), message);
        (self.cures)(Cure { block, repair, action })
    }

    /// Looks at the bits of a child's block.
    fn bits(&mut self, block: u64, at: u64) {
        let mut bits = vec![0; self.table.layout.bitmap_size as usize];
        if !self.look.read("sector bitmap", at, &mut bits, "its block cannot be read") {
            return;
        }
        if bits.iter().all(|byte| *byte == 0) {
            let message = format_args!(
                "{} has none of its sectors: the parent shows through everywhere",
                self.name(block)
            );
            self.look.findings.add(Severity::Note, FindingKind::BitmapBits, None, message);
        }
    }

    fn is_reserved(&self, at: u64) -> bool {
        self.overlaps(&self.table.reserved, at)
    }

    fn overlaps(&self, ranges: &[Range<u64>], at: u64) -> bool {
        let end = at + self.table.layout.span();
        ranges.iter().any(|range| range.start < end && at < range.end)
    }

    fn is_free(&self, at: u64) -> bool {
        let span = self.table.layout.span();
        self.claimed.range((at + 1).saturating_sub(span)..at + span).next().is_none()
    }

    /// Gives a place to a block, if it is free.
    fn claim(&mut self, at: u64) -> bool {
        self.is_free(at) && self.claimed.insert(at)
    }

    /// Names a block and where its entry is.
    fn name(&self, block: u64) -> impl fmt::Display + use<> {
        let (entry, at) = (self.table.start + block * ENTRY, block * self.table.layout.block_size);
        fmt::from_fn(move |f| {
            write!(f, "block {block} (at {at:#x} of the disk, table entry at {entry:#x})")
        })
    }

    /// Sums up. A gap that no block fits is taken for used: it aligns the block behind it.
    fn space(&self) -> Space {
        let Table { limit, layout, reserved, names, .. } = self.table;
        let mut space = Space { file_length: self.look.length, ..Space::default() };
        let metadata = reserved.iter().chain(names).map(|range| (range.start, range.end));
        let mut metadata: Vec<_> = metadata.collect();
        metadata.sort_unstable();
        let mut metadata = metadata.into_iter().peekable();
        let mut blocks = self.claimed.iter().map(|&at| (at, at + layout.span())).peekable();
        let mut end = 0;
        loop {
            let next = match (metadata.peek(), blocks.peek()) {
                (Some(a), Some(b)) if a < b => metadata.next(),
                (_, Some(_)) => blocks.next(),
                (Some(_), None) => metadata.next(),
                (None, None) => break,
            };
            let Some((start, stop)) = next else { break };
            if start >= end + layout.span() {
                space.add_free(end..start);
            }
            end = end.max(stop);
        }
        if end.next_multiple_of(SECTOR) < *limit {
            space.add_free(end..*limit);
        }
        space.used = space.file_length - space.leaked;
        space
    }
}
