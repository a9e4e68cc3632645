//! Undoing the compressions that kernels and their modules are shipped with.
//!
//! The kind is told by the first bytes. The result's size is bounded before memory is taken for it.

use std::io::{self, Read};

use crate::error::{Error, Result};

/// The legacy LZ4 format cuts its input into blocks of at most this many bytes.
/// Source: lz4_Frame_format.md, "Legacy frame".
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Xz,
    Zstd,
    Gzip,
    Lz4Legacy,
    Stored,
}

impl Compression {
    fn of(bytes: &[u8]) -> Self {
        const MAGICS: [(&[u8], Compression); 4] = [
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"\x1f\x8b", Compression::Gzip),
            (b"\x02\x21\x4c\x18", Compression::Lz4Legacy),
        ];
        MAGICS
            .iter()
            .find(|(magic, _)| bytes.starts_with(magic))
            .map_or(Compression::Stored, |(_, compression)| *compression)
    }
}

/// Returns `bytes` decompressed, or as they are where no known compression is recognised.
///
/// # Errors
/// `Malformed` for damaged input, and when the result would be larger than `limit` bytes.
pub(crate) fn decompress(bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
    let plain = match Compression::of(bytes) {
        Compression::Xz => read_bounded(liblzma::read::XzDecoder::new(bytes), limit),
        Compression::Gzip => read_bounded(flate2::read::GzDecoder::new(bytes), limit),
        Compression::Zstd => zstd::stream::read::Decoder::with_buffer(bytes)
            .and_then(|decoder| read_bounded(decoder.single_frame(), limit)),
        Compression::Lz4Legacy => lz4_legacy(bytes, limit),
        Compression::Stored => Ok(bytes.to_vec()),
    };
    plain.map_err(|e| Error::malformed("decompress a file of the kernel package").because(e))
}

fn read_bounded(decoder: impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    decoder.take(limit as u64 + 1).read_to_end(&mut plain)?;
    within(plain, limit)
}

fn within(plain: Vec<u8>, limit: usize) -> io::Result<Vec<u8>> {
    if plain.len() > limit {
        return Err(io::Error::other(format!("larger than {limit} bytes when decompressed")));
    }
    Ok(plain)
}

/// Blocks, each a little-endian length and that many compressed bytes, to the end of input.
fn lz4_legacy(bytes: &[u8], limit: usize) -> io::Result<Vec<u8>> {
    let mut rest = &bytes[4..];
    let mut plain = Vec::new();
    let mut block = vec![0; LZ4_LEGACY_BLOCK];
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let compressed = after
            .get(..u32::from_le_bytes(*length) as usize)
            .ok_or_else(|| io::Error::other("an LZ4 block reaches past the end"))?;
        let written = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|e| io::Error::other(format!("LZ4: {e}")))?;
        plain.extend_from_slice(&block[..written]);
        plain = within(plain, limit)?;
        rest = &after[compressed.len()..];
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn sample() -> Vec<u8> {
        (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    fn lz4_sample(plain: &[u8]) -> Vec<u8> {
        let mut packed = b"\x02\x21\x4c\x18".to_vec();
        for block in plain.chunks(LZ4_LEGACY_BLOCK) {
            let mut compressed = vec![0; lz4_flex::block::get_maximum_output_size(block.len())];
            let length = lz4_flex::block::compress_into(block, &mut compressed).unwrap();
            packed.extend((length as u32).to_le_bytes());
            packed.extend(&compressed[..length]);
        }
        packed
    }

    fn all_kinds(plain: &[u8]) -> Vec<(Compression, Vec<u8>)> {
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(plain).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(plain).unwrap();
        vec![
            (Compression::Xz, xz.finish().unwrap()),
            (Compression::Gzip, gzip.finish().unwrap()),
            (Compression::Zstd, zstd::encode_all(plain, 1).unwrap()),
            (Compression::Lz4Legacy, lz4_sample(plain)),
            (Compression::Stored, plain.to_vec()),
        ]
    }

    #[test]
    fn every_kind_is_recognised_and_undone() {
        let plain = sample();
        for (kind, packed) in all_kinds(&plain) {
            assert_eq!(Compression::of(&packed), kind);
            assert_eq!(decompress(&packed, plain.len()).unwrap(), plain, "{kind:?}");
        }
    }

    #[test]
    fn a_result_over_the_limit_is_refused() {
        let plain = sample();
        for (kind, packed) in
            all_kinds(&plain).into_iter().filter(|(k, _)| *k != Compression::Stored)
        {
            assert!(decompress(&packed, plain.len() - 1).is_err(), "{kind:?}");
        }
    }

    #[test]
    fn truncated_or_damaged_input_is_an_error_and_never_a_panic() {
        let plain = sample();
        for (kind, packed) in
            all_kinds(&plain).into_iter().filter(|(k, _)| *k != Compression::Stored)
        {
            let half = &packed[..packed.len() / 2];
            assert!(decompress(half, plain.len()).is_err(), "{kind:?} cut in half");
            let mut damaged = packed.clone();
            for byte in damaged.iter_mut().skip(8).step_by(97) {
                *byte ^= 0x55;
            }
            let _ = decompress(&damaged, plain.len());
        }
    }
}
