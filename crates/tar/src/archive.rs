//! Reading a tar archive that may be hostile: total, in bounded memory, one entry at a time.
//!
//! Understood are ustar, the old V7 form, GNU long names and sparse files, and PAX records (path,
//! linkpath, size, uid, gid, mtime, `SCHILY.xattr.*`, and GNU's three ways to say "sparse").
//! Sources: POSIX.1-2017 pax, "Basic Tar Format" and "Storing Sparse Files" of the GNU tar manual.
//!
//! ```text
//!   ┌ 'x' records ┐┌ 'L' long name ┐┌ header ┬ stored bytes ┬ pad ┐┌ header … ┐┌ zeroes ┐
//!   └──── describe the next entry ─┘└──────── one Entry ──────────┘
//! ```

use std::io::{self, Read};

use crate::error::{Error, Result};
use crate::pax;

const BLOCK: usize = 512;
/// The largest extension (a PAX record set, a long name) that is read.
const EXTENSION_LIMIT: u64 = 1 << 20;
/// The most pieces a sparse file may have.
const SEGMENT_LIMIT: usize = 1 << 20;
/// Bytes of data handed on at once.
const CHUNK: usize = 256 * 1024;

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link to [`Entry::link`].
    Symlink,
    /// One more name of the file [`Entry::link`].
    HardLink,
    /// A character device of this number (major, minor).
    CharDevice(u32, u32),
    /// A block device of this number (major, minor).
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry; its data is read with [`Archive::read_data`] before the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As written in the archive, without zero bytes.
    pub path: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// Target of a link.
    pub link: Vec<u8>,
    /// Permission bits, setuid, setgid, sticky.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes: name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Size of the file in bytes, holes included.
    pub size: u64,
    /// Where the stored bytes belong in the file, in rising order: offset and length.
    segments: Vec<(u64, u64)>,
}

impl Entry {
    /// Whether the stored bytes are not the file's bytes from its first to its last.
    pub fn is_sparse(&self) -> bool {
        self.segments != [(0, self.size)]
    }
}

/// An archive being read.
#[derive(Debug)]
pub struct Archive<R> {
    source: R,
    /// Bytes up to the next header: stored ones not read yet, and the padding.
    ahead: u64,
    /// What it was last about, for messages.
    entry_number: u64,
}

impl<R: Read> Archive<R> {
    /// An archive that begins at the source's position.
    pub fn new(source: R) -> Self {
        Self { source, ahead: 0, entry_number: 0 }
    }

