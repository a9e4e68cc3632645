//! Writing a zip file from front to back, without going back: to a file or into a pipe.
//!
//! ```text
//!   local header │ deflated bytes │ crc and sizes     an entry: what is not known yet comes after it
//!   local header │ …
//!   central directory: a header for each entry, with all of it
//!   end of the central directory
//! ```
//!
//! Where a number does not fit in 32 bits the zip64 forms are used, and only there: some readers
//! refuse them elsewhere. Reading is left to the `zip` crate; its writer takes no bytes that were
//! deflated before, which is how holes cost nothing here (see [`deflate`](crate::deflate)).
//!
//! Source: APPNOTE.TXT 6.3.10, 4.3 and 4.5.3.

use crate::deflate::deflate;
use crate::error::{During, Error, Result};
use ireko_disk::Storage;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::io::{self, Write};

/// Sizes come behind the data; names are UTF-8.
const FLAGS: u16 = 1 << 3 | 1 << 11;
const DEFLATED: u16 = 8;
const VERSION: u16 = 20;
const ZIP64_VERSION: u16 = 45;
/// Made by a Unix system, so that the next field is a file's mode.
const MADE_BY: u16 = 3 << 8 | ZIP64_VERSION;
const MODE: u32 = 0o100_644 << 16;
/// Stands where a number is in a zip64 field instead.
const ELSEWHERE: u32 = u32::MAX;
const ZIP64_FIELD: u16 = 1;
/// Files longer than this could, deflated, be longer than 32 bits tell.
const MAX_PLAIN_LENGTH: u64 = 0xf000_0000;

/// A zip file that is being written.
pub(crate) struct ZipWriter<'a> {
    out: Counted<'a>,
    /// Date and time of all entries.
    stamp: u32,
    entries: Vec<Entry>,
}

/// What the central directory says of an entry.
struct Entry {
    name: String,
    is_zip64: bool,
    crc: u32,
    compressed: u64,
    length: u64,
    offset: u64,
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    written: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<'a> ZipWriter<'a> {
    /// Begins; `time` is when all entries say they were made.
    pub(crate) fn new(out: &'a mut dyn Write, time: Timestamp) -> Self {
        let out = Counted { out, written: 0 };
        ZipWriter { out, stamp: dos_time(time), entries: Vec::new() }
    }

    /// Adds a file, whose length does not change meanwhile.
    ///
    /// `advanced` is told how many of its bytes were dealt with, and may end it.
    pub(crate) fn add(
        &mut self,
        name: &str,
        source: &dyn Storage,
        advanced: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let length = source.len().during(|| format!("look at {name}"))?;
        let offset = self.out.written;
        let is_zip64 = length > MAX_PLAIN_LENGTH;
        let header = self.local_header(name, is_zip64)?;
        self.write(&header)?;
        let deflated = deflate(source, name, &mut self.out, advanced)?;
        let entry = Entry {
            name: name.to_owned(),
            is_zip64,
            crc: deflated.crc,
            compressed: deflated.compressed,
            length,
            offset,
        };
        self.write(&entry.descriptor()?)?;
        self.entries.push(entry);
        Ok(())
    }

    /// Writes the directory, and returns the length of it all.
    pub(crate) fn finish(mut self) -> Result<u64> {
        let start = self.out.written;
        for entry in std::mem::take(&mut self.entries) {
            let header = entry.central_header(self.stamp)?;
            self.write(&header)?;
            self.entries.push(entry);
        }
        let end = end_of_directory(self.entries.len() as u64, start, self.out.written - start);
        self.write(&end)?;
        self.out.flush().during(|| "write the zip file".to_owned())?;
        Ok(self.out.written)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).during(|| "write the zip file".to_owned())
    }

    fn local_header(&self, name: &str, is_zip64: bool) -> Result<Vec<u8>> {
        let mut header = Fields::new(*b"PK\x03\x04");
        header.u16(if is_zip64 { ZIP64_VERSION } else { VERSION });
        header.u16(FLAGS).u16(DEFLATED).u32(self.stamp).u32(0);
        match is_zip64 {
            true => header.u32(ELSEWHERE).u32(ELSEWHERE),
            false => header.u32(0).u32(0),
        };
        header.u16(short(name)?).u16(if is_zip64 { 20 } else { 0 }).bytes(name.as_bytes());
        if is_zip64 {
            header.u16(ZIP64_FIELD).u16(16).u64(0).u64(0);
        }
        Ok(header.0)
    }
}

impl Entry {
    fn descriptor(&self) -> Result<Vec<u8>> {
        let mut fields = Fields::new(*b"PK\x07\x08");
        fields.u32(self.crc);
        match self.is_zip64 {
            true => fields.u64(self.compressed).u64(self.length),
            false => {
                let (compressed, length) = (plain(self.compressed), plain(self.length));
                if compressed == ELSEWHERE || length == ELSEWHERE {
                    return Err(Error::conflict(format!("{} grew while it was read", self.name)));
                }
                fields.u32(compressed).u32(length)
            }
        };
        Ok(fields.0)
    }

