//! Ranges of a virtual disk, cut at the borders of its blocks.

/// A part of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub block: u64,
    /// First byte within the block.
    pub start: u64,
    /// In bytes; at least 1.
    pub length: u64,
}

/// Cuts a range at block borders; its end does not exceed what 64 bits hold.
pub(crate) fn pieces(block_size: u64, offset: u64, length: u64) -> impl Iterator<Item = Piece> {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        let (block, start) = (at / block_size, at % block_size);
        let length = (block_size - start).min(end - at);
        at += length;
        (length > 0).then_some(Piece { block, start, length })
    })
}
