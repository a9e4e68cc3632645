//! One entry of the log: encoding and total decoding.

use std::ops::Range;

use super::super::bytes::{Fields, FieldsMut, checksum};
use super::super::{MIB, PAGE, overlap};
use crate::guid::Guid;
use crate::pages::Taken;

const SIGNATURE: &[u8; 4] = b"loge";
const DATA_DESCRIPTOR: &[u8; 4] = b"desc";
const ZERO_DESCRIPTOR: &[u8; 4] = b"zero";
const DATA_SECTOR: &[u8; 4] = b"data";
const HEADER: usize = 64;
const DESCRIPTOR: usize = 32;
/// File identifier and headers are never logged.
const FIRST_TARGET: u64 = 192 * 1024;

/// A page of the file, whole.
pub(crate) type LoggedPage = Taken<PAGE>;

/// What replaying an entry does, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The page at this file offset becomes these bytes.
    Page(u64, Box<[u8; PAGE]>),
    /// These bytes of the file become zeros.
    Zeros(Range<u64>),
}

/// An entry that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub sequence: u64,
    /// Offset within the ring of the oldest entry that is needed when this one is the last.
    pub tail: u32,
    /// Length of the entry in bytes; a multiple of 4 KiB.
    pub length: u32,
    pub flushed_file_offset: u64,
    pub last_file_offset: u64,
    pub changes: Vec<Change>,
}

/// The fields of an entry's header that locate the rest of it.
struct Shape {
    length: usize,
    descriptors: usize,
    descriptor_bytes: usize,
    sequence: u64,
}

/// Returns the sectors an entry with so many data descriptors takes.
pub(crate) fn sectors(pages: usize) -> usize {
    (HEADER + DESCRIPTOR * pages).div_ceil(PAGE) + pages
}

/// Encodes an entry of whole pages. `file_length` is what the file had when last synced.
pub(crate) fn encode(
    log_guid: Guid,
    sequence: u64,
    tail: u32,
    file_length: u64,
    pages: &[LoggedPage],
) -> Vec<u8> {
    let total = sectors(pages.len()) * PAGE;
    let mut entry = vec![0; total];
    entry.put(0, SIGNATURE);
    entry.put(8, &(total as u32).to_le_bytes());
    entry.put(12, &tail.to_le_bytes());
    entry.put(16, &sequence.to_le_bytes());
    entry.put(24, &(pages.len() as u32).to_le_bytes());
    entry.put(32, &log_guid.to_bytes());
    entry.put(48, &file_length.to_le_bytes());
    entry.put(56, &file_length.to_le_bytes());
    let data_start = total - pages.len() * PAGE;
    for (index, (at, page)) in pages.iter().enumerate() {
        let descriptor = HEADER + index * DESCRIPTOR;
        entry.put(descriptor, DATA_DESCRIPTOR);
        entry.put(descriptor + 4, &page[PAGE - 4..]);
        entry.put(descriptor + 8, &page[..8]);
        entry.put(descriptor + 16, &at.to_le_bytes());
        entry.put(descriptor + 24, &sequence.to_le_bytes());
        let data = data_start + index * PAGE;
        entry.put(data, DATA_SECTOR);
        entry.put(data + 4, &((sequence >> 32) as u32).to_le_bytes());
        entry.put(data + 8, &page[8..PAGE - 4]);
        entry.put(data + PAGE - 4, &(sequence as u32).to_le_bytes());
    }
    let crc = checksum(&entry);
    entry.put(4, &crc.to_le_bytes());
    entry
}

/// Decodes the entry that starts at sector `start` of the ring, or says that there is none.
///
/// `log` is where the ring lies in the file; no change may touch it. Signatures are checked before the
/// checksum is computed: a sector starts either an entry or a part of one, so that scanning a hostile
/// ring takes time linear in its length.
pub(crate) fn decode(ring: &[u8], start: usize, log_guid: Guid, log: &Range<u64>) -> Option<Entry> {
    let count = ring.len() / PAGE;
    let sector = |index: usize| &ring[(start + index) % count * PAGE..][..PAGE];
    let head = sector(0);
    let shape = Shape::decode(head, ring.len(), log_guid)?;
    for index in 1..shape.length / PAGE {
        let expected: &[&[u8; 4]] = match index * PAGE < shape.descriptor_bytes {
            true => &[DATA_DESCRIPTOR, ZERO_DESCRIPTOR],
            false => &[DATA_SECTOR],
        };
        if !expected.iter().any(|signature| sector(index).starts_with(*signature)) {
            return None;
        }
    }
    let mut bytes = Vec::with_capacity(shape.length);
    (0..shape.length / PAGE).for_each(|index| bytes.extend_from_slice(sector(index)));
    if bytes.u32(4) != checksum(&bytes) {
        return None;
    }
    let last_file_offset = bytes.u64(56);
    let tail = bytes.u32(12);
    if tail as usize >= ring.len() || !(tail as usize).is_multiple_of(PAGE) {
        return None;
    }
    let mut changes = Vec::with_capacity(shape.descriptors);
    let mut data = bytes[shape.descriptor_bytes..].chunks_exact(PAGE);
    for descriptor in bytes[HEADER..].chunks_exact(DESCRIPTOR).take(shape.descriptors) {
        let change = decode_change(descriptor, &mut data, shape.sequence)?;
        let target = change.target();
        let limit = last_file_offset.checked_next_multiple_of(MIB)?;
        if target.start < FIRST_TARGET || target.end > limit || overlap(&target, log) {
            return None;
        }
        changes.push(change);
    }
    if data.next().is_some() {
        return None;
    }
    Some(Entry {
        sequence: shape.sequence,
        tail,
        length: shape.length as u32,
        flushed_file_offset: bytes.u64(48),
        last_file_offset,
        changes,
    })
}

