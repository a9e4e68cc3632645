//! What a check found, in words that all formats share.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::error::{During, Result};
use crate::storage::Storage;

/// Findings of one kind that are listed; of further ones only the number is told.
const LIMIT: usize = 100;
/// Free ranges that are listed.
const FREE_RANGES: usize = 1000;

/// What is known of a file after a look at all of its metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// In the order of the file. At most 100 of each kind, then one that tells how many more there are.
    pub findings: Vec<Finding>,
    /// What a repair did away with; empty after a check.
    pub repaired: Vec<Finding>,
    /// Who has the file's bytes.
    pub space: Space,
    /// The log holds changes that are not at their places yet. VHDX only.
    pub dirty_log: bool,
    /// Which of the two headers counts, 0 or 1. VHDX only, and only if one does.
    pub current_header: Option<usize>,
}

/// How a file's bytes are used. Known as far as the metadata could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Space {
    /// Bytes in the file.
    pub file_length: u64,
    /// Bytes that metadata and blocks lie in.
    pub used: u64,
    /// Bytes of the file that belong to nothing. Later writes use them; compacting gives them back to the host.
    pub leaked: u64,
    /// Where they are, in order: the first 1000 ranges.
    pub free: Vec<Range<u64>>,
    /// Number of further ranges.
    pub more_free: u64,
}

/// One thing that is not as it should be, or worth knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is, for programs.
    pub what: FindingKind,
    /// What it is, where in the file, and what follows; for people, in one line.
    pub message: String,
    /// What [`crate::check::repair`] can do about it, if anything.
    pub repair: Option<Repair>,
}

/// How much a [`Finding`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing is wrong.
    Note,
    /// The format's rules are broken, yet every byte of the disk can be read and written.
    Warning,
    /// The disk, or a part of it, cannot be read or cannot be trusted.
    Error,
}

/// What a [`Finding`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// The file is of no format known here.
    NotADisk,
    /// The host fails to read a part of the file.
    Unreadable,
    /// The file ends before something that it should hold.
    Truncated,
    /// Whoever made the file did not finish.
    Unfinished,
    /// The file needs something that is not known here.
    Unsupported,
    /// The file does not open, for a reason that no other finding tells.
    Unopenable,
    /// The file is too long, or its length is no multiple of the format's unit.
    FileLength,
    /// Some of the file belongs to nothing.
    Leaked,

    /// A VHD's footer or its copy is missing or damaged.
    FooterDamaged,
    /// A VHD's footer and its copy differ.
    FootersDiffer,
    /// A virtual machine was suspended on the disk.
    SavedState,
    /// Other programs take the disk for larger or smaller.
    SizeInDoubt,

    /// A header, of which VHDX keeps two and VHD one, is damaged.
    HeaderDamaged,
    /// Two headers are the same where one should be newer.
    HeadersIdentical,
    /// Two headers differ and neither is newer.
    HeadersConflict,
    /// The headers' sequence number cannot be raised: the file can no longer be written.
    SequenceExhausted,

    /// The log was left in use and is complete: the next writer replays it.
    LogInUse,
    /// The log was left in use and cannot be replayed.
    LogDamaged,
    /// There is no log, or not at a place where one may be.
    LogMisplaced,

    /// A region table, of which there are two copies, is damaged.
    RegionTableDamaged,
    /// The two copies of the region table differ.
    RegionTablesDiffer,
    /// A region lies where none may be.
    RegionMisplaced,
    /// A region is listed twice.
    RegionRepeated,
    /// A region that every file has is not listed.
    RegionMissing,
    /// Two regions, or a region and the log, lie over one another.
    RegionsOverlap,

    /// The list of metadata items is damaged.
    MetadataDamaged,
    /// A metadata item lies where none may be.
    ItemMisplaced,
    /// A metadata item is listed twice.
    ItemRepeated,
    /// Two metadata items lie over one another.
    ItemsOverlap,
    /// A metadata item that every such file has is not listed, or too short.
    ItemMissing,
    /// A metadata item's flags are not those it must have.
    ItemFlags,
    /// A metadata item says something outside the format's limits.
    ItemValue,
    /// What the file knows of its parent is damaged.
    LocatorDamaged,
    /// The file knows of a parent and says that it has none.
    LocatorUnused,

    /// The block table does not cover the disk.
    TableTooSmall,
    /// The block table has more entries than the disk has blocks.
    TableTooLarge,
    /// The block table lies over something else.
    TableMisplaced,
    /// Bits that must be zero are not.
    ReservedBits,
    /// A block is in a state that is unknown, or illegal for this type of disk.
    BlockState,
    /// A block lies outside the file, or over its metadata.
    BlockMisplaced,
    /// The file ends within a block.
    BlockCutOff,
    /// Two blocks lie over one another.
    BlocksOverlap,
    /// A block behind the disk's end has a place in the file.
    BlockPastEnd,
    /// An unused entry of the block table says something.
    EntryPastEnd,
    /// Blocks of a fixed disk have no place in the file.
    NotAllocated,
    /// A block's bitmap of sectors is not there.
    BitmapMissing,
    /// A disk without parent has a bitmap of sectors.
    BitmapUnexpected,
    /// A bitmap's bits make no sense.
    BitmapBits,

    /// A parent does not exist or is not given.
    ParentMissing,
    /// A parent is given for a disk that has none.
    ParentUnexpected,
    /// A parent is not the file, or the version of it, that the child was made from.
    ParentChanged,
    /// A parent's size or sectors do not go with its child's.
    ParentGeometry,
    /// A file is in its own chain twice.
    Cycle,
}

