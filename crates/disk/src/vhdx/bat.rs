//! The block allocation table: arithmetic and entries.
//!
//! ```text
//!   payload 0 … payload r-1 │ bitmap 0 │ payload r … payload 2r-1 │ bitmap 1 │ …      r = chunk ratio
//!
//!   entry:  63 ─────────── 20 │ 19 ── 3 │ 2 ─ 0
//!           offset in MiB     │ 0       │ state
//! ```
//! Source: [MS-VHDX] 2.5.

use std::num::NonZeroU64;

use super::MIB;
use crate::error::{Error, Result};
pub(crate) use crate::piece::Piece;
use crate::piece::pieces;

/// Sectors that one 1 MiB bitmap block describes.
const SECTORS_PER_CHUNK: u64 = 1 << 23;

/// How a virtual disk is cut into blocks and chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub virtual_size: u64,
    pub block_size: u64,
    pub sector: u64,
    chunk_ratio: NonZeroU64,
}

/// What a payload entry says; offsets are bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    NotPresent,
    Undefined,
    Zero,
    Unmapped,
    Full(u64),
    Partial(u64),
}

impl Layout {
    /// The parameters were checked by [`super::metadata::check`].
    pub fn new(virtual_size: u64, block_size: u32, sector: u32) -> Self {
        let (block_size, sector) = (u64::from(block_size), u64::from(sector));
        let chunk_ratio = NonZeroU64::new(SECTORS_PER_CHUNK * sector / block_size);
        let chunk_ratio =
            chunk_ratio.expect("a block is at most 256 MiB and a chunk at least 4 GiB");
        Self { virtual_size, block_size, sector, chunk_ratio }
    }

    /// Number of payload blocks; the last may reach past the disk.
    pub fn blocks(&self) -> u64 {
        self.virtual_size.div_ceil(self.block_size)
    }

    /// Number of payload blocks in a chunk.
    pub fn chunk_ratio(&self) -> u64 {
        self.chunk_ratio.get()
    }

    fn chunks(&self) -> u64 {
        self.blocks().div_ceil(self.chunk_ratio.get())
    }

    /// Number of BAT entries of a differencing disk: up to the last chunk's bitmap entry.
    pub fn differencing_entries(&self) -> u64 {
        self.chunks() * (self.chunk_ratio.get() + 1)
    }

    /// Number of BAT entries of a disk without parent: up to the last payload entry.
    pub fn dynamic_entries(&self) -> u64 {
        self.payload_slot(self.blocks() - 1) + 1
    }

    /// Returns the BAT slot of payload block `block`.
    ///
    /// One sector-bitmap entry follows every `chunk_ratio` payload entries, so the slot runs ahead of
    /// the block number by one for each full chunk before it.
    pub fn payload_slot(&self, block: u64) -> u64 {
        block + block / self.chunk_ratio
    }

    /// Returns the payload block whose entry a BAT slot holds; `None` for a bitmap entry.
    pub fn block_of(&self, slot: u64) -> Option<u64> {
        let chunk = slot / (self.chunk_ratio.get() + 1);
        (!self.is_bitmap_slot(slot)).then_some(slot - chunk)
    }

    /// Returns the BAT slot of the bitmap block that describes payload block `block`.
    pub fn bitmap_slot(&self, block: u64) -> u64 {
        let chunk = block / self.chunk_ratio;
        chunk * (self.chunk_ratio.get() + 1) + self.chunk_ratio.get()
    }

    /// Returns whether a BAT slot holds a bitmap entry.
    pub fn is_bitmap_slot(&self, slot: u64) -> bool {
        slot % (self.chunk_ratio.get() + 1) == self.chunk_ratio.get()
    }

    pub fn sectors_per_block(&self) -> u64 {
        self.block_size / self.sector
    }

    /// Returns the number of a block's first sector within its chunk: its first bit in the bitmap block.
    pub fn first_bit(&self, block: u64) -> u64 {
        block % self.chunk_ratio * self.sectors_per_block()
    }

    /// Bytes of the virtual disk in a block: less than a block for the last one.
    pub fn bytes_in(&self, block: u64) -> u64 {
        self.block_size.min(self.virtual_size - block * self.block_size)
    }

