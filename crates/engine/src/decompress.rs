//! Undoing an archive's compression while it comes in, with a bound.

use crate::error::{Attempt, Error, Result};
use std::io::{BufReader, Chain, Cursor, Read, Write};

/// The most bytes an archive may have once it is uncompressed: more than an app image's disk holds.
const MOST: u64 = 64 << 30;
/// How many of an archive's first bytes tell what it is.
const HEAD: usize = 512;
/// Progress is told after so many bytes.
const STEP: u64 = 4 << 20;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

/// Copies an archive uncompressed; `received` is told how many bytes came in so far.
///
/// Errors where it is no tar archive, is compressed in a way that is not known, is cut off, or
/// grows beyond 64 GiB. Not synced: the copy is needed for moments only.
pub(crate) fn copy(
    archive: impl Read,
    to: &mut impl Write,
    received: impl FnMut(u64),
) -> Result<()> {
    let mut counted = Counted { inner: archive, count: 0, told: 0, received };
    let mut head = Vec::with_capacity(HEAD);
    (&mut counted).take(HEAD as u64).read_to_end(&mut head).attempt(receive)?;
    let compression = recognise(&head)?;
    let whole = BufReader::with_capacity(64 * 1024, Cursor::new(head).chain(counted));
    let plain: Box<dyn Read + '_> = decoder(compression, whole)?;
    let copied = std::io::copy(&mut plain.take(MOST + 1), to)
        .map_err(|error| Error::bad_parameter(format!("cannot read the archive: {error}")))?;
    match copied {
        0..=MOST => Ok(()),
        _ => Err(Error::bad_parameter(format!(
            "the archive is larger than {} GiB once it is uncompressed",
            MOST >> 30
        ))),
    }
}

fn decoder<'a, R: Read + 'a>(
    compression: Compression,
    whole: BufReader<Chain<Cursor<Vec<u8>>, R>>,
) -> Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Compression::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(whole)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(whole).attempt(receive)?),
    })
}

fn recognise(head: &[u8]) -> Result<Compression> {
    let refused = |name: &str| {
        Err(Error::bad_parameter(format!(
            "the archive is compressed with {name}, which Ireko does not read: uncompress it, or \
             use gzip, xz or zstd"
        )))
    };
    match head {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Compression::Xz),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
        [b'B', b'Z', b'h', ..] => refused("bzip2"),
        [0x5d, 0, 0, ..] => refused("lzma"),
        [0x1f, 0x9d, ..] => refused("compress"),
        [0x04, 0x22, 0x4d, 0x18, ..] => refused("lz4"),
        head if is_tar(head) => Ok(Compression::None),
        [] => Err(Error::bad_parameter("the archive is empty")),
        head => Err(match disk_format(head) {
            Some(format) => Error::bad_parameter(format!(
                "this is a disk image ({format}), not an archive: Ireko does not import disk \
                 images yet"
            )),
            None => Error::bad_parameter("the archive is not a tar archive")
                .hint("give a root file system's tar archive, plain or by gzip, xz or zstd"),
        }),
    }
}

/// What people may take for an archive: the disk of a VM, by its first bytes.
fn disk_format(head: &[u8]) -> Option<&'static str> {
    let formats: [(&[u8], &str); 4] =
        [(b"vhdxfile", "VHDX"), (b"QFI\xfb", "QCOW2"), (b"conectix", "VHD"), (b"KDMV", "VMDK")];
    formats.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| name)
}

/// The first block of a tar archive carries the sum of its own bytes.
/// Source: POSIX.1-2017, pax, "ustar Interchange Format".
fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.first_chunk::<HEAD>() else { return false };
    if block.iter().all(|byte| *byte == 0) {
        return true;
    }
    let field = String::from_utf8_lossy(&block[148..156]);
    let Ok(expected) = u32::from_str_radix(field.trim_matches([' ', '\0']), 8) else {
        return false;
    };
    let others: u32 = block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
    others + 8 * u32::from(b' ') == expected
}

fn receive() -> String {
    "receive the archive".into()
}

struct Counted<R, F> {
    inner: R,
    count: u64,
    told: u64,
    received: F,
}

impl<R: Read, F: FnMut(u64)> Read for Counted<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count += length as u64;
        if self.count - self.told >= STEP || (length == 0 && self.count != self.told) {
            self.told = self.count;
            (self.received)(self.count);
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two empty blocks: an archive without entries.
    const EMPTY_TAR: [u8; 1024] = [0; 1024];

    fn copied(archive: &[u8]) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        copy(archive, &mut plain, |_| {}).map(|()| plain)
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_known_compression_is_undone() {
        assert_eq!(copied(&EMPTY_TAR).unwrap(), EMPTY_TAR);
        assert_eq!(copied(&gzip(&EMPTY_TAR)).unwrap(), EMPTY_TAR);
        let zstd = zstd::encode_all(&EMPTY_TAR[..], 1).unwrap();
        assert_eq!(copied(&zstd).unwrap(), EMPTY_TAR);
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&EMPTY_TAR).unwrap();
        assert_eq!(copied(&xz.finish().unwrap()).unwrap(), EMPTY_TAR);
    }

    #[test]
    fn what_is_not_known_or_not_whole_is_refused() {
        let message = |archive: &[u8]| copied(archive).unwrap_err().to_string();
        assert!(message(b"BZh91AY").contains("bzip2"));
        assert!(message(b"hello").contains("not a tar archive"));
        assert!(message(b"").contains("is empty"));
        assert!(message(b"vhdxfile").contains("disk image (VHDX)"));
        let whole = gzip(&EMPTY_TAR);
        assert!(message(&whole[..whole.len() - 9]).contains("cannot read the archive"));
    }

    #[test]
    fn the_last_count_is_that_of_all_bytes() {
        let mut last = 0;
        copy(&EMPTY_TAR[..], &mut Vec::new(), |count| last = count).unwrap();
        assert_eq!(last, 1024);
    }
}
