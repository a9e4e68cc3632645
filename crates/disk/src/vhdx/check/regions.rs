//! The region table's two copies, and where they place the BAT, the metadata and what is not known here.

use std::collections::HashSet;
use std::ops::Range;

use super::super::bytes::Fields;
use super::super::header::Header;
use super::super::region::{BAT, COPIES, LENGTH, MAX_ENTRIES, METADATA, is_valid};
use super::super::{MIB, PAGE, overlap};
use crate::check::{CLOSED, FindingKind, Look, Repair, Severity};
use crate::error::{During, Result};
use crate::guid::Guid;
use crate::storage::Storage;

/// What the region table could be made sense of.
pub(super) struct Regions {
    pub bat: Option<Range<u64>>,
    pub metadata: Option<Range<u64>>,
    /// The log and all regions that lie within the file, sorted.
    pub reserved: Vec<Range<u64>>,
}

/// Both copies of the table.
pub(in super::super) struct Copies {
    tables: [Vec<u8>; 2],
    valid: [bool; 2],
}

impl Copies {
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let mut tables = [vec![0; LENGTH], vec![0; LENGTH]];
        for (table, at) in tables.iter_mut().zip(COPIES) {
            storage.read_at(at, table).during("read the region table")?;
        }
        Ok(Self::of(tables))
    }

    fn of(tables: [Vec<u8>; 2]) -> Self {
        let valid = [is_valid(&tables[0]), is_valid(&tables[1])];
        Self { tables, valid }
    }

    /// The copy that counts: the first that is valid.
    fn current(&self) -> Option<&[u8]> {
        (0..2).find(|copy| self.valid[*copy]).map(|copy| self.tables[copy].as_slice())
    }

    /// The pages to write so that the other copy is the same as the one that counts.
    pub fn cure(&self) -> Vec<(u64, Box<[u8; PAGE]>)> {
        let (good, bad) = match self.valid {
            [true, _] => (0, 1),
            [false, true] => (1, 0),
            [false, false] => return Vec::new(),
        };
        let pages = self.tables[good].chunks_exact(PAGE).zip(self.tables[bad].chunks_exact(PAGE));
        let places = (COPIES[bad]..).step_by(PAGE);
        places
            .zip(pages)
            .filter(|(_, (good, bad))| good != bad)
            .map(|(at, (good, _))| (at, good.try_into().map(Box::new).expect("a page")))
            .collect()
    }
}

/// Looks at both copies, and at all the regions that the one which counts lists.
pub(super) fn check(header: &Header, look: &mut Look<'_>) -> Option<Regions> {
    let mut tables = [vec![0; LENGTH], vec![0; LENGTH]];
    for (copy, at) in COPIES.into_iter().enumerate() {
        if !look.read(format_args!("region table {}", copy + 1), at, &mut tables[copy], CLOSED) {
            return None;
        }
    }
    let copies = Copies::of(tables);
    check_copies(&copies, look);
    let table = copies.current()?;
    let count = table.u32(8);
    if count > MAX_ENTRIES {
        let message = format_args!(
            "the region table claims {count} entries; {MAX_ENTRIES} is the limit, and {CLOSED}"
        );
        look.findings.error(FindingKind::RegionTableDamaged, message);
        return None;
    }
    Some(check_entries(&table[16..][..32 * count as usize], header, look))
}

fn check_copies(copies: &Copies, look: &mut Look<'_>) {
    let (severity, outcome) = match copies.valid {
        [true, true] if copies.tables[0] != copies.tables[1] => {
            let repair = Some(Repair::RewriteRegionTable);
            let message = format_args!(
                "the two region tables at {:#x} and {:#x} differ; the first is used, and a reader that uses the other sees \
                 another file",
                COPIES[0], COPIES[1]
            );
            look.findings.add(Severity::Warning, FindingKind::RegionTablesDiffer, repair, message);
            return;
        }
        [false, false] => (Severity::Error, "neither can be used, and the file does not open"),
        _ => (Severity::Warning, "the other one is used, and there is no second if it is lost"),
    };
    for copy in (0..2).filter(|copy| !copies.valid[*copy]) {
        let repair = (severity == Severity::Warning).then_some(Repair::RewriteRegionTable);
        let (number, at) = (copy + 1, COPIES[copy]);
        let message = format_args!("region table {number} at {at:#x} is damaged; {outcome}");
        look.findings.add(severity, FindingKind::RegionTableDamaged, repair, message);
    }
}

fn check_entries(entries: &[u8], header: &Header, look: &mut Look<'_>) -> Regions {
    let log_end = header.log_offset + u64::from(header.log_length);
    let log = header.log_offset..log_end.min(look.length);
    let mut regions = Regions { bat: None, metadata: None, reserved: vec![log] };
    let mut seen = HashSet::new();
    for entry in entries.chunks_exact(32) {
        let (id, at, length) = (entry.guid(0), entry.u64(16), u64::from(entry.u32(24)));
        if !seen.insert(id) {
            let name = name(id);
            let message = format_args!("{name} is listed twice; {CLOSED}");
            look.findings.error(FindingKind::RegionRepeated, message);
            continue;
        }
        if entry.u32(28) & 1 != 0 && ![BAT, METADATA].contains(&id) {
            let message = format_args!("region {id} is required and not known; {CLOSED}");
            look.findings.error(FindingKind::Unsupported, message);
        }
        let place = at..at.saturating_add(length);
        let aligned = at.is_multiple_of(MIB) && length.is_multiple_of(MIB);
        if !aligned || at < MIB || length == 0 || place.end > look.length {
            let (name, file_length) = (name(id), look.length);
            let message = format_args!(
                "{name} has {length} bytes at {at:#x}; regions are of whole MiB, at 1 MiB or later, and within the file's \
                 {file_length} bytes; {CLOSED}"
            );
            look.findings.error(FindingKind::RegionMisplaced, message);
            continue;
        }
        match id {
            BAT => regions.bat = Some(place.clone()),
            METADATA => regions.metadata = Some(place.clone()),
            _ => {}
        }
        regions.reserved.push(place);
    }
    for id in [BAT, METADATA].into_iter().filter(|id| !seen.contains(id)) {
        let message = format_args!("the region table lacks {}; {CLOSED}", name(id));
        look.findings.error(FindingKind::RegionMissing, message);
    }
    regions.reserved.retain(|range| !range.is_empty());
    regions.reserved.sort_by_key(|range| range.start);
    for pair in regions.reserved.windows(2).filter(|pair| overlap(&pair[0], &pair[1])) {
        let (one, two) = (pair[0].start, pair[1].start);
        let message = format_args!(
            "two of the log and the regions overlap, at {one:#x} and {two:#x}; {CLOSED}"
        );
        look.findings.error(FindingKind::RegionsOverlap, message);
    }
    regions
}

fn name(id: Guid) -> String {
    match id {
        BAT => "the BAT region".into(),
        METADATA => "the metadata region".into(),
        _ => format!("region {id}"),
    }
}
