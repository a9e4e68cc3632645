//! Deflating a file in pieces, without reading its holes.
//!
//! ```text
//!   file      data │ hole │ hole │ … │ data        pieces of 1 MiB, each deflated by itself
//!   stream    ~~~~ │ z z z z z z z z │ ~~~~ │ end  holes: one piece of zeros, deflated once
//! ```
//!
//! A piece refers to nothing before it and ends at a byte, so pieces are made by several threads and
//! put together in order. What comes out depends on the bytes alone: neither on how many threads
//! there are, nor on whether zeros are a hole or data.

use crate::error::{During, Result};
use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress};
use ireko_disk::Storage;
use std::io::{self, Write};
use std::num::NonZero;
use std::ops::Range;
use std::thread;

const PIECE: u64 = 1 << 20;
/// Two thirds of the time of the usual level, for a few percent more bytes.
const LEVEL: u32 = 3;
/// A last block with nothing in it.
const END: [u8; 2] = [0x03, 0x00];
/// More threads than a disk feeds only take memory.
const MAX_THREADS: usize = 8;

/// What was deflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deflated {
    /// Of the bytes before.
    pub crc: u32,
    /// Bytes written.
    pub compressed: u64,
}

/// Writes the bytes of `source`, deflated; `name` is what errors call it.
///
/// `advanced` is told how many of them were dealt with, and may end it.
pub(crate) fn deflate(
    source: &dyn Storage,
    name: &str,
    out: &mut dyn Write,
    advanced: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Deflated> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    let mut makers: Vec<Maker> = (0..threads).map(|_| Maker::new()).collect();
    let zeros = Piece::of_zeros()?;
    let mut stream = Stream { out, crc: Hasher::new(), compressed: 0 };
    let length = source.len().during(|| format!("look at {name}"))?;
    let mut at = 0;
    while at < length {
        let data = source.next_data(at).during(|| format!("read {name}"))?;
        let (start, end) = data.map_or((length, length), |data| (data.start, data.end));
        let hole = start.clamp(at, length) - at;
        if hole >= PIECE {
            stream.add(&zeros)?;
            at += PIECE;
        } else {
            let end = end.clamp(at + 1, length);
            let made = make_pieces(&mut makers, source, at..end, length)
                .during(|| format!("read {name}"))?;
            for maker in &makers[..made] {
                stream.add(if maker.is_zero { &zeros } else { &maker.piece })?;
            }
            at = length.min(at + made as u64 * PIECE);
        }
        advanced(at)?;
    }
    stream.write(&END)?;
    Ok(Deflated { crc: stream.crc.finalize(), compressed: stream.compressed })
}

/// Makes the pieces that begin in a range, at most one a maker; returns how many.
fn make_pieces(
    makers: &mut [Maker],
    source: &dyn Storage,
    range: Range<u64>,
    length: u64,
) -> io::Result<usize> {
    let starts = range.step_by(PIECE as usize);
    let mut work: Vec<_> = makers.iter_mut().zip(starts).collect();
    let made = work.len();
    let make = |maker: &mut Maker, start: u64| maker.make(source, start, PIECE.min(length - start));
    match work.as_mut_slice() {
        [(maker, start)] => make(maker, *start)?,
        many => thread::scope(|scope| {
            let running: Vec<_> =
                many.iter_mut().map(|(maker, start)| scope.spawn(|| make(maker, *start))).collect();
            // All are waited for, whatever the first says.
            let outcomes: Vec<io::Result<()>> = running
                .into_iter()
                .map(|thread| thread.join())
                .map(|end| end.unwrap_or_else(|_| Err(io::Error::other("a thread broke off"))))
                .collect();
            outcomes.into_iter().collect::<io::Result<()>>()
        })?,
    }
    Ok(made)
}

/// Some bytes, deflated.
struct Piece {
    deflated: Vec<u8>,
    crc: Hasher,
}

impl Piece {
    fn of_zeros() -> Result<Self> {
        let mut maker = Maker::new();
        maker.bytes.resize(PIECE as usize, 0);
        maker.deflate().during(|| "deflate zeros".to_owned())?;
        Ok(maker.piece)
    }
}

/// Makes pieces, one after another, in the same memory.
struct Maker {
    compress: Compress,
    bytes: Vec<u8>,
    piece: Piece,
    /// The bytes are a whole piece of zeros; `piece` is not made then.
    is_zero: bool,
}

impl Maker {
    fn new() -> Self {
        Self {
            compress: Compress::new(Compression::new(LEVEL), false),
            bytes: Vec::new(),
            piece: Piece { deflated: Vec::new(), crc: Hasher::new() },
            is_zero: false,
        }
    }

