//! Any bytes of a zip archive.

use ireko_zip::{Archive, Error};

/// Bytes that are unpacked at most of all entries together: what inflates to more only takes time.
const MAX_PLAIN: u64 = 8 << 20;

/// An archive, as it is.
pub fn run(data: &[u8]) {
    let Ok(archive) = Archive::open(data.to_vec()) else { return };
    let mut left = MAX_PLAIN;
    // None shares bytes with another, so there are no more than the archive has.
    let compressed: u64 = archive.entries().iter().map(|entry| entry.compressed).sum();
    assert!(compressed <= data.len() as u64);
    for entry in archive.entries() {
        let mut seen = 0;
        let outcome = archive.read(entry, &mut |at, piece| {
            assert_eq!(at, seen);
            seen += piece.len() as u64;
            assert!(seen <= entry.length);
            left = left.checked_sub(piece.len() as u64).ok_or_else(enough)?;
            Ok::<_, Error>(())
        });
        assert!(outcome.is_err() || seen == entry.length);
    }
}

fn enough() -> Error {
    Error::Malformed("enough".to_owned())
}
