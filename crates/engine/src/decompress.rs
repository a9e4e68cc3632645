//! Undoing an archive's compression while it comes in, with a bound.

use crate::error::{Attempt, Error, Result};
use crate::store::{Compression, begins_archive};
use std::io::{BufReader, Cursor, Read, Write};

/// The most bytes an archive may have once it is uncompressed: more than an app image's disk holds.
const MOST: u64 = 64 << 30;
/// How many of an archive's first bytes tell what it is.
const HEAD: usize = 512;
/// Progress is told after so many bytes.
const STEP: u64 = 4 << 20;

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
    let plain = compression.decoder(whole).attempt(receive)?;
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

/// Tells how an archive is compressed by its first bytes; errors where it is none.
fn recognise(head: &[u8]) -> Result<Compression> {
    let compression = Compression::of(head).map_err(|name| {
        Error::bad_parameter(format!(
            "the archive is compressed with {name}, which Ireko does not read: uncompress it, or \
             use gzip, xz or zstd"
        ))
    })?;
    match compression {
        Compression::None if head.is_empty() => Err(Error::bad_parameter("the archive is empty")),
        Compression::None if !is_tar(head) => Err(no_archive(head)),
        known => Ok(known),
    }
}

fn no_archive(head: &[u8]) -> Error {
    match disk_format(head) {
        Some(format) => Error::bad_parameter(format!(
            "this is a disk image ({format}), not an archive of a root file system"
        ))
        .hint("`ireko image import FILE` takes disk images, by the name of their file"),
        None => Error::bad_parameter("the archive is not a tar archive")
            .hint("give a root file system's tar archive, plain or by gzip, xz or zstd"),
    }
}

/// What people may take for an archive: the disk of a VM, by its first bytes.
fn disk_format(head: &[u8]) -> Option<&'static str> {
    let formats: [(&[u8], &str); 4] =
        [(b"vhdxfile", "VHDX"), (b"QFI\xfb", "QCOW2"), (b"conectix", "VHD"), (b"KDMV", "VMDK")];
    formats.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| name)
}

fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.first_chunk::<HEAD>() else { return false };
    // Of an archive without entries the first block is all zeros.
    begins_archive(block) || block.iter().all(|byte| *byte == 0)
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