/// What a repair does about a [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Repair {
    /// Completes what the log describes.
    ReplayLog,
    /// Writes a missing, damaged or different footer anew, from the good one.
    RewriteFooter,
    /// Writes a damaged or repeated header anew, from the good one.
    RewriteHeader,
    /// Writes a damaged or different region table anew, from the good one.
    RewriteRegionTable,
    /// Makes the file longer.
    ExtendFile,
    /// Makes bits or entries that nobody reads zero.
    ClearUnused,
    /// Makes the file longer by what it lost of a block; that reads as zeros.
    CompleteBlock,
    /// Gives each of two blocks in one place a copy of its own. One of them holds the other's bytes.
    SeparateBlocks,
    /// Gives up the block: it reads as zeros.
    DiscardBlock,
}

impl Repair {
    /// Whether it settles for bytes that are lost, and so is done only if asked for.
    pub fn accepts_loss(self) -> bool {
        matches!(self, Self::CompleteBlock | Self::SeparateBlocks | Self::DiscardBlock)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ReplayLog => "replay the log",
            Self::RewriteFooter => "write the other footer anew",
            Self::RewriteHeader => "write the other header anew",
            Self::RewriteRegionTable => "write the other region table anew",
            Self::ExtendFile => "make the file longer",
            Self::ClearUnused => "make it zero",
            Self::CompleteBlock => "fill the block up with zeros, losing what was there",
            Self::SeparateBlocks => "give each block a copy of its own",
            Self::DiscardBlock => "give it up, losing what was there",
        })
    }
}

impl Report {
    /// Whether the disk can be read and written whole: no finding is an [`Severity::Error`].
    pub fn is_sound(&self) -> bool {
        self.worst() != Some(Severity::Error)
    }

    /// The most serious finding's severity; `None` if there is no finding.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    /// Whether there is a finding of this kind.
    pub fn has(&self, what: FindingKind) -> bool {
        self.findings.iter().any(|finding| finding.what == what)
    }

    /// A report of nothing but findings.
    pub(crate) fn of_findings(findings: Findings) -> Self {
        Self { findings: findings.finish(), ..Self::default() }
    }

    /// The report of a file that is of no format known here.
    pub(crate) fn of_no_disk(file: &dyn Storage) -> Result<Self> {
        let file_length = file.len().during("read the file's length")?;
        let mut findings = Findings::default();
        let message = format_args!(
            "the file has no signature of a disk that is known here; it does not open"
        );
        findings.error(FindingKind::NotADisk, message);
        let space = Space { file_length, ..Space::default() };
        Ok(Self { findings: findings.finish(), space, ..Self::default() })
    }
}

impl Space {
    /// Counts a range that belongs to nothing; they come in order and do not touch.
    pub(crate) fn add_free(&mut self, range: Range<u64>) {
        self.leaked += range.end - range.start;
        match self.free.len() < FREE_RANGES {
            true => self.free.push(range),
            false => self.more_free += 1,
        }
    }
}

/// Findings as they are made. However many there are, memory for [`LIMIT`] of each kind is taken.
#[derive(Default)]
pub(crate) struct Findings {
    list: Vec<Finding>,
    /// How many there are of each kind, and the most serious of those not listed.
    counts: BTreeMap<FindingKind, (usize, Severity)>,
}

impl Findings {
    pub fn add(
        &mut self,
        severity: Severity,
        what: FindingKind,
        repair: Option<Repair>,
        message: fmt::Arguments<'_>,
    ) {
        let (count, unlisted) = self.counts.entry(what).or_insert((0, Severity::Note));
        *count += 1;
        if *count <= LIMIT {
            self.list.push(Finding { severity, what, message: message.to_string(), repair });
        } else {
            *unlisted = severity.max(*unlisted);
        }
    }

    /// Adds one that nothing can be done about.
    pub fn error(&mut self, what: FindingKind, message: fmt::Arguments<'_>) {
        self.add(Severity::Error, what, None, message);
    }

    /// Adds one that nothing can be done about.
    pub fn warning(&mut self, what: FindingKind, message: fmt::Arguments<'_>) {
        self.add(Severity::Warning, what, None, message);
    }

    /// No repair can be done after all.
    pub fn forget_repairs(&mut self) {
        self.list.iter_mut().for_each(|finding| finding.repair = None);
    }

    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|finding| finding.severity == Severity::Error)
    }

    pub fn count(&self, what: FindingKind) -> usize {
        self.counts.get(&what).map_or(0, |counts| counts.0)
    }

    pub fn finish(self) -> Vec<Finding> {
        let mut list = self.list;
        for (what, (count, severity)) in self.counts {
            if let Some(more @ 1..) = count.checked_sub(LIMIT) {
                let message = format!("and {more} more of this kind: {what:?}");
                list.push(Finding { severity, what, message, repair: None });
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_findings_the_first_are_listed_and_the_rest_counted() {
        let mut findings = Findings::default();
        for n in 0..1000 {
            findings.add(Severity::Warning, FindingKind::BlockState, None, format_args!("{n}"));
        }
        findings.add(Severity::Note, FindingKind::Leaked, None, format_args!("one"));
        let list = findings.finish();
        assert_eq!(list.len(), LIMIT + 2);
        assert_eq!(list[LIMIT].what, FindingKind::Leaked);
        assert!(list[LIMIT + 1].message.contains("900"), "{}", list[LIMIT + 1].message);
        assert_eq!(list[LIMIT + 1].severity, Severity::Warning);
    }

    #[test]
    fn free_space_in_many_pieces_is_counted_whole_and_listed_in_part() {
        let mut space = Space::default();
        (0..5000).for_each(|n| space.add_free(n * 10..n * 10 + 3));
        assert_eq!((space.leaked, space.more_free), (15_000, 4000));
        assert_eq!((space.free.len(), space.free[1].clone()), (FREE_RANGES, 10..13));
    }
}
