//! The metadata region: its table, and the items every file has.

use std::collections::HashSet;
use std::ops::Range;

use super::super::bytes::Fields;
use super::super::locator::Locator;
use super::super::metadata::{
    self, FILE_PARAMETERS, HAS_PARENT, IS_REQUIRED, IS_USER, IS_VIRTUAL_DISK, LEAVE_ALLOCATED,
    LOGICAL_SECTOR, MAX_ENTRIES, MAX_ITEM, PAGE83, PARENT_LOCATOR, PHYSICAL_SECTOR, SIGNATURE,
    TABLE, VIRTUAL_SIZE,
};
use super::super::{Kind, overlap};
use crate::check::{CLOSED, FindingKind, Look};
use crate::error::{Error, ErrorKind};
use crate::guid::Guid;

const MAX_USER_ITEMS: usize = 1024;
/// Windows marks a file so while it is being made.
const INCOMPLETE: Guid = Guid::of(0x71CC85F0_1B69_4E28_9558_C3BF83AE75D3);

/// Items that every file has, the parent locator aside: name, least bytes, flags.
const ITEMS: [(Guid, &str, usize, u32); 5] = [
    (FILE_PARAMETERS, "file parameters", 8, IS_REQUIRED),
    (VIRTUAL_SIZE, "virtual disk size", 8, IS_VIRTUAL_DISK | IS_REQUIRED),
    (PAGE83, "page 83 data", 16, IS_VIRTUAL_DISK | IS_REQUIRED),
    (LOGICAL_SECTOR, "logical sector size", 4, IS_VIRTUAL_DISK | IS_REQUIRED),
    (PHYSICAL_SECTOR, "physical sector size", 4, IS_VIRTUAL_DISK | IS_REQUIRED),
];
const LOCATOR: (Guid, &str, usize, u32) = (PARENT_LOCATOR, "parent locator", 1, IS_REQUIRED);

/// What is needed to make sense of the BAT.
pub(super) struct Parameters {
    pub virtual_size: u64,
    pub block_size: u32,
    pub sector: u32,
    pub kind: Kind,
    /// The file says that it has no parent and keeps a locator of one: it may be a child that lost its mark.
    pub in_doubt: bool,
}

/// The table's system items that lie where an item may.
struct Items {
    region: Range<u64>,
    placed: Vec<(Guid, Range<u64>)>,
    /// Listed at all, wherever.
    listed: HashSet<Guid>,
}

/// Looks at the whole region; returns what the BAT needs if all of it is there and within limits.
pub(super) fn check(region: &Range<u64>, look: &mut Look<'_>) -> Option<Parameters> {
    let mut table = vec![0; TABLE];
    if !look.read("metadata table", region.start, &mut table, CLOSED) {
        return None;
    }
    let (at, count) = (region.start, table.u16(10));
    if !table.starts_with(SIGNATURE) || count > MAX_ENTRIES {
        let message = format_args!(
            "the metadata table at {at:#x} is damaged: it lacks its signature or claims more than {MAX_ENTRIES} items; \
             {CLOSED}"
        );
        look.findings.error(FindingKind::MetadataDamaged, message);
        return None;
    }
    let items = check_table(&table[32..][..32 * usize::from(count)], region, look);
    check_values(&items, look)
}

fn check_table(entries: &[u8], region: &Range<u64>, look: &mut Look<'_>) -> Items {
    let mut items = Items { region: region.clone(), placed: Vec::new(), listed: HashSet::new() };
    let (mut places, mut user_items) = (Vec::new(), HashSet::new());
    for entry in entries.chunks_exact(32) {
        let (id, flags) = (entry.guid(0), entry.u32(24));
        let (offset, length) = (entry.u32(16), entry.u32(20));
        let is_user = flags & IS_USER != 0;
        let name = name(id, is_user);
        let new = if is_user { user_items.insert(id) } else { items.listed.insert(id) };
        if !new {
            let message = format_args!("the {name} is listed twice; {CLOSED}");
            look.findings.error(FindingKind::ItemRepeated, message);
            continue;
        }
        if !is_user {
            check_known(id, &name, flags, look);
        }
        let place = u64::from(offset)..u64::from(offset) + u64::from(length);
        let placed = match length {
            0 => offset == 0,
            _ => offset >= TABLE as u32 && place.end <= region.end - region.start,
        };
        if !placed || length > MAX_ITEM {
            let message = format_args!(
                "the {name} has {length} bytes at {offset:#x} of the metadata region, outside it, over its table or more \
                 than 1 MiB; {CLOSED}"
            );
            look.findings.error(FindingKind::ItemMisplaced, message);
            continue;
        }
        if length > 0 {
            places.push((place.clone(), name));
        }
        if !is_user {
            items.placed.push((id, place));
        }
    }
    if user_items.len() > MAX_USER_ITEMS {
        let message = format_args!(
            "the metadata table lists {} items of users; {MAX_USER_ITEMS} is the limit",
            user_items.len()
        );
        look.findings.warning(FindingKind::MetadataDamaged, message);
    }
    places.sort_by_key(|(place, _)| place.start);
    for pair in places.windows(2).filter(|pair| overlap(&pair[0].0, &pair[1].0)) {
        let (one, two) = (&pair[0].1, &pair[1].1);
        let message = format_args!("the {one} and the {two} overlap; {CLOSED}");
        look.findings.error(FindingKind::ItemsOverlap, message);
    }
    items
}

