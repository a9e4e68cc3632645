//! One file of a chain: what formats have in common.

use std::ops::Range;

use crate::error::Result;

/// Where a run of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In this file, at this offset.
    Here(u64),
    /// Nowhere; it is zeros by this layer's word.
    Zero,
    /// In the parent, if there is one.
    Below,
}

/// Bytes of the virtual disk that lie in one place; runs follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// In bytes, at least 1.
    pub length: u64,
    pub place: Place,
}

/// The layers under a writable one, read as a disk.
pub(crate) trait Below {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
    /// Whether the range is known to read as zeros without reading it.
    fn is_zero(&self, range: Range<u64>) -> Result<bool>;
}

/// Why a range becomes zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clearing {
    /// The guest wants zeros: every byte.
    Zeroes,
    /// The guest no longer cares: whole blocks, and parts where it is free of cost.
    Discard,
}
