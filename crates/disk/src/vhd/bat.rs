//! The block allocation table: arithmetic and entries.
//!
//! ```text
//!   entry b ──► sector number of block b in the file, or all ones: not there
//!
//!   block   │ sector bitmap, whole sectors │ data, block size │
//! ```

use super::SECTOR;
use crate::piece::{Piece, pieces};

/// Bytes of an entry.
pub(super) const ENTRY: u64 = 4;
const ABSENT: u32 = u32::MAX;

/// How a virtual disk is cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub virtual_size: u64,
    pub block_size: u64,
    /// Bytes that the bitmap takes before a block's data: whole sectors.
    pub bitmap_size: u64,
}

impl Layout {
    /// The parameters were checked by the footer and the header that they are from.
    pub fn new(virtual_size: u64, block_size: u32) -> Self {
        let block_size = u64::from(block_size);
        let bitmap_size = (block_size / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
        Self { virtual_size, block_size, bitmap_size }
    }

    /// Number of blocks; the last may reach past the disk.
    pub fn blocks(&self) -> u64 {
        self.virtual_size.div_ceil(self.block_size)
    }

    /// Bytes of the table that has an entry for each block.
    pub fn table_length(&self) -> u64 {
        (self.blocks() * ENTRY).next_multiple_of(SECTOR)
    }

    /// Bytes of the file that a block takes with its bitmap.
    pub fn span(&self) -> u64 {
        self.bitmap_size + self.block_size
    }

    /// Bytes of the virtual disk in a block: less than a block for the last one.
    pub fn bytes_in(&self, block: u64) -> u64 {
        self.block_size.min(self.virtual_size - block * self.block_size)
    }

    /// Cuts a range of the virtual disk at block borders. The range lies within the disk.
    pub fn pieces(&self, offset: u64, length: u64) -> impl Iterator<Item = Piece> + use<> {
        pieces(self.block_size, offset, length)
    }

    /// All of a block that belongs to the disk.
    pub fn whole(&self, block: u64) -> Piece {
        Piece { block, start: 0, length: self.bytes_in(block) }
    }

    /// Returns where a piece starts on the virtual disk.
    pub fn offset_of(&self, piece: &Piece) -> u64 {
        piece.block * self.block_size + piece.start
    }

    /// Returns whether a piece is all of its block that belongs to the disk.
    pub fn is_whole(&self, piece: &Piece) -> bool {
        piece.start == 0 && piece.length == self.bytes_in(piece.block)
    }
}

/// Returns the offset in the file of the block that an entry names; `None` when it is not there.
pub(super) fn decode(entry: u32) -> Option<u64> {
    (entry != ABSENT).then(|| u64::from(entry) * SECTOR)
}

/// The entry of a block at this offset: a multiple of 512, below 2 TiB.
pub(super) fn encode(at: Option<u64>) -> u32 {
    at.map_or(ABSENT, |at| (at / SECTOR) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_take_whole_sectors() {
        let bitmap = |block_size| Layout::new(1 << 30, block_size).bitmap_size;
        assert_eq!([512, 4096, 512 << 10, 2 << 20].map(bitmap), [512; 4]);
        assert_eq!([4 << 20, 32 << 20].map(bitmap), [1024, 8192]);
    }

    #[test]
    fn the_last_block_may_be_cut_off_and_the_table_is_whole_sectors() {
        let layout = Layout::new((5 << 20) + 512, 2 << 20);
        assert_eq!((layout.blocks(), layout.table_length()), (3, 512));
        assert!(layout.is_whole(&Piece { block: 2, start: 0, length: (1 << 20) + 512 }));
        assert!(!layout.is_whole(&Piece { block: 1, start: 0, length: (1 << 20) + 512 }));
    }

    #[test]
    fn entries_survive_a_round_trip() {
        for at in [None, Some(1536), Some((1 << 41) - 1024)] {
            assert_eq!(decode(encode(at)), at);
        }
    }
}
