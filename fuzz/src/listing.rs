//! What a guest lists of a file system.

use ireko_protocol::listing::{Listed, compare};
use std::cmp::Ordering;

/// All of it is the listing.
pub fn run(data: &[u8]) {
    let mut rest = data;
    let mut last: Option<Listed> = None;
    while let Ok(Some((entry, length))) = Listed::decode(rest) {
        let mut again = Vec::new();
        entry.encode(&mut again).expect("a path that was read can be written");
        assert_eq!(again, rest[..length]);
        if let Some(last) = last {
            let order = compare(&last.path, &entry.path);
            assert_eq!(order, compare(&entry.path, &last.path).reverse());
            assert_eq!(order == Ordering::Equal, last.path == entry.path);
        }
        last = Some(entry);
        rest = &rest[length..];
    }
}