    /// The source; right after [`Archive::next_entry`] it stands at the entry's stored bytes, unless that is sparse.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// Gives the source back; after the last entry, what stands there is padding.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// The next entry; `None` at the end of the archive.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let (mut long_path, mut long_link, mut records) = (None, None, pax::Records::default());
        loop {
            self.skip_ahead()?;
            let Some(header) = self.read_header()? else {
                return match (long_path, long_link) {
                    (None, None) => Ok(None),
                    _ => Err(self.malformed("ends after a long name")),
                };
            };
            self.entry_number += 1;
            match header.flag() {
                b'L' => long_path = Some(self.read_extension(&header)?),
                b'K' => long_link = Some(self.read_extension(&header)?),
                b'x' => {
                    let bytes = self.read_extension(&header)?;
                    records = pax::Records::parse(&bytes)
                        .ok_or_else(|| self.malformed("has PAX records that are not understood"))?;
                }
                // Defaults for the whole archive (in practice a comment), and a volume's label.
                b'g' | b'V' => self.begin_data(header.size(self)?)?,
                _ => return self.entry(&header, long_path, long_link, records).map(Some),
            }
        }
    }

    /// Reads the entry's data; `sink` gets each piece with its offset in the file.
    pub fn read_data<E: From<Error>>(
        &mut self,
        entry: &Entry,
        mut sink: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = vec![0; CHUNK];
        for &(mut offset, mut left) in &entry.segments {
            while left > 0 {
                let count = left.min(CHUNK as u64) as usize;
                self.read_exact(&mut buffer[..count])?;
                self.ahead -= count as u64;
                sink(offset, &buffer[..count])?;
                offset += count as u64;
                left -= count as u64;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        mut records: pax::Records,
    ) -> Result<Entry> {
        let path = records.path.take().or(long_path).unwrap_or_else(|| header.path());
        let link = records.link.take().or(long_link).unwrap_or_else(|| header.link());
        let kind = header.kind(&path).ok_or_else(|| {
            self.malformed(&format!("is of the unknown type {:?}", header.flag() as char))
        })??;
        let id = |record: Option<u64>, field| {
            let number = record.or_else(|| number(field)).unwrap_or(u64::MAX);
            u32::try_from(number).map_err(|_| self.malformed("has an owner that is no number"))
        };
        let uid = id(records.uid, &header.0[108..116])?;
        let gid = id(records.gid, &header.0[116..124])?;
        let mode = number(&header.0[100..108])
            .ok_or_else(|| self.malformed("has a mode that is no number"))?;
        let mtime = records.mtime.unwrap_or_else(|| {
            (number(&header.0[136..148]).and_then(|time| i64::try_from(time).ok()).unwrap_or(0), 0)
        });
        // Only files have data, whatever size a header of another kind claims: as docker reads it.
        let stored = match (kind, records.size) {
            (Kind::File, Some(size)) => size,
            (Kind::File, None) => header.size(self)?,
            _ => 0,
        };
        self.begin_data(stored)?;
        let (size, segments) = self.layout(header, &mut records, stored)?;
        let path = match records.sparse.name.take() {
            Some(name) => name,
            None => path,
        };
        if path.contains(&0) || link.contains(&0) {
            return Err(self.malformed("has a name with a zero byte"));
        }
        Ok(Entry {
            path,
            kind,
            link,
            mode: mode as u32 & 0o7777,
            uid,
            gid,
            mtime,
            xattrs: std::mem::take(&mut records.xattrs),
            size,
            segments,
        })
    }

    /// The file's size and where its stored bytes go.
    fn layout(
        &mut self,
        header: &Header,
        records: &mut pax::Records,
        stored: u64,
    ) -> Result<(u64, Vec<(u64, u64)>)> {
        let (size, segments) = if header.flag() == b'S' {
            self.gnu_segments(header)?
        } else if let Some(size) = records.sparse.size {
            let segments = match records.sparse.has_map_in_data {
                true => self.segments_in_data()?,
                false => std::mem::take(&mut records.sparse.segments),
            };
            (size, segments)
        } else {
            return Ok((stored, vec![(0, stored)]));
        };
        let mut end = 0u64;
        let mut total = 0u64;
        for &(offset, length) in &segments {
            let next = offset.checked_add(length).filter(|next| *next <= size && offset >= end);
            end = next.ok_or_else(|| self.malformed("has a sparse map out of order"))?;
            total += length;
        }
        // `ahead` also counts the padding to the next block.
        if total > self.ahead || size > i64::MAX as u64 {
            return Err(self.malformed("has a sparse map that is larger than its data"));
        }
        Ok((size, segments))
    }

    /// The old GNU form: four pieces in the header, more in blocks that follow it.
    fn gnu_segments(&mut self, header: &Header) -> Result<(u64, Vec<(u64, u64)>)> {
        let malformed = |archive: &Self| archive.malformed("has a sparse map of no numbers");
        let size = number(&header.0[483..495]).ok_or_else(|| malformed(self))?;
        let mut segments = Vec::new();
        let mut block = [0; BLOCK];
        let (mut pieces, mut more) = (&header.0[386..482], header.0[482] != 0);
        loop {
            for piece in pieces.chunks_exact(24).filter(|piece| piece[0] != 0) {
                match (number(&piece[..12]), number(&piece[12..])) {
                    // An empty piece only marks where the file ends.
                    (Some(_), Some(0)) => {}
                    (Some(offset), Some(length)) => segments.push((offset, length)),
                    _ => return Err(malformed(self)),
                }
            }
            if !more {
                return Ok((size, segments));
            }
            if segments.len() > SEGMENT_LIMIT {
                return Err(self.malformed("has too many pieces"));
            }
            // These blocks stand before the data and are not counted in its size.
            self.read_exact(&mut block)?;
            (pieces, more) = (&block[..504], block[504] != 0);
        }
    }

    /// PAX form 1.0: decimal numbers, one a line, in blocks at the beginning of the data.
    fn segments_in_data(&mut self) -> Result<Vec<(u64, u64)>> {
        let mut lines = Lines { archive: self, block: [0; BLOCK], next: BLOCK };
        let count = lines.number()?;
        if count > SEGMENT_LIMIT as u64 {
            return Err(self.malformed("has too many pieces"));
        }
        let mut segments = Vec::new();
        for _ in 0..count {
            let (offset, length) = (lines.number()?, lines.number()?);
            if length > 0 {
                segments.push((offset, length));
            }
        }
        Ok(segments)
    }

    fn read_header(&mut self) -> Result<Option<Header>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(self.malformed("is cut off in its header")),
                Ok(count) => filled += count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(Error::Read(cause)),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !begins_archive(&block) {
            self.entry_number += 1;
            return Err(self.malformed("has a wrong checksum, or this is no tar archive"));
        }
        Ok(Some(Header(block)))
    }

    fn read_extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = header.size(self)?;
        if size > EXTENSION_LIMIT {
            return Err(self.malformed("has a name or records of more than 1 MiB"));
        }
        self.begin_data(size)?;
        let mut bytes = vec![0; size as usize];
        self.read_exact(&mut bytes)?;
        self.ahead -= size;
        if header.flag() != b'x' {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            bytes.truncate(end);
        }
        Ok(bytes)
    }

    fn begin_data(&mut self, size: u64) -> Result<()> {
        self.ahead = size
            .checked_next_multiple_of(BLOCK as u64)
            .filter(|ahead| *ahead <= i64::MAX as u64)
            .ok_or_else(|| self.malformed("claims an impossible size"))?;
        Ok(())
    }

    fn skip_ahead(&mut self) -> Result<()> {
        let mut buffer = [0; 8 * BLOCK];
        while self.ahead > 0 {
            let count = self.ahead.min(buffer.len() as u64) as usize;
            self.read_exact(&mut buffer[..count])?;
            self.ahead -= count as u64;
        }
        Ok(())
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        match self.source.read_exact(buffer) {
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.malformed("is cut off"))
            }
            result => result.map_err(Error::Read),
        }
    }

    fn malformed(&self, what: &str) -> Error {
        Error::Malformed(format!("header {} of the archive {what}", self.entry_number))
    }
}

