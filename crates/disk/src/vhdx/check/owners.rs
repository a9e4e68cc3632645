//! Who has which MiB of the file: one bit each, so that any file costs little.

use std::ops::Range;

use super::super::MIB;
use crate::check::Space;

/// A set of MiB of a file.
struct Set {
    words: Vec<u64>,
}

/// What metadata and what blocks lie in.
pub(super) struct Owners {
    metadata: Set,
    blocks: Set,
    file_length: u64,
}

/// What a place in the file that a block claims was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Free,
    Metadata,
    /// At least in part.
    Block,
}

impl Owners {
    /// `reserved` are the log and the regions. The file has at most [`super::super::MAX_FILE`] bytes.
    pub fn new(file_length: u64, reserved: &[Range<u64>]) -> Self {
        let mut owners =
            Self { metadata: Set::new(file_length), blocks: Set::new(file_length), file_length };
        owners.metadata.insert(&(0..MIB));
        reserved.iter().for_each(|range| owners.metadata.insert(range));
        owners
    }

    /// Looks at a place for a block; it begins and ends within the file.
    pub fn before(&self, place: &Range<u64>) -> Before {
        if self.metadata.touches(place) {
            Before::Metadata
        } else if self.blocks.touches(place) {
            Before::Block
        } else {
            Before::Free
        }
    }

    /// Gives a place to a block.
    pub fn claim(&mut self, place: &Range<u64>) {
        self.blocks.insert(place);
    }

    /// Sums up.
    pub fn space(&self) -> Space {
        let mut space = Space { file_length: self.file_length, ..Space::default() };
        let mut free_from = None;
        for mib in 0..self.file_length.div_ceil(MIB) {
            let used = self.metadata.has(mib) || self.blocks.has(mib);
            match (used, free_from) {
                (false, None) => free_from = Some(mib * MIB),
                (true, Some(start)) => {
                    space.add_free(start..mib * MIB);
                    free_from = None;
                }
                _ => {}
            }
        }
        if let Some(start) = free_from {
            space.add_free(start..self.file_length);
        }
        space.used = space.file_length - space.leaked;
        space
    }
}

impl Set {
    fn new(file_length: u64) -> Self {
        Self { words: vec![0; file_length.div_ceil(MIB).div_ceil(64) as usize] }
    }

    fn has(&self, mib: u64) -> bool {
        self.words[mib as usize / 64] >> (mib % 64) & 1 != 0
    }

    fn insert(&mut self, range: &Range<u64>) {
        for (word, mask) in masks(range) {
            // The file's last MiB may be begun only.
            if let Some(word) = self.words.get_mut(word) {
                *word |= mask;
            }
        }
    }

    fn touches(&self, range: &Range<u64>) -> bool {
        masks(range).any(|(word, mask)| self.words.get(word).is_some_and(|word| word & mask != 0))
    }
}

/// Cuts a range of bytes into words of 64 MiB: index, and the bits in it.
fn masks(range: &Range<u64>) -> impl Iterator<Item = (usize, u64)> + use<> {
    let (start, end) = (range.start / MIB, range.end.div_ceil(MIB));
    (start / 64..end.div_ceil(64)).map(move |word| {
        let (from, to) = (start.max(word * 64) % 64, (end - word * 64).min(64));
        (word as usize, u64::MAX << from & u64::MAX >> (64 - to))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_is_the_sum_of_its_words() {
        for (start, end) in [(0, 1), (0, 64), (63, 65), (1, 300), (64, 128), (127, 128), (5, 5)] {
            let mut set = Set::new(400 * MIB);
            set.insert(&(start * MIB..end * MIB));
            let inside: Vec<u64> = (0..400).filter(|mib| set.has(*mib)).collect();
            assert_eq!(inside, (start..end).collect::<Vec<_>>());
            assert_eq!(set.touches(&(0..400 * MIB)), start < end);
        }
    }

    #[test]
    fn what_belongs_to_nothing_is_free_up_to_the_last_byte() {
        let mut owners = Owners::new(10 * MIB + 5, std::slice::from_ref(&(MIB..3 * MIB)));
        owners.claim(&(4 * MIB..6 * MIB));
        assert_eq!(owners.before(&(5 * MIB..7 * MIB)), Before::Block);
        assert_eq!(owners.before(&(2 * MIB..5 * MIB)), Before::Metadata);
        assert_eq!(owners.before(&(6 * MIB..9 * MIB)), Before::Free);
        let space = owners.space();
        assert_eq!(space.free, [3 * MIB..4 * MIB, 6 * MIB..10 * MIB + 5]);
        assert_eq!((space.used, space.leaked), (5 * MIB, 5 * MIB + 5));
    }
}
