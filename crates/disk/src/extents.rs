//! Walking along a disk's extents, to read what is data: whoever the disk is, and not where its files have holes.

use std::collections::VecDeque;

use crate::disk::{Disk, Extent};
use crate::error::{Error, Result};

/// How many are asked for at once.
const AT_ONCE: usize = 4096;

/// The extents of a disk in order, asked for as they are needed.
pub(crate) struct Extents<'a> {
    disk: &'a dyn Disk,
    /// Up to where it was asked, in bytes.
    asked: u64,
    known: VecDeque<Extent>,
}

impl<'a> Extents<'a> {
    pub fn new(disk: &'a dyn Disk) -> Self {
        Self { disk, asked: 0, known: VecDeque::new() }
    }

    /// Returns the next extent without taking it; `None` at the end of the disk.
    pub fn peek(&mut self) -> Result<Option<Extent>> {
        let size = self.disk.geometry().virtual_size;
        if self.known.is_empty() && self.asked < size {
            let extents = self.disk.extents_and_holes(self.asked, size - self.asked, AT_ONCE)?;
            let nothing = || Error::corrupt(format!("nothing is known of byte {:#x}", self.asked));
            let last = extents.last().ok_or_else(nothing)?;
            self.asked = last.offset + last.length;
            self.known = extents.into();
        }
        Ok(self.known.front().copied())
    }

    /// Takes what lies before `end` of the next extent; `None` when nothing does.
    pub fn take(&mut self, end: u64) -> Result<Option<Extent>> {
        let Some(next) = self.peek()?.filter(|next| next.offset < end) else { return Ok(None) };
        let length = next.length.min(end - next.offset);
        match length == next.length {
            true => drop(self.known.pop_front()),
            false => {
                let (offset, length) = (next.offset + length, next.length - length);
                self.known[0] = Extent { offset, length, ..next };
            }
        }
        Ok(Some(Extent { length, ..next }))
    }
}
