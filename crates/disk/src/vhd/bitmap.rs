//! Bits of sector bitmaps, highest bit of a byte first: the opposite of VHDX.

use std::ops::Range;

use super::SECTOR;

/// Bits in one 512-byte sector of a bitmap.
const BITS: u64 = SECTOR * 8;

/// Cuts a range of bits of a bitmap at its sectors: sector number, and the bits within that sector.
pub(super) fn by_sector(bits: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    (bits.start / BITS..bits.end.div_ceil(BITS)).map(move |sector| {
        let base = sector * BITS;
        (sector, bits.start.max(base) - base..bits.end.min(base + BITS) - base)
    })
}

/// Calls `visit(value, count)` for each run of equal bits, in order.
pub(super) fn runs(
    sector: &[u8; SECTOR as usize],
    bits: Range<u64>,
    mut visit: impl FnMut(bool, u64),
) {
    let mut at = bits.start;
    while at < bits.end {
        let start = at;
        let value = sector[at as usize / 8] & (0x80 >> (at % 8)) != 0;
        while at < bits.end {
            let word_at = at as usize / 64 * 8;
            let bytes = sector[word_at..word_at + 8].try_into().expect("eight bytes");
            let word = u64::from_be_bytes(bytes) << (at % 64);
            let left_in_word = 64 - at % 64;
            let equal = if value { word.leading_ones() } else { word.leading_zeros() };
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

/// Sets every bit of the range.
pub(super) fn set(sector: &mut [u8; SECTOR as usize], bits: Range<u64>) {
    if bits.is_empty() {
        return;
    }
    let (first, last) = (bits.start as usize / 8, (bits.end - 1) as usize / 8);
    let head = 0xFFu8 >> (bits.start % 8);
    let tail = 0xFFu8 << (7 - (bits.end - 1) % 8);
    if first == last {
        sector[first] |= head & tail;
        return;
    }
    sector[first] |= head;
    sector[last] |= tail;
    sector[first + 1..last].fill(0xFF);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_bit_is_the_first_sector() {
        let mut sector = [0; 512];
        set(&mut sector, 0..1);
        set(&mut sector, 10..12);
        assert_eq!(sector[..2], [0x80, 0x30]);
    }

    #[test]
    fn set_and_runs_agree_with_a_plain_model() {
        let ranges = [5..6, 63..64, 130..140, 200..1000, 1063..1065, 2048..2048, 4090..4096, 0..3];
        let mut sector = [0; 512];
        let mut model = vec![false; BITS as usize];
        for range in ranges {
            set(&mut sector, range.clone());
            model[range.start as usize..range.end as usize].fill(true);
            let mut seen = Vec::new();
            let mut last = None;
            runs(&sector, 1..4095, |value, count| {
                assert!(count > 0 && last.replace(value) != Some(value), "runs are maximal");
                seen.extend(std::iter::repeat_n(value, count as usize));
            });
            assert_eq!(seen, model[1..4095]);
        }
    }

    #[test]
    fn ranges_are_cut_at_sectors() {
        let cut: Vec<_> = by_sector(BITS - 1..BITS + 2).collect();
        assert_eq!(cut, [(0, BITS - 1..BITS), (1, 0..2)]);
    }
}
