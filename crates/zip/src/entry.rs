//! What the directory says of an entry.
//!
//! Source: APPNOTE.TXT 6.3.10, 4.3.12, 4.4, 4.5.3 and 4.6.9.

use crate::error::{Error, Result};
use crate::fields::Fields;

const SIGNATURE: u32 = u32::from_le_bytes(*b"PK\x01\x02");
/// Encrypted, strongly encrypted, with a masked header.
pub(crate) const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
const UTF_8: u16 = 1 << 11;
const ZIP64_FIELD: u16 = 1;
const UNICODE_PATH_FIELD: u16 = 0x7075;
const ELSEWHERE: u32 = u32::MAX;
const UNIX: u8 = 3;

/// One of an archive's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, of whatever letters; what is written in no known way is `_`.
    pub name: String,
    /// Bytes it has.
    pub length: u64,
    /// What it is.
    pub kind: Kind,
    /// How its bytes are written.
    pub method: Method,
    /// They are encrypted.
    pub is_encrypted: bool,
    /// When it was changed, by a clock of no known zone; `None` where the archive does not say.
    pub time: Option<Time>,
    /// Bytes in the archive.
    pub compressed: u64,
    pub(crate) crc: u32,
    /// Where its local header is, and its bytes, once that was looked at.
    pub(crate) header: u64,
    pub(crate) data: u64,
    pub(crate) flags: u16,
    /// Its name as it is written.
    pub(crate) raw_name: Vec<u8>,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, a device, or another thing that is no file.
    Other,
}

/// How an entry's bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// As they are.
    Stored,
    /// Deflated.
    Deflated,
    /// In a way that is not read here.
    Other(u16),
}

/// A time as MS-DOS knew it; its numbers may be out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// 1980 to 2107.
    pub year: u16,
    /// 1 to 12, or not.
    pub month: u8,
    /// 1 to 31, or not.
    pub day: u8,
    /// 0 to 23, or not.
    pub hour: u8,
    /// 0 to 59, or not.
    pub minute: u8,
    /// Even.
    pub second: u8,
}

/// Takes the next entry from a directory.
pub(crate) fn take(directory: &mut Fields<'_>) -> Result<Entry> {
    let number = |entry: Option<Entry>| {
        entry.ok_or_else(|| Error::malformed("its directory is cut off or damaged"))
    };
    number(parse(directory))
}

fn parse(fields: &mut Fields<'_>) -> Option<Entry> {
    if fields.u32()? != SIGNATURE {
        return None;
    }
    let made_by = fields.u16()?.to_be_bytes()[0];
    let _version = fields.u16()?;
    let flags = fields.u16()?;
    let method = Method::of(fields.u16()?);
    let (clock, date) = (fields.u16()?, fields.u16()?);
    let crc = fields.u32()?;
    let (compressed, length) = (fields.u32()?, fields.u32()?);
    let lengths = [fields.u16()?, fields.u16()?, fields.u16()?].map(usize::from);
    let (disk, _internal) = (fields.u16()?, fields.u16()?);
    let (attributes, header) = (fields.u32()?, fields.u32()?);
    let raw_name = fields.bytes(lengths[0])?;
    let extra = fields.bytes(lengths[1])?;
    let _comment = fields.bytes(lengths[2])?;

    let mut wide = Fields(field(extra, ZIP64_FIELD).unwrap_or_default());
    let mut number = |number: u32| match number {
        ELSEWHERE => wide.u64(),
        plain => Some(plain.into()),
    };
    let (length, compressed, header) = (number(length)?, number(compressed)?, number(header)?);
    let disk = match disk {
        u16::MAX => wide.u32()?,
        plain => plain.into(),
    };
    if disk != 0 {
        return None;
    }
    let name = name(raw_name, flags, extra);
    let kind = Kind::of(&name, made_by, attributes);
    let is_encrypted = flags & ENCRYPTED != 0;
    let (raw_name, time) = (raw_name.to_vec(), Time::of(date, clock));
    let data = 0;
    Some(Entry {
        name,
        length,
        kind,
        method,
        is_encrypted,
        time,
        compressed,
        crc,
        header,
        data,
        flags,
        raw_name,
    })
}

/// Finds an extra field.
fn field(extra: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut fields = Fields(extra);
    loop {
        let (id, length) = (fields.u16()?, fields.u16()?);
        let content = fields.bytes(length.into())?;
        if id == wanted {
            return Some(content);
        }
    }
}

fn name(raw: &[u8], flags: u16, extra: &[u8]) -> String {
    let in_unicode = || {
        let mut fields = Fields(field(extra, UNICODE_PATH_FIELD)?);
        let [1] = fields.bytes(1)? else { return None };
        let is_of_this = fields.u32()? == crc32fast::hash(raw);
        std::str::from_utf8(fields.0).ok().filter(|_| is_of_this).map(ToOwned::to_owned)
    };
    if flags & UTF_8 == 0
        && let Some(name) = in_unicode()
    {
        return name;
    }
    match std::str::from_utf8(raw) {
        Ok(name) => name.to_owned(),
        // A code page that the archive does not tell.
        Err(_) => {
            raw.iter().map(|byte| if byte.is_ascii() { *byte as char } else { '_' }).collect()
        }
    }
}

impl Kind {
    fn of(name: &str, made_by: u8, attributes: u32) -> Kind {
        const TYPE: u32 = 0o170_000;
        const FILE: u32 = 0o100_000;
        const FOLDER: u32 = 0o040_000;
        let mode = if made_by == UNIX { (attributes >> 16) & TYPE } else { 0 };
        match mode {
            _ if name.ends_with(['/', '\\']) => Kind::Folder,
            FOLDER => Kind::Folder,
            0 | FILE => Kind::File,
            _ => Kind::Other,
        }
    }
}

impl Method {
    pub(crate) fn of(number: u16) -> Method {
        match number {
            0 => Method::Stored,
            8 => Method::Deflated,
            other => Method::Other(other),
        }
    }
}

impl Time {
    fn of(date: u16, clock: u16) -> Option<Time> {
        let part =
            |number: u16, shift: u32, bits: u32| ((number >> shift) & ((1 << bits) - 1)) as u8;
        (date != 0).then(|| Time {
            year: 1980 + (date >> 9),
            month: part(date, 5, 4),
            day: part(date, 0, 5),
            hour: part(clock, 11, 5),
            minute: part(clock, 5, 6),
            second: part(clock, 0, 5) * 2,
        })
    }
}