impl Shape {
    fn decode(head: &[u8], ring_length: usize, log_guid: Guid) -> Option<Self> {
        let (length, descriptors) = (head.u32(8) as usize, head.u32(24) as usize);
        let sequence = head.u64(16);
        let valid = head.starts_with(SIGNATURE)
            && head.guid(32) == log_guid
            && sequence > 0
            && length.is_multiple_of(PAGE)
            && length < ring_length;
        let descriptor_bytes = descriptors.checked_mul(DESCRIPTOR)?.checked_add(HEADER)?;
        let descriptor_bytes = descriptor_bytes.checked_next_multiple_of(PAGE)?;
        (valid && descriptor_bytes <= length).then_some(Self {
            length,
            descriptors,
            descriptor_bytes,
            sequence,
        })
    }
}

impl Change {
    fn target(&self) -> Range<u64> {
        match self {
            Self::Page(at, _) => *at..at.saturating_add(PAGE as u64),
            Self::Zeros(range) => range.clone(),
        }
    }
}

fn decode_change<'a>(
    descriptor: &[u8],
    data: &mut impl Iterator<Item = &'a [u8]>,
    sequence: u64,
) -> Option<Change> {
    let at = descriptor.u64(16);
    if !at.is_multiple_of(PAGE as u64) || descriptor.u64(24) != sequence {
        return None;
    }
    if descriptor.starts_with(ZERO_DESCRIPTOR) {
        let length = descriptor.u64(8);
        let whole_pages = length.is_multiple_of(PAGE as u64);
        return whole_pages.then_some(Change::Zeros(at..at.checked_add(length)?));
    }
    if !descriptor.starts_with(DATA_DESCRIPTOR) {
        return None;
    }
    let sector = data.next()?;
    let (high, low) = (sector.u32(4), sector.u32(PAGE - 4));
    if u64::from(high) << 32 | u64::from(low) != sequence {
        return None;
    }
    let mut page = Box::new([0; PAGE]);
    page.put(0, &descriptor[8..16]);
    page.put(8, &sector[8..PAGE - 4]);
    page.put(PAGE - 4, &descriptor[4..8]);
    Some(Change::Page(at, page))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Range<u64> = MIB..2 * MIB;

    fn pages(count: usize) -> Vec<LoggedPage> {
        (0..count).map(|n| ((5 + n as u64) << 20, Box::new([n as u8 ^ 0x5A; PAGE]))).collect()
    }

    fn ring_with(entry: &[u8], start: usize) -> Vec<u8> {
        let mut ring = vec![0; MIB as usize];
        for (index, sector) in entry.chunks_exact(PAGE).enumerate() {
            ring.put((start + index) % 256 * PAGE, sector);
        }
        ring
    }

    #[test]
    fn an_entry_survives_a_round_trip_even_wrapped() {
        for (count, start) in [(0, 0), (1, 0), (126, 7), (127, 0), (150, 200)] {
            let guid = Guid::random();
            let pages = pages(count);
            let bytes = encode(guid, 0x1_2345_6789, 0, 1 << 30, &pages);
            assert_eq!(bytes.len(), sectors(count) * PAGE);
            let entry = decode(&ring_with(&bytes, start), start, guid, &LOG).unwrap();
            assert_eq!(entry.sequence, 0x1_2345_6789);
            let expected: Vec<_> =
                pages.into_iter().map(|(at, page)| Change::Page(at, page)).collect();
            assert_eq!(entry.changes, expected);
        }
    }

    #[test]
    fn another_session_s_entry_is_none() {
        let bytes = encode(Guid::random(), 1, 0, 1 << 30, &pages(2));
        assert_eq!(decode(&ring_with(&bytes, 0), 0, Guid::random(), &LOG), None);
    }

    #[test]
    fn any_changed_byte_makes_it_none() {
        let guid = Guid::random();
        let bytes = encode(guid, 9, 0, 1 << 30, &pages(2));
        for at in (0..bytes.len()).step_by(13) {
            let mut torn = bytes.clone();
            torn[at] ^= 0x10;
            assert_eq!(decode(&ring_with(&torn, 0), 0, guid, &LOG), None, "byte {at}");
        }
    }

    #[track_caller]
    fn refused_target(at: u64, file_length: u64) {
        let guid = Guid::random();
        let bytes = encode(guid, 9, 0, file_length, &[(at, Box::new([1; PAGE]))]);
        assert_eq!(decode(&ring_with(&bytes, 0), 0, guid, &LOG), None);
    }

    #[test]
    fn targets_outside_the_file_or_in_header_or_log_are_refused() {
        refused_target(64 * 1024, 1 << 30);
        refused_target(MIB, 1 << 30);
        refused_target(5 * MIB, 5 * MIB);
        refused_target(!4095, 1 << 30);
        refused_target(5 * MIB + 1, 1 << 30);
    }
}
