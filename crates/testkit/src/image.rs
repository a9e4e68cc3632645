//! A sparse file in memory that is cheap to copy.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

const PAGE: u64 = 4096;

/// The bytes of a sparse file; pages that were never written, or were punched, take no memory.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pages: BTreeMap<u64, Arc<[u8; PAGE as usize]>>,
    length: u64,
}

impl Image {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Fills `buffer`; fails past the end.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, within, range) in cut(offset, buffer.len()) {
            match self.pages.get(&page) {
                Some(bytes) => {
                    buffer[range.clone()].copy_from_slice(&bytes[within..][..range.len()])
                }
                None => buffer[range].fill(0),
            }
        }
        Ok(())
    }

    /// Writes, growing where needed.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        for (page, within, range) in cut(offset, data.len()) {
            let bytes = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(bytes)[within..][..range.len()].copy_from_slice(&data[range]);
        }
        self.length = self.length.max(offset + data.len() as u64);
    }

    /// Cuts or grows with zeros.
    pub fn set_length(&mut self, length: u64) {
        if length < self.length {
            let lost = self.length - length;
            self.punch(length, lost);
            // The last page was punched in part where the file ended within it.
            self.pages.split_off(&length.div_ceil(PAGE));
        }
        self.length = length;
    }

    /// Makes a range zeros; what lies past the end is ignored.
    pub fn punch(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.length);
        let touched: Vec<u64> = match offset < end {
            true => {
                self.pages.range(offset / PAGE..end.div_ceil(PAGE)).map(|page| *page.0).collect()
            }
            false => Vec::new(),
        };
        for page in touched {
            let start = page * PAGE;
            let (from, to) = (offset.max(start) - start, end.min(start + PAGE) - start);
            if to - from == PAGE {
                self.pages.remove(&page);
            } else if let Some(bytes) = self.pages.get_mut(&page) {
                Arc::make_mut(bytes)[from as usize..to as usize].fill(0);
            }
        }
    }

    /// Returns the next bytes at or after `offset` that are no hole, up to the next hole.
    pub fn next_data(&self, offset: u64) -> Option<Range<u64>> {
        let mut pages = self.pages.range(offset / PAGE..).map(|page| *page.0);
        let first = pages.next()?;
        let last = (first + 1..).zip(pages).take_while(|(next, page)| next == page).last();
        let end = last.map_or(first, |(last, _)| last) + 1;
        let data = offset.max(first * PAGE)..(end * PAGE).min(self.length);
        (!data.is_empty()).then_some(data)
    }

    /// Offsets of the pages that hold something, in order.
    pub fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        self.pages.keys().map(|page| page * PAGE)
    }
}

/// Cuts a range at pages: page number, first byte in it, and the range of the buffer.
fn cut(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE) as usize;
        let step = (PAGE as usize - within).min(length - done);
        let range = done..done + step;
        done += step;
        (step > 0).then_some((at / PAGE, within, range))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn behaves_as_a_plain_array() {
        let (mut image, mut model, mut random) = (Image::default(), Vec::new(), Random::new(1));
        for _ in 0..2000 {
            let (at, length) = (random.below(40_000), random.below(10_000));
            let mut data = vec![0; length as usize];
            random.fill(&mut data);
            match random.below(8) {
                0 => {
                    image.set_length(at);
                    model.resize(at as usize, 0);
                }
                1 | 2 => {
                    image.punch(at, length);
                    let size = model.len() as u64;
                    model[at.min(size) as usize..(at + length).min(size) as usize].fill(0);
                }
                _ => {
                    image.write(at, &data);
                    let end = (at + length) as usize;
                    model.resize(model.len().max(end), 0);
                    model[at as usize..end].copy_from_slice(&data);
                }
            }
            let mut bytes = vec![1; model.len()];
            image.read(0, &mut bytes).unwrap();
            assert!(bytes == model);
            assert!(image.pages().all(|page| page < image.length()));
        }
    }

    #[test]
    fn data_and_holes_take_turns() {
        let mut image = Image::default();
        assert_eq!(image.next_data(0), None);
        image.write(2 * PAGE + 5, &[1; 2 * PAGE as usize]);
        image.set_length(10 * PAGE);
        image.write(10 * PAGE, &[1; 7]);
        assert_eq!(image.next_data(0), Some(2 * PAGE..5 * PAGE));
        assert_eq!(image.next_data(3 * PAGE + 1), Some(3 * PAGE + 1..5 * PAGE));
        assert_eq!(image.next_data(5 * PAGE), Some(10 * PAGE..10 * PAGE + 7));
        assert_eq!(image.next_data(10 * PAGE + 7), None);
    }
}