    fn make(&mut self, source: &dyn Storage, start: u64, length: u64) -> io::Result<()> {
        self.bytes.resize(length as usize, 0);
        source.read_at(start, &mut self.bytes)?;
        self.is_zero = length == PIECE && is_zero(&self.bytes);
        if self.is_zero { Ok(()) } else { self.deflate() }
    }

    fn deflate(&mut self) -> io::Result<()> {
        let (compress, deflated) = (&mut self.compress, &mut self.piece.deflated);
        compress.reset();
        deflated.clear();
        loop {
            deflated.reserve(64 << 10);
            let rest = &self.bytes[compress.total_in() as usize..];
            compress.compress_vec(rest, deflated, FlushCompress::Full)?;
            let is_taken = compress.total_in() == self.bytes.len() as u64;
            if is_taken && deflated.len() < deflated.capacity() {
                break;
            }
        }
        self.piece.crc.reset();
        self.piece.crc.update(&self.bytes);
        Ok(())
    }
}

/// Tells whether all bytes are zeros, as fast as memory is read.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    bytes.chunks(ZEROS.len()).all(|part| *part == ZEROS[..part.len()])
}

/// The pieces put together.
struct Stream<'a> {
    out: &'a mut dyn Write,
    crc: Hasher,
    compressed: u64,
}

impl Stream<'_> {
    fn add(&mut self, piece: &Piece) -> Result<()> {
        self.crc.combine(&piece.crc);
        self.write(&piece.deflated)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).during(|| "write what was deflated".to_owned())?;
        self.compressed += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::DeflateDecoder;
    use ireko_disk::{FileStorage, MemoryStorage};
    use std::io::Read;

    fn deflated(source: &dyn Storage) -> (Vec<u8>, Deflated) {
        let mut out = Vec::new();
        let length = source.len().unwrap();
        let mut seen = 0;
        let deflated = deflate(source, "f", &mut out, &mut |at| {
            assert!(seen < at && at <= length);
            seen = at;
            Ok(())
        })
        .unwrap();
        assert_eq!((seen, deflated.compressed), (length, out.len() as u64));
        (out, deflated)
    }

    #[test]
    fn what_comes_out_inflates_to_what_went_in_and_does_not_tell_holes_from_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let mut random = ireko_testkit::random::Random::new(1);
        let data: Vec<u8> = (0..3 << 19).map(|_| random.below(200) as u8).collect();
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 11 * PIECE + 77] {
            let sparse = FileStorage::create(&folder.path().join(length.to_string())).unwrap();
            sparse.set_len(length).unwrap();
            for at in [0, 5 * PIECE - 9] {
                let end = (at + data.len() as u64).min(length);
                if at < end {
                    sparse.write_at(at, &data[..(end - at) as usize]).unwrap();
                }
            }
            let mut bytes = vec![0; length as usize];
            sparse.read_at(0, &mut bytes).unwrap();
            let dense = MemoryStorage::new(bytes.clone());
            let (out, told) = deflated(&sparse);
            assert!((out.clone(), told) == deflated(&dense), "{length}");
            assert_eq!(told.crc, crc32fast::hash(&bytes), "{length}");
            let mut back = Vec::new();
            DeflateDecoder::new(&out[..]).read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{length}");
        }
    }

    #[test]
    fn a_file_that_is_all_hole_is_not_read() {
        /// A disk file of 64 GiB that nobody could read in time.
        struct Hole;
        impl Storage for Hole {
            fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
                panic!("read")
            }
            fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
                panic!("written")
            }
            fn sync(&self) -> io::Result<()> {
                Ok(())
            }
            fn len(&self) -> io::Result<u64> {
                Ok(64 << 30)
            }
            fn set_len(&self, _: u64) -> io::Result<()> {
                panic!("cut")
            }
            fn punch_hole(&self, _: u64, _: u64) -> io::Result<()> {
                panic!("punched")
            }
            fn next_data(&self, _: u64) -> io::Result<Option<std::ops::Range<u64>>> {
                Ok(None)
            }
        }
        let told = deflate(&Hole, "f", &mut io::sink(), &mut |_| Ok(())).unwrap();
        assert!(told.compressed < 80 << 20, "{}", told.compressed);
    }

    #[test]
    fn it_can_be_ended_and_told_of_a_full_disk() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let source = MemoryStorage::new(vec![7; 3 << 20]);
        let error = deflate(&source, "f", &mut Full, &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::NoSpace);
        let enough = || Err(crate::Error::conflict("enough"));
        let error = deflate(&source, "f", &mut io::sink(), &mut |_| enough()).unwrap_err();
        assert_eq!(error.to_string(), "enough");
    }
}
