//! Replaying the log after a crash: in memory for readers, on disk for writers.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::super::header::Header;
use super::super::{MAX_FILE, MIB, PAGE, overlap};
use super::entry::{self, Change, Entry};
use crate::error::{During, Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::storage::Storage;

/// Larger dirty logs are refused: scanning takes memory.
const MAX_LOG: u32 = 64 * MIB as u32;

/// A file seen as it will be once its log is replayed. The file itself is not changed.
pub(crate) struct Replayed {
    file: Arc<dyn Storage>,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
    zeros: Vec<Range<u64>>,
    length: u64,
}

impl Replayed {
    /// Reads the log and gathers what it says; `None` when the file was closed cleanly.
    pub fn read(file: &Arc<dyn Storage>, header: &Header) -> Result<Option<Self>> {
        if header.log_guid == Guid::NIL {
            return Ok(None);
        }
        if header.log_length > MAX_LOG {
            let message = format!("a log of {} bytes needs a replay", header.log_length);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let file_length = file.len().during("read the file's length")?;
        let log = header.log_offset..header.log_offset + u64::from(header.log_length);
        if log.end > file_length {
            return Err(Error::corrupt("the log lies past the end of the file"));
        }
        let mut ring = vec![0; header.log_length as usize];
        file.read_at(log.start, &mut ring).during("read the log")?;
        let entries = active_sequence(&ring, header.log_guid, &log)
            .ok_or_else(|| Error::corrupt("the log is in use but holds no complete entry"))?;

        let last = entries.last().expect("a sequence holds at least one entry");
        if file_length < last.flushed_file_offset {
            return Err(Error::corrupt("the file was cut off after its log was written"));
        }
        if last.last_file_offset > MAX_FILE {
            return Err(Error::corrupt("the log wants a file larger than any disk"));
        }
        let length = file_length.max(last.last_file_offset.next_multiple_of(MIB));
        let mut replayed =
            Self { file: file.clone(), pages: BTreeMap::new(), zeros: Vec::new(), length };
        entries.into_iter().flat_map(|entry| entry.changes).for_each(|c| replayed.apply(c));
        Ok(Some(replayed))
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Page(at, page) => {
                self.pages.insert(at, page);
            }
            Change::Zeros(range) => {
                let covered: Vec<u64> =
                    self.pages.range(range.clone()).map(|page| *page.0).collect();
                covered.iter().for_each(|at| drop(self.pages.remove(at)));
                self.zeros.push(range);
            }
        }
    }

    /// Writes everything to the file and syncs it. A crash on the way repeats the replay.
    pub fn write_back(&self) -> Result<()> {
        if self.file.len().during("read the file's length")? < self.length {
            self.file.set_len(self.length).during("grow the file")?;
        }
        for range in &self.zeros {
            self.file.punch_hole(range.start, range.end - range.start).during("replay the log")?;
        }
        for (at, page) in &self.pages {
            self.file.write_at(*at, page.as_slice()).during("replay the log")?;
        }
        self.file.sync().during("sync after the log's replay")
    }
}

impl Storage for Replayed {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let wanted = offset..offset.saturating_add(buffer.len() as u64);
        if wanted.end > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let in_file = self.file.len()?.clamp(wanted.start, wanted.end) - offset;
        let (from_file, grown) = buffer.split_at_mut(in_file as usize);
        // The storage itself refuses to read past its end, be it nothing.
        if !from_file.is_empty() {
            self.file.read_at(offset, from_file)?;
        }
        grown.fill(0);
        for zeros in self.zeros.iter().filter(|zeros| overlap(zeros, &wanted)) {
            let (start, end) = (zeros.start.max(wanted.start), zeros.end.min(wanted.end));
            buffer[(start - offset) as usize..(end - offset) as usize].fill(0);
        }
        let first = wanted.start & !(PAGE as u64 - 1);
        for (&at, page) in self.pages.range(first..wanted.end) {
            let (start, end) = (at.max(wanted.start), (at + PAGE as u64).min(wanted.end));
            buffer[(start - offset) as usize..(end - offset) as usize]
                .copy_from_slice(&page[(start - at) as usize..(end - at) as usize]);
        }
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn punch_hole(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// Returns the entries to apply, oldest first: from the tail of the newest complete sequence to its end.
///
/// Entries do not share sectors, so each has at most one predecessor and the ring falls apart into chains.
fn active_sequence(ring: &[u8], guid: Guid, log: &Range<u64>) -> Option<Vec<Entry>> {
    // In the ring's order, so that a file with two equal claims is read the same every time.
    let mut entries: BTreeMap<usize, Entry> = (0..ring.len() / PAGE)
        .filter_map(|start| Some((start * PAGE, entry::decode(ring, start, guid, log)?)))
        .collect();
    let successor = |at: usize, entry: &Entry| {
        let next = (at + entry.length as usize) % ring.len();
        let follows = entries.get(&next)?.sequence == entry.sequence.checked_add(1)?;
        follows.then_some(next)
    };
    let successors: HashMap<usize, usize> =
        entries.iter().filter_map(|(&at, entry)| Some((at, successor(at, entry)?))).collect();
    let has_predecessor: std::collections::HashSet<usize> = successors.values().copied().collect();

    let mut best: Option<(u64, Vec<usize>)> = None;
    for &first in entries.keys().filter(|at| !has_predecessor.contains(at)) {
        let chain: Vec<usize> =
            std::iter::successors(Some(first), |at| successors.get(at).copied()).collect();
        let last = &entries[chain.last()?];
        let Some(tail) = chain.iter().position(|&at| at == last.tail as usize) else { continue };
        if best.as_ref().is_none_or(|(sequence, _)| last.sequence > *sequence) {
            best = Some((last.sequence, chain[tail..].to_vec()));
        }
    }
    let (_, chain) = best?;
    Some(chain.iter().filter_map(|at| entries.remove(at)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::super::bytes::FieldsMut;
    use super::*;
    use crate::storage::MemoryStorage;

    const TARGET: u64 = 2 * MIB;

    fn header(log_guid: Guid) -> Header {
        Header {
            sequence: 1,
            file_write_guid: Guid::NIL,
            data_write_guid: Guid::NIL,
            log_guid,
            log_offset: MIB,
            log_length: MIB as u32,
        }
    }

    /// A file whose log holds entries that fill the target page with `value`: (sector, sequence, tail, value).
    fn file(guid: Guid, entries: &[(usize, u64, usize, u8)]) -> Arc<dyn Storage> {
        let file = MemoryStorage::default();
        file.set_len(3 * MIB).unwrap();
        for &(sector, sequence, tail, value) in entries {
            let pages = [(TARGET, Box::new([value; PAGE]))];
            let bytes = entry::encode(guid, sequence, (tail * PAGE) as u32, 3 * MIB, &pages);
            file.write_at(MIB + (sector * PAGE) as u64, &bytes).unwrap();
        }
        Arc::new(file)
    }

    #[track_caller]
    fn replays_to(entries: &[(usize, u64, usize, u8)], expected: Option<u8>) {
        let guid = Guid::random();
        let file = file(guid, entries);
        let outcome = Replayed::read(&file, &header(guid));
        let Some(expected) = expected else {
            assert_eq!(outcome.err().unwrap().kind(), ErrorKind::Corrupt);
            return;
        };
        let replayed = outcome.unwrap().unwrap();
        let mut bytes = [0; 3];
        replayed.read_at(TARGET + PAGE as u64 - 2, &mut bytes).unwrap();
        assert_eq!(bytes, [expected, expected, 0]);
        replayed.write_back().unwrap();
        file.read_at(TARGET + PAGE as u64 - 2, &mut bytes).unwrap();
        assert_eq!(bytes, [expected, expected, 0]);
    }

    #[test]
    fn the_newest_complete_sequence_wins() {
        replays_to(&[(0, 1, 0, 1)], Some(1));
        replays_to(&[(0, 1, 0, 1), (2, 2, 0, 2)], Some(2));
        replays_to(&[(0, 7, 0, 1), (2, 2, 2, 2)], Some(1));
        replays_to(
            &[(250, 4, 250, 4), (252, 5, 250, 5), (254, 6, 252, 6), (0, 7, 254, 7)],
            Some(7),
        );
    }

    #[test]
    fn a_sequence_whose_tail_is_gone_does_not_count() {
        replays_to(&[(0, 9, 100, 1)], None);
        replays_to(&[(0, 9, 100, 1), (50, 3, 50, 3)], Some(3));
        replays_to(&[], None);
    }

    #[test]
    fn of_two_equal_claims_the_first_in_the_ring_counts_every_time() {
        for _ in 0..20 {
            replays_to(&[(7, 5, 7, 1), (2, 5, 2, 2), (90, 5, 90, 3)], Some(2));
        }
    }

    #[test]
    fn a_truncated_file_is_refused() {
        let guid = Guid::random();
        let file = file(guid, &[(0, 1, 0, 1)]);
        file.set_len(3 * MIB - 1).unwrap();
        assert!(Replayed::read(&file, &header(guid)).is_err());
    }

    #[test]
    fn zeros_hide_older_pages_and_not_newer_ones() {
        let file: Arc<dyn Storage> = Arc::new(MemoryStorage::new(vec![9; 4 * PAGE]));
        let mut replayed =
            Replayed { file, pages: BTreeMap::new(), zeros: Vec::new(), length: 5 * PAGE as u64 };
        let page = |value| Box::new([value; PAGE]);
        replayed.apply(Change::Page(0, page(1)));
        replayed.apply(Change::Zeros(0..2 * PAGE as u64));
        replayed.apply(Change::Page(PAGE as u64, page(2)));
        let mut bytes = vec![7; 5 * PAGE];
        replayed.read_at(0, &mut bytes).unwrap();
        let mut expected = vec![0; PAGE];
        expected.extend([2; PAGE]);
        expected.extend([9; 2 * PAGE]);
        expected.extend([0; PAGE]);
        assert!(bytes == expected);
        replayed.read_at(4 * PAGE as u64 + 1, &mut bytes[..PAGE - 1]).unwrap();
        assert_eq!(bytes[..PAGE - 1], [0; PAGE - 1]);
        assert!(replayed.read_at(1, &mut bytes).is_err());
    }

    #[test]
    fn a_ring_full_of_claims_is_scanned_quickly() {
        let guid = Guid::random();
        let mut ring = vec![0; MAX_LOG as usize];
        for sector in ring.chunks_exact_mut(PAGE) {
            sector.put(0, b"loge");
            sector.put(8, &(MAX_LOG - PAGE as u32).to_le_bytes());
            sector.put(16, &1u64.to_le_bytes());
            sector.put(32, &guid.to_bytes());
        }
        assert!(active_sequence(&ring, guid, &(0..1)).is_none());
    }
}
