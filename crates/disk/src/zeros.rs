//! Telling zeros from data, reading no more than is needed for it.

use std::ops::Range;

use crate::error::{During, Result};
use crate::storage::Storage;

/// What is read first: most data shows itself at once.
const PROBE: u64 = 64 * 1024;
const PART: usize = 4096;

/// Returns whether a range of a file holds nothing but zeros. `buffer` bounds what is read at once.
///
/// `looked_at` is told of the bytes behind it, and may stop the search by an error.
pub(crate) fn holds_zeros(
    storage: &dyn Storage,
    range: Range<u64>,
    buffer: &mut [u8],
    mut looked_at: impl FnMut(u64) -> Result<()>,
) -> Result<bool> {
    let (mut at, mut limit) = (range.start, PROBE.min(buffer.len() as u64));
    while let Some(chunk) = next_chunk(storage, at..range.end, limit)? {
        let bytes = &mut buffer[..(chunk.end - chunk.start) as usize];
        storage.read_at(chunk.start, bytes).during("look for zeros")?;
        if !all_zeros(bytes) {
            return Ok(false);
        }
        looked_at(chunk.end - at)?;
        at = chunk.end;
        limit = buffer.len() as u64;
    }
    looked_at(range.end - at)?;
    Ok(true)
}

/// Returns whether bytes are zeros, much faster than one by one.
pub(crate) fn all_zeros(bytes: &[u8]) -> bool {
    bytes.chunks(PART).all(|part| *part == [0; PART][..part.len()])
}

/// Returns the next bytes of a range that are no hole in the file, at most `limit` of them.
pub(crate) fn next_chunk(
    storage: &dyn Storage,
    range: Range<u64>,
    limit: u64,
) -> Result<Option<Range<u64>>> {
    if range.is_empty() {
        return Ok(None);
    }
    let data = storage.next_data(range.start).during("look for data")?;
    let chunk = data.map(|data| data.start..data.end.min(range.end).min(data.start + limit));
    Ok(chunk.filter(|chunk| chunk.start < range.end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FileStorage;

    #[test]
    fn one_byte_is_found_wherever_it_is_and_all_zeros_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let storage = FileStorage::create(&folder.path().join("file")).unwrap();
        storage.set_len(1 << 20).unwrap();
        // Zeros that are no hole, too.
        storage.write_at(300_000, &[0; 100_000]).unwrap();
        let mut buffer = vec![0; 100_000];
        let mut look = |range: Range<u64>| {
            let mut counted = 0;
            let zeros = holds_zeros(&storage, range.clone(), &mut buffer, |bytes| {
                counted += bytes;
                Ok(())
            });
            let zeros = zeros.unwrap();
            assert!(
                counted == range.end - range.start || (!zeros && counted < range.end - range.start)
            );
            zeros
        };
        assert!(look(0..1 << 20));
        for at in [0, 65_536, 399_999, 700_000, (1 << 20) - 1] {
            storage.write_at(at, &[1]).unwrap();
            assert!(!look(0..1 << 20) && !look(at..at + 1) && look(at + 1..1 << 20));
            storage.write_at(at, &[0]).unwrap();
        }
    }
}
