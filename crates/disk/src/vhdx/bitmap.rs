//! Bits of sector bitmaps, lowest bit of a byte first.
//!
//! Source: [MS-VHDX] 2.5.1.2.

use std::ops::Range;

use super::PAGE;

/// Sectors that one page of a bitmap block describes.
pub(super) const BITS_PER_PAGE: u64 = PAGE as u64 * 8;

/// Cuts a range of bits of a bitmap block at page borders: page number, and the bits within that page.
pub(super) fn by_page(bits: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    (bits.start / BITS_PER_PAGE..bits.end.div_ceil(BITS_PER_PAGE)).map(move |page| {
        let base = page * BITS_PER_PAGE;
        (page, bits.start.max(base) - base..bits.end.min(base + BITS_PER_PAGE) - base)
    })
}

/// Calls `visit(value, count)` for each run of equal bits, in order.
pub(super) fn runs(page: &[u8; PAGE], bits: Range<u64>, mut visit: impl FnMut(bool, u64)) {
    let mut at = bits.start;
    while at < bits.end {
        let value = page[at as usize / 8] >> (at % 8) & 1 != 0;
        let start = at;
        while at < bits.end {
            let word_at = at as usize / 64 * 8;
            let bytes = page[word_at..word_at + 8].try_into().expect("eight bytes");
            let word = u64::from_le_bytes(bytes) >> (at % 64);
            let left_in_word = 64 - at % 64;
            let equal = if value { word.trailing_ones() } else { word.trailing_zeros() };
            let step = u64::from(equal).min(left_in_word);
            at += step;
            if step < left_in_word {
                break;
            }
        }
        at = at.min(bits.end);
        visit(value, at - start);
    }
}

/// Gives every bit of the range the same value.
pub(super) fn fill(page: &mut [u8; PAGE], bits: Range<u64>, value: bool) {
    if bits.is_empty() {
        return;
    }
    let Edges { first, last, head, tail } = Edges::of(&bits);
    let mut apply = |at: usize, mask: u8| match value {
        true => page[at] |= mask,
        false => page[at] &= !mask,
    };
    if first == last {
        return apply(first, head & tail);
    }
    apply(first, head);
    apply(last, tail);
    page[first + 1..last].fill(if value { 0xFF } else { 0 });
}

/// Returns whether no bit of the range is 0.
pub(super) fn is_full(page: &[u8; PAGE], bits: Range<u64>) -> bool {
    if bits.is_empty() {
        return true;
    }
    let Edges { first, last, head, tail } = Edges::of(&bits);
    if first == last {
        return page[first] & head & tail == head & tail;
    }
    page[first] & head == head
        && page[last] & tail == tail
        && page[first + 1..last].iter().all(|byte| *byte == 0xFF)
}

/// The first and the last byte of a range that is not empty, and which of their bits belong to it.
struct Edges {
    first: usize,
    last: usize,
    head: u8,
    tail: u8,
}

impl Edges {
    fn of(bits: &Range<u64>) -> Self {
        let last = bits.end - 1;
        Self {
            first: bits.start as usize / 8,
            last: last as usize / 8,
            head: 0xFF << (bits.start % 8),
            tail: 0xFF >> (7 - last % 8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_runs_and_is_full_agree_with_a_plain_model() {
        let ranges =
            [0..1, 5..9, 63..64, 64..128, 100..300, 0..32768, 32760..32768, 511..513, 7..7];
        let mut page = Box::new([0; PAGE]);
        let mut model = vec![false; BITS_PER_PAGE as usize];
        for (index, range) in ranges.into_iter().cycle().take(40).enumerate() {
            let value = index % 3 != 1;
            fill(&mut page, range.clone(), value);
            model[range.start as usize..range.end as usize].fill(value);

            let mut seen = Vec::new();
            runs(&page, 3..32001, |value, count| {
                assert!(count > 0);
                seen.extend(std::iter::repeat_n(value, count as usize));
            });
            assert_eq!(seen, model[3..32001]);
            for look in [0..1, 5..9, 100..300, 120..280, 65..127, 0..32768, 9..9] {
                let expected = model[look.start as usize..look.end as usize].iter().all(|bit| *bit);
                assert_eq!(is_full(&page, look), expected);
            }
        }
    }

    #[test]
    fn runs_are_maximal() {
        let mut page = Box::new([0; PAGE]);
        fill(&mut page, 60..200, true);
        let mut seen = Vec::new();
        runs(&page, 0..256, |value, count| seen.push((value, count)));
        assert_eq!(seen, [(false, 60), (true, 140), (false, 56)]);
    }

    #[test]
    fn ranges_are_cut_at_pages() {
        let cut: Vec<_> = by_page(BITS_PER_PAGE - 1..BITS_PER_PAGE + 2).collect();
        assert_eq!(cut, [(0, BITS_PER_PAGE - 1..BITS_PER_PAGE), (1, 0..2)]);
        assert_eq!(by_page(5..5).map(|(_, bits)| bits.end - bits.start).sum::<u64>(), 0);
    }
}