/// The decimal lines of a sparse map, read block by block.
struct Lines<'a, R> {
    archive: &'a mut Archive<R>,
    block: [u8; BLOCK],
    next: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64> {
        let mut value = 0u64;
        loop {
            if self.next == BLOCK {
                if self.archive.ahead < BLOCK as u64 {
                    return Err(self.archive.malformed("has a sparse map without an end"));
                }
                self.archive.read_exact(&mut self.block)?;
                self.archive.ahead -= BLOCK as u64;
                self.next = 0;
            }
            let byte = self.block[self.next];
            self.next += 1;
            match byte {
                b'\n' => return Ok(value),
                b'0'..=b'9' => {
                    value = value.saturating_mul(10).saturating_add((byte - b'0').into())
                }
                _ => return Err(self.archive.malformed("has a sparse map of no numbers")),
            }
        }
    }
}

/// Tells an archive by its first block, which carries the sum of its own bytes.
///
/// Of an archive without entries the first block is all zeros, and so may anything else's be: no.
pub fn begins_archive(block: &[u8; BLOCK]) -> bool {
    let others = block[..148].iter().chain(&block[156..]).map(|byte| u64::from(*byte)).sum::<u64>();
    others > 0 && number(&block[148..156]) == Some(others + 8 * u64::from(b' '))
}

/// One header block whose checksum is right.
struct Header([u8; BLOCK]);

impl Header {
    fn flag(&self) -> u8 {
        self.0[156]
    }

    fn size<R: Read>(&self, archive: &Archive<R>) -> Result<u64> {
        number(&self.0[124..136]).ok_or_else(|| archive.malformed("has a size that is no number"))
    }

    /// `None` for a type we do not know.
    fn kind(&self, path: &[u8]) -> Option<Result<Kind>> {
        Some(Ok(match self.flag() {
            // The V7 form has no type for folders but a slash.
            b'0' | 0 if path.ends_with(b"/") => Kind::Folder,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            flag @ (b'3' | b'4') => {
                let part = |field| number(field).and_then(|part| u32::try_from(part).ok());
                match (part(&self.0[329..337]), part(&self.0[337..345])) {
                    (Some(major), Some(minor)) if flag == b'3' => Kind::CharDevice(major, minor),
                    (Some(major), Some(minor)) => Kind::BlockDevice(major, minor),
                    _ => {
                        return Some(Err(Error::Malformed(
                            "a device of the archive has a number that is none".into(),
                        )));
                    }
                }
            }
            b'5' => Kind::Folder,
            b'6' => Kind::Fifo,
            _ => return None,
        }))
    }

    fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        // GNU's form uses the same bytes for other things.
        let prefix = if &self.0[257..263] == b"ustar\0" { text(&self.0[345..500]) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number field: octal text, or big-endian binary where the first bit is set. Empty is 0.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        // 0xff would begin a negative number, which none of our fields may be.
        let first = u64::from(field[0] & 0x7f);
        return field[1..]
            .iter()
            .try_fold(first, |value, byte| value.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}