    fn central_header(&self, stamp: u32) -> Result<Vec<u8>> {
        let mut zip64 = Fields(Vec::new());
        for number in [self.length, self.compressed, self.offset] {
            if plain(number) == ELSEWHERE {
                zip64.u64(number);
            }
        }
        let field = zip64.0.len() as u16;
        let is_zip64 = self.is_zip64 || field > 0;
        let mut header = Fields::new(*b"PK\x01\x02");
        header.u16(MADE_BY).u16(if is_zip64 { ZIP64_VERSION } else { VERSION });
        header.u16(FLAGS).u16(DEFLATED).u32(stamp).u32(self.crc);
        header.u32(plain(self.compressed)).u32(plain(self.length));
        header.u16(short(&self.name)?).u16(if field > 0 { field + 4 } else { 0 });
        // No comment, first disk, no internal attributes.
        header.u16(0).u16(0).u16(0).u32(MODE).u32(plain(self.offset)).bytes(self.name.as_bytes());
        if field > 0 {
            header.u16(ZIP64_FIELD).u16(field).bytes(&zip64.0);
        }
        Ok(header.0)
    }
}

fn end_of_directory(entries: u64, start: u64, length: u64) -> Vec<u8> {
    let few = u16::try_from(entries).unwrap_or(u16::MAX);
    let mut end = Fields(Vec::new());
    if few == u16::MAX || plain(start) == ELSEWHERE || plain(length) == ELSEWHERE {
        end.bytes(b"PK\x06\x06").u64(44).u16(MADE_BY).u16(ZIP64_VERSION).u32(0).u32(0);
        end.u64(entries).u64(entries).u64(length).u64(start);
        end.bytes(b"PK\x06\x07").u32(0).u64(start + length).u32(1);
    }
    end.bytes(b"PK\x05\x06").u16(0).u16(0).u16(few).u16(few);
    end.u32(plain(length)).u32(plain(start)).u16(0);
    end.0
}

/// Returns a number where it fits in 32 bits, else the sign that it stands elsewhere.
fn plain(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(ELSEWHERE)
}

fn short(name: &str) -> Result<u16> {
    u16::try_from(name.len()).map_err(|_| Error::bad_input(format!("{name} is too long a name")))
}

/// Little-endian numbers, one behind the other.
struct Fields(Vec<u8>);

impl Fields {
    fn new(signature: [u8; 4]) -> Self {
        Fields(signature.to_vec())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(&mut self, number: u16) -> &mut Self {
        self.bytes(&number.to_le_bytes())
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.bytes(&number.to_le_bytes())
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.bytes(&number.to_le_bytes())
    }
}

/// Packs a time as MS-DOS did, in UTC: date in the upper half, two seconds are one.
fn dos_time(time: Timestamp) -> u32 {
    let time = TimeZone::UTC.to_datetime(time);
    let Some(year) = u32::try_from(time.year()).ok().and_then(|year| year.checked_sub(1980)) else {
        return dos_date(0, 1, 1);
    };
    if year > 127 {
        return dos_date(127, 12, 31);
    }
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    let clock = (hour as u32) << 11 | (minute as u32) << 5 | ((second as u32) / 2);
    dos_date(year, time.month() as u32, time.day() as u32) | clock
}

fn dos_date(years_since_1980: u32, month: u32, day: u32) -> u32 {
    (years_since_1980 << 9 | month << 5 | day) << 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use ireko_disk::MemoryStorage;

    #[test]
    fn times_outside_what_ms_dos_knew_are_the_nearest() {
        for (time, expected) in [
            ("2026-01-02T03:04:05Z", (46 << 9 | 1 << 5 | 2) << 16 | 3 << 11 | 4 << 5 | 2),
            ("1970-01-01T00:00:00Z", (1 << 5 | 1) << 16),
            ("3000-01-01T00:00:00Z", (127 << 9 | 12 << 5 | 31) << 16),
        ] {
            assert_eq!(dos_time(time.parse().unwrap()), expected, "{time}");
        }
    }

    #[test]
    fn the_zip_crate_reads_what_is_written() {
        let mut out = Vec::new();
        let mut zip = ZipWriter::new(&mut out, "2026-01-02T03:04:05Z".parse().unwrap());
        zip.add("日本.vhdx", &MemoryStorage::new(vec![7; 100_000]), &mut |_| Ok(())).unwrap();
        zip.add("empty", &MemoryStorage::new(Vec::new()), &mut |_| Ok(())).unwrap();
        let length = zip.finish().unwrap();
        assert_eq!(length, out.len() as u64);
        let mut archive = zip::ZipArchive::new(io::Cursor::new(out)).unwrap();
        archive.validate_header_consistency().unwrap();
        assert_eq!(archive.len(), 2);
        let mut file = archive.by_index(0).unwrap();
        assert_eq!((file.name().unwrap().as_ref(), file.size()), ("日本.vhdx", 100_000));
        assert_eq!(io::copy(&mut file, &mut io::sink()).unwrap(), 100_000);
    }
}
