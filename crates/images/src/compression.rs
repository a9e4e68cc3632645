//! How archives are compressed, by their first bytes, and undoing it in bounded memory.

use std::io::{self, BufRead, Read};

/// What an xz stream may make its reader allocate: `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, also of several members.
    Gzip,
    /// xz, also of several streams.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Tells it by a file's first bytes; what has no such signature is [`Compression::None`].
    ///
    /// Errors with the name of a compression that is known and not read.
    pub fn of(head: &[u8]) -> Result<Compression, &'static str> {
        match head {
            [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Compression::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err("bzip2"),
            [0x5d, 0, 0, ..] => Err("lzma"),
            [0x1f, 0x9d, ..] => Err("compress"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Err("lz4"),
            _ => Ok(Compression::None),
        }
    }

    /// Reads what was compressed. Nothing is taken for granted of its size.
    pub fn decoder<'a>(self, compressed: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        use liblzma::stream::{CONCATENATED, Stream};
        Ok(match self {
            Compression::None => Box::new(compressed),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(compressed)),
            Compression::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(compressed, stream))
            }
            // Its windows are limited to 128 MiB.
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(compressed)?),
        })
    }
}