/// Looks at what a system item's entry says besides its place.
fn check_known(id: Guid, name: &str, flags: u32, look: &mut Look<'_>) {
    if id == INCOMPLETE {
        let outcome = if flags & IS_REQUIRED != 0 { CLOSED } else { "some of the disk is missing" };
        let message = format_args!("whoever made the file did not finish: {outcome}");
        look.findings.error(FindingKind::Unfinished, message);
        return;
    }
    match ITEMS.iter().chain([&LOCATOR]).find(|item| item.0 == id) {
        Some((_, _, _, expected)) if flags & 7 != *expected => {
            let message = format_args!(
                "the {name} item has the flags {flags:#x}, not {expected:#x}: other readers may refuse the file or lose the item"
            );
            look.findings.warning(FindingKind::ItemFlags, message);
        }
        None if flags & IS_REQUIRED != 0 => {
            let message = format_args!("the {name} is required and not known; {CLOSED}");
            look.findings.error(FindingKind::Unsupported, message);
        }
        _ => {}
    }
}

fn check_values(items: &Items, look: &mut Look<'_>) -> Option<Parameters> {
    let mut values = Vec::with_capacity(ITEMS.len());
    for item in &ITEMS {
        values.push(items.read(item, look));
    }
    let [parameters, size, _, sector, physical] = <[_; ITEMS.len()]>::try_from(values).ok()?;
    let (parameters, flags) = parameters.map(|item| (item.u32(0), item.u32(4))).unzip();
    let sector = sector.map(|item| item.u32(0));
    let physical = physical.map(|item| item.u32(0));
    let size = size.map(|item| item.u64(0));

    let good_sectors =
        [sector, physical].map(|sector| within(sector, metadata::check_sector, look));
    let sector = sector.filter(|_| good_sectors[0]);
    let size = size.filter(|size| {
        // Of a sector that is not known, the smallest.
        within(Some(*size), |size| metadata::check_size(size, sector.unwrap_or(512)), look)
    });
    let block_size = parameters.filter(|_| within(parameters, metadata::check_block_size, look));
    let flags = flags?;
    if flags & !(LEAVE_ALLOCATED | HAS_PARENT) != 0 {
        let message = format_args!("the file parameters have flags that are not known: {flags:#x}");
        look.findings.warning(FindingKind::ItemFlags, message);
    }
    let has_parent = flags & HAS_PARENT != 0;
    let in_doubt = check_locator(items, has_parent, look);
    let kind = match flags & LEAVE_ALLOCATED {
        _ if has_parent => Kind::Differencing,
        0 => Kind::Dynamic,
        _ => Kind::Fixed,
    };
    Some(Parameters {
        virtual_size: size?,
        block_size: block_size?,
        sector: sector?,
        kind,
        in_doubt,
    })
}

/// Whether a value, if there is one, is within the format's limits.
fn within<T>(
    value: Option<T>,
    check: impl FnOnce(T) -> Result<(), Error>,
    look: &mut Look<'_>,
) -> bool {
    match value.map(check) {
        None => false,
        Some(Ok(())) => true,
        Some(Err(error)) => {
            let message = format_args!("the metadata says {error}; {CLOSED}");
            look.findings.error(FindingKind::ItemValue, message);
            false
        }
    }
}

/// Looks at the parent locator; returns whether there is one that nobody reads.
fn check_locator(items: &Items, has_parent: bool, look: &mut Look<'_>) -> bool {
    if !has_parent {
        let in_doubt = items.listed.contains(&PARENT_LOCATOR);
        if in_doubt {
            let message = format_args!(
                "the file keeps a parent locator and says that it has no parent: if it is a differencing disk that lost \
                 its mark, it shows zeros where it should show its parent"
            );
            look.findings.warning(FindingKind::LocatorUnused, message);
        }
        return in_doubt;
    }
    let Some(item) = items.read(&LOCATOR, look) else { return false };
    match Locator::decode(&item).and_then(|locator| locator.link()) {
        Ok(link) if [&link.relative_path, &link.volume_path, &link.absolute_path] == [&None; 3] => {
            let message = format_args!(
                "the parent locator names no file: other readers do not find the parent {}",
                link.linkage
            );
            look.findings.warning(FindingKind::LocatorDamaged, message);
        }
        Ok(_) => {}
        Err(error) => {
            let what = match error.kind() {
                ErrorKind::Unsupported => FindingKind::Unsupported,
                _ => FindingKind::LocatorDamaged,
            };
            look.findings.error(what, format_args!("{error}; {CLOSED}"));
        }
    }
    false
}

impl Items {
    /// Returns a system item's bytes; `None`, with a finding, when they are not there.
    fn read(
        &self,
        &(id, name, least, _): &(Guid, &str, usize, u32),
        look: &mut Look<'_>,
    ) -> Option<Vec<u8>> {
        let place = self.placed.iter().find(|item| item.0 == id).map(|item| item.1.clone());
        let length = place.as_ref().map_or(0, |place| (place.end - place.start) as usize);
        if length < least {
            // A misplaced one was reported already.
            if place.is_some() || !self.listed.contains(&id) {
                let message = format_args!(
                    "the metadata lacks the {name}, or has too little of it; {CLOSED}"
                );
                look.findings.error(FindingKind::ItemMissing, message);
            }
            return None;
        }
        let mut bytes = vec![0; length];
        let at = self.region.start + place?.start;
        look.read(name, at, &mut bytes, CLOSED).then_some(bytes)
    }
}

fn name(id: Guid, is_user: bool) -> String {
    match ITEMS.iter().chain([&LOCATOR]).find(|item| item.0 == id && !is_user) {
        Some((_, name, ..)) => (*name).to_owned(),
        None => format!("metadata item {id}"),
    }
}