    /// Cuts a range of the virtual disk at block borders. The range lies within the disk.
    pub fn pieces(&self, offset: u64, length: u64) -> impl Iterator<Item = Piece> + use<> {
        pieces(self.block_size, offset, length)
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

impl Payload {
    /// Reads an entry. Bounds of the offset are the caller's to check.
    ///
    /// State 5 is what drafts of the format called "unmapped"; 4 was never used.
    pub fn decode(entry: u64) -> Result<Self> {
        let offset = entry & !(MIB - 1);
        match entry & 7 {
            0 => Ok(Self::NotPresent),
            1 => Ok(Self::Undefined),
            2 => Ok(Self::Zero),
            3 | 5 => Ok(Self::Unmapped),
            6 => Ok(Self::Full(offset)),
            7 => Ok(Self::Partial(offset)),
            state => Err(Error::corrupt(format!("a BAT entry has reserved state {state}"))),
        }
    }

    pub fn encode(self) -> u64 {
        match self {
            Self::NotPresent => 0,
            Self::Undefined => 1,
            Self::Zero => 2,
            Self::Unmapped => 3,
            Self::Full(offset) => offset | 6,
            Self::Partial(offset) => offset | 7,
        }
    }
}

/// Returns the offset of a bitmap block that is present. 7 is tolerated for 6, as other readers do.
pub(super) fn decode_bitmap(entry: u64) -> Result<Option<u64>> {
    match entry & 7 {
        0 => Ok(None),
        6 | 7 => Ok(Some(entry & !(MIB - 1))),
        state => Err(Error::corrupt(format!("a bitmap entry has reserved state {state}"))),
    }
}

/// The entry of a bitmap block that is present.
pub(super) fn encode_bitmap(offset: u64) -> u64 {
    offset | 6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn ratio(sector: u32, block_mib: u32, expected: u64) {
        assert_eq!(Layout::new(1 << 40, block_mib << 20, sector).chunk_ratio.get(), expected);
    }

    #[test]
    fn chunk_ratios_are_those_of_the_specification() {
        ratio(512, 1, 4096);
        ratio(512, 2, 2048);
        ratio(512, 32, 128);
        ratio(512, 256, 16);
        ratio(4096, 1, 32768);
    }

    #[test]
    fn slots_step_over_the_bitmap_entries() {
        let layout = Layout::new(10 << 30, 32 << 20, 512);
        assert_eq!((layout.blocks(), layout.chunks()), (320, 3));
        assert_eq!(layout.payload_slot(127), 127);
        assert_eq!(layout.bitmap_slot(127), 128);
        assert_eq!(layout.payload_slot(128), 129);
        assert_eq!(layout.bitmap_slot(319), 2 * 129 + 128);
        assert_eq!(layout.dynamic_entries(), 320 + 2);
        assert_eq!(layout.differencing_entries(), 3 * 129);
        assert!(layout.is_bitmap_slot(128) && !layout.is_bitmap_slot(129));
        assert!((0..320).all(|block| layout.block_of(layout.payload_slot(block)) == Some(block)));
        assert_eq!(layout.block_of(257), None);
    }

    #[test]
    fn pieces_cover_the_range_and_respect_blocks() {
        let layout = Layout::new(5 * MIB + 512, 1 << 20, 512);
        let pieces: Vec<_> = layout.pieces(MIB - 1, MIB + 2).collect();
        let expected = [(0, MIB - 1, 1), (1, 0, MIB), (2, 0, 1)];
        assert_eq!(pieces, expected.map(|(block, start, length)| Piece { block, start, length }));
        assert!(layout.is_whole(&pieces[1]) && !layout.is_whole(&pieces[0]));
        assert!(layout.is_whole(&Piece { block: 5, start: 0, length: 512 }));
        assert_eq!(layout.pieces(17, 0).count(), 0);
    }

    #[test]
    fn entries_survive_a_round_trip_and_reserved_states_are_refused() {
        for state in [Payload::NotPresent, Payload::Undefined, Payload::Zero, Payload::Unmapped]
            .into_iter()
            .chain([Payload::Full(7 * MIB), Payload::Partial(1 << 50)])
        {
            assert_eq!(Payload::decode(state.encode()).unwrap(), state);
        }
        assert!(Payload::decode(4).is_err());
        assert!(decode_bitmap(1).is_err());
    }
}
