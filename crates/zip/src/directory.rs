//! Where an archive's directory is, and how long.
//!
//! ```text
//!   entries │ directory │ zip64 record │ its locator │ end record │ comment
//!             ◄────────── offset, length, number ──────┘           to the end of the file
//! ```
//!
//! Source: APPNOTE.TXT 6.3.10, 4.3.14 to 4.3.16.

use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::source::Source;

const END: &[u8; 4] = b"PK\x05\x06";
const END_LENGTH: usize = 22;
const LOCATOR: &[u8; 4] = b"PK\x06\x07";
const LOCATOR_LENGTH: u64 = 20;
const ZIP64_END: &[u8; 4] = b"PK\x06\x06";
const ZIP64_LENGTH: usize = 56;
/// What counts in the record's own length: all but signature and length.
const ZIP64_BEFORE: u64 = 12;
const MAX_COMMENT: usize = 0xffff;
/// Stands where a number is in the zip64 record instead.
const ELSEWHERE_16: u16 = u16::MAX;
const ELSEWHERE_32: u32 = u32::MAX;

/// More than anybody puts images into; memory is taken for so many.
pub(crate) const MAX_ENTRIES: u64 = 4096;
const MAX_LENGTH: u64 = 16 << 20;

/// A directory's place in the archive. It lies within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    pub start: u64,
    pub length: usize,
    pub entries: u64,
}

/// What an end record says, or the zip64 record in its place.
struct Told {
    disk: u32,
    directorys_disk: u32,
    entries_here: u64,
    entries: u64,
    length: u64,
    start: u64,
}

/// Finds the directory of an archive.
pub(crate) fn find(source: &dyn Source) -> Result<Directory> {
    let file_length = source.length().map_err(Error::Read)?;
    let tail_length = file_length.min((END_LENGTH + MAX_COMMENT) as u64);
    let mut tail = vec![0; tail_length as usize];
    source.read_at(file_length - tail_length, &mut tail).map_err(Error::Read)?;
    let at = end_record(&tail).ok_or_else(|| {
        Error::malformed("it has no directory at its end: it is cut off, or no zip archive")
    })?;
    let end_at = file_length - tail_length + at as u64;
    let cut_off = || Error::malformed("its end record is cut off");
    let told = told_by_end(Fields(&tail[at + END.len()..])).ok_or_else(cut_off)?;
    let (told, limit) = match told.is_elsewhere() {
        true => zip64(source, end_at)?.unwrap_or((told, end_at)),
        false => (told, end_at),
    };
    if told.disk != 0 || told.directorys_disk != 0 || told.entries_here != told.entries {
        return Err(Error::malformed("it is one of several parts"));
    }
    if told.entries > MAX_ENTRIES || told.length > MAX_LENGTH {
        return Err(Error::malformed(format!(
            "its directory is too large: {} entries in {} bytes",
            told.entries, told.length
        )));
    }
    match told.start.checked_add(told.length) {
        Some(end) if end <= limit => {
            Ok(Directory { start: told.start, length: told.length as usize, entries: told.entries })
        }
        _ => Err(Error::malformed("its directory is not where it says")),
    }
}

/// Finds the last end record whose comment ends with the file.
fn end_record(tail: &[u8]) -> Option<usize> {
    (0..=tail.len().checked_sub(END_LENGTH)?).rev().find(|&at| {
        let comment = tail.get(at + END_LENGTH - 2..).and_then(|rest| Fields(rest).u16());
        tail[at..].starts_with(END)
            && comment.is_some_and(|length| at + END_LENGTH + usize::from(length) == tail.len())
    })
}

fn told_by_end(mut fields: Fields<'_>) -> Option<Told> {
    Some(Told {
        disk: fields.u16()?.into(),
        directorys_disk: fields.u16()?.into(),
        entries_here: fields.u16()?.into(),
        entries: fields.u16()?.into(),
        length: fields.u32()?.into(),
        start: fields.u32()?.into(),
    })
}

impl Told {
    fn is_elsewhere(&self) -> bool {
        self.entries == u64::from(ELSEWHERE_16)
            || self.entries_here == u64::from(ELSEWHERE_16)
            || self.length == u64::from(ELSEWHERE_32)
            || self.start == u64::from(ELSEWHERE_32)
            || self.disk == u32::from(ELSEWHERE_16)
            || self.directorys_disk == u32::from(ELSEWHERE_16)
    }
}

/// Reads the zip64 record of an archive whose end record is at `end_at`, and where it begins; `None`
/// where there is none.
fn zip64(source: &dyn Source, end_at: u64) -> Result<Option<(Told, u64)>> {
    let Some(locator_at) = end_at.checked_sub(LOCATOR_LENGTH) else { return Ok(None) };
    let mut locator = [0; LOCATOR_LENGTH as usize];
    source.read_at(locator_at, &mut locator).map_err(Error::Read)?;
    let Some(rest) = locator.strip_prefix(LOCATOR) else { return Ok(None) };
    let wrong = || Error::malformed("its zip64 record is not where it says");
    let mut fields = Fields(rest);
    let (disk, at, disks) = (fields.u32(), fields.u64(), fields.u32());
    let at = at.filter(|_| disk == Some(0) && disks.is_some_and(|disks| disks <= 1));
    let at = at.ok_or_else(wrong)?;
    if at.checked_add(ZIP64_LENGTH as u64).is_none_or(|end| end > locator_at) {
        return Err(wrong());
    }
    let mut record = [0; ZIP64_LENGTH];
    source.read_at(at, &mut record).map_err(Error::Read)?;
    let mut fields = Fields(record.strip_prefix(ZIP64_END).ok_or_else(wrong)?);
    let length = fields.u64().and_then(|length| length.checked_add(ZIP64_BEFORE));
    if length.and_then(|length| length.checked_add(at)) != Some(locator_at) {
        return Err(wrong());
    }
    let told = told_by_zip64(fields).ok_or_else(wrong)?;
    Ok(Some((told, at)))
}

fn told_by_zip64(mut fields: Fields<'_>) -> Option<Told> {
    let _versions = fields.u32()?;
    Some(Told {
        disk: fields.u32()?,
        directorys_disk: fields.u32()?,
        entries_here: fields.u64()?,
        entries: fields.u64()?,
        length: fields.u64()?,
        start: fields.u64()?,
    })
}
