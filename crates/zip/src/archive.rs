//! An archive: its entries, and their bytes.

use crate::directory::{self, Directory};
use crate::entry::{self, ENCRYPTED, Entry, Method};
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::source::{Section, Source};
use flate2::read::DeflateDecoder;
use std::collections::BTreeSet;
use std::io::Read;

const LOCAL: u32 = u32::from_le_bytes(*b"PK\x03\x04");
const LOCAL_LENGTH: u64 = 30;
/// Bytes that are handed on at once.
const PIECE: usize = 1 << 20;

/// A zip archive whose directory was read and agrees with itself.
#[derive(Debug)]
pub struct Archive<S> {
    source: S,
    entries: Vec<Entry>,
}

/// What gets an entry's bytes: where a piece begins, and the piece.
pub type Take<'a, E> = dyn FnMut(u64, &[u8]) -> Result<(), E> + 'a;

impl<S: Source> Archive<S> {
    /// Reads the directory, and looks at every local header.
    pub fn open(source: S) -> Result<Archive<S>> {
        let directory = directory::find(&source)?;
        let mut entries = read_directory(&source, &directory)?;
        let mut names = BTreeSet::new();
        if let Some(twice) = entries.iter().find(|entry| !names.insert(&entry.name)) {
            return Err(Error::malformed(format!("it has two entries called {:?}", twice.name)));
        }
        for entry in &mut entries {
            entry.data = data_start(&source, entry, directory.start)?;
        }
        check_apart(&entries)?;
        Ok(Archive { source, entries })
    }

    /// Returns the entries, in the order of the directory.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Reads a file of this archive: `take` gets its bytes, and where they begin, piece by piece, and
    /// may end it. They have the right length and checksum if this succeeds, and never more than that
    /// length.
    pub fn read<E: From<Error>>(&self, entry: &Entry, take: &mut Take<'_, E>) -> Result<(), E> {
        let mut section = Section::new(&self.source, entry.data, entry.compressed);
        let mut inflated;
        let plain: &mut dyn Read = match entry.method {
            _ if entry.is_encrypted => return Err(Error::malformed("it is encrypted").into()),
            Method::Stored => &mut section,
            Method::Deflated => {
                inflated = DeflateDecoder::new(&mut section);
                &mut inflated
            }
            Method::Other(number) => {
                let message = format!("it is compressed by method {number}, which is not known");
                return Err(Error::malformed(message).into());
            }
        };
        let outcome = read_plain(plain, entry, take);
        match (outcome, section.failure) {
            (Err(_), Some(failure)) => Err(Error::Read(failure).into()),
            (outcome, _) => outcome,
        }
    }
}

fn read_directory(source: &dyn Source, directory: &Directory) -> Result<Vec<Entry>> {
    let mut bytes = vec![0; directory.length];
    source.read_at(directory.start, &mut bytes).map_err(Error::Read)?;
    let mut fields = Fields(&bytes);
    let entries =
        (0..directory.entries).map(|_| entry::take(&mut fields)).collect::<Result<_>>()?;
    match fields.0 {
        // What is there besides are signatures, which nobody uses.
        [] | [b'P', b'K', 5, 5, ..] => Ok(entries),
        _ => Err(Error::malformed("its directory holds more entries than it says")),
    }
}

/// Returns where an entry's bytes begin. Errors where its local header says otherwise than the
/// directory, or where they do not end before `limit`.
fn data_start(source: &dyn Source, entry: &Entry, limit: u64) -> Result<u64> {
    let wrong = |what: &str| Error::malformed(format!("the entry {:?} is not {what}", entry.name));
    let not_there = || wrong("where the directory says");
    let name_at = entry.header.checked_add(LOCAL_LENGTH).ok_or_else(not_there)?;
    let name_end = name_at.checked_add(entry.raw_name.len() as u64).ok_or_else(not_there)?;
    if name_end > limit {
        return Err(not_there());
    }
    let mut header = [0; LOCAL_LENGTH as usize];
    source.read_at(entry.header, &mut header).map_err(Error::Read)?;
    let (flags, method, lengths) = local_header(Fields(&header)).ok_or_else(not_there)?;
    let mut name = vec![0; entry.raw_name.len()];
    source.read_at(name_at, &mut name).map_err(Error::Read)?;
    let is_the_same = lengths[0] == name.len() as u64
        && name == entry.raw_name
        && method == entry.method
        && flags & ENCRYPTED == entry.flags & ENCRYPTED;
    if !is_the_same {
        return Err(wrong("what the directory says"));
    }
    let data = name_end.saturating_add(lengths[1]);
    match data.checked_add(entry.compressed) {
        Some(end) if end <= limit => Ok(data),
        _ => Err(not_there()),
    }
}

/// Returns flags, method, and the lengths of name and extra fields.
fn local_header(mut fields: Fields<'_>) -> Option<(u16, Method, [u64; 2])> {
    if fields.u32()? != LOCAL {
        return None;
    }
    let _version = fields.u16()?;
    let (flags, method) = (fields.u16()?, Method::of(fields.u16()?));
    let _time_sum_and_sizes = fields.bytes(16)?;
    Some((flags, method, [fields.u16()?.into(), fields.u16()?.into()]))
}

/// Refuses an archive that makes more of its bytes than there are.
fn check_apart(entries: &[Entry]) -> Result<()> {
    let mut by_place: Vec<&Entry> = entries.iter().collect();
    by_place.sort_unstable_by_key(|entry| entry.header);
    for pair in by_place.windows(2) {
        // It ends before the directory, as was looked.
        if pair[0].data.saturating_add(pair[0].compressed) > pair[1].header {
            return Err(Error::malformed(format!(
                "the entries {:?} and {:?} share bytes: no honest program writes that",
                pair[0].name, pair[1].name
            )));
        }
    }
    Ok(())
}

fn read_plain<E: From<Error>>(
    plain: &mut dyn Read,
    entry: &Entry,
    take: &mut Take<'_, E>,
) -> Result<(), E> {
    let (mut piece, mut at, mut crc) = (Vec::new(), 0, crc32fast::Hasher::new());
    loop {
        piece.clear();
        // One byte more than it says is asked for, so that one that is longer is found out.
        let most = (entry.length - at).saturating_add(1).min(PIECE as u64);
        let read = Read::take(&mut *plain, most).read_to_end(&mut piece);
        read.map_err(|error| Error::malformed(format!("it is damaged: {error}")))?;
        if piece.is_empty() {
            break;
        }
        if piece.len() as u64 > entry.length - at {
            let message = format!("it is longer than the {} bytes it says", entry.length);
            return Err(Error::malformed(message).into());
        }
        crc.update(&piece);
        take(at, &piece)?;
        at += piece.len() as u64;
    }
    if at != entry.length {
        let message = format!("it has {at} bytes and not the {} it says", entry.length);
        return Err(Error::malformed(message).into());
    }
    match crc.finalize() == entry.crc {
        true => Ok(()),
        false => Err(Error::malformed("its checksum is wrong").into()),
    }
}
