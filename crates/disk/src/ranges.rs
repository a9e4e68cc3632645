//! A set of bytes of a disk, as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges of bytes; neighbours are one.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    /// Start to end.
    map: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds a range that shares no byte with those there.
    pub fn add(&mut self, range: Range<u64>) {
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &its_end)) = self.map.range(..start).next_back()
            && its_end == start
        {
            start = before;
        }
        if let Some(after) = self.map.remove(&end) {
            end = after;
        }
        self.map.insert(start, end);
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Takes all ranges, in order.
    pub fn take(&mut self) -> impl Iterator<Item = Range<u64>> + use<> {
        std::mem::take(&mut self.map).into_iter().map(|(start, end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_one_in_any_order() {
        let mut ranges = Ranges::default();
        for start in [7, 1, 3, 2, 9, 8] {
            ranges.add(start * 10..start * 10 + 10);
        }
        assert_eq!(ranges.len(), 2);
        assert_eq!(ranges.take().collect::<Vec<_>>(), [10..40, 70..100]);
        assert_eq!(ranges.len(), 0);
    }
}
