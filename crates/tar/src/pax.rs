//! PAX extended header records: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record.
//!
//! Sources: POSIX.1-2017 pax, "pax Extended Header"; GNU tar manual, "Storing Sparse Files".

/// What the records say about the next entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Its path.
    pub path: Option<Vec<u8>>,
    /// Its link's target.
    pub link: Option<Vec<u8>>,
    /// Bytes stored for it.
    pub size: Option<u64>,
    /// Its owner.
    pub uid: Option<u64>,
    /// Its group.
    pub gid: Option<u64>,
    /// Its modification time: seconds and nanoseconds.
    pub mtime: Option<(i64, u32)>,
    /// Its extended attributes: name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its holes.
    pub sparse: Sparse,
}

/// GNU tar's records about a file with holes, in all three of its versions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sparse {
    /// The path; the entry's own is a made-up one.
    pub name: Option<Vec<u8>>,
    /// The file's size; absent where it has no holes.
    pub size: Option<u64>,
    /// Version 1.0: the map stands in front of the data.
    pub has_map_in_data: bool,
    /// Versions 0.0 and 0.1: offset and length of each piece.
    pub segments: Vec<(u64, u64)>,
}

impl Records {
    /// Reads all records; `None` where they are malformed.
    pub fn parse(mut bytes: &[u8]) -> Option<Self> {
        let mut records = Self::default();
        while !bytes.is_empty() {
            let space = bytes.iter().position(|byte| *byte == b' ')?;
            let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
            let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|byte| *byte == b'=')?;
            records.take(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Some(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Some(());
        }
        // An empty value takes the record back.
        let bytes = || (!value.is_empty()).then(|| value.to_vec());
        let number = || if value.is_empty() { Some(None) } else { decimal(value).map(Some) };
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.name" => self.sparse.name = bytes(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = number()?,
            b"GNU.sparse.major" => self.sparse.has_map_in_data = value == b"1",
            b"GNU.sparse.map" => self.sparse.segments = pairs(value)?,
            b"GNU.sparse.offset" => self.sparse.segments.push((decimal(value)?, 0)),
            b"GNU.sparse.numbytes" => self.sparse.segments.last_mut()?.1 = decimal(value)?,
            _ => {}
        }
        Some(())
    }
}

fn pairs(value: &[u8]) -> Option<Vec<(u64, u64)>> {
    let mut numbers = value.split(|byte| *byte == b',').map(decimal);
    let mut pairs = Vec::new();
    while let Some(offset) = numbers.next() {
        pairs.push((offset?, numbers.next()??));
    }
    Some(pairs)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?.parse().ok()
}

/// Seconds since 1970 with a fraction, possibly negative: `-1.25` is 1.25 s before.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    match (whole.starts_with('-'), nanos) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        _ => Some((seconds, nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_the_last_of_a_kind_wins() {
        let records = Records::parse(
            b"9 path=a\n9 path=b\n30 mtime=1350244992.023960108\n19 SCHILY.xattr.a=\n",
        )
        .unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"b"[..]));
        assert_eq!(records.mtime, Some((1_350_244_992, 23_960_108)));
        assert_eq!(records.xattrs, [(b"a".to_vec(), b"".to_vec())]);
    }

    #[test]
    fn times_before_1970_have_nanoseconds_that_count_forward() {
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-1"), Some((-1, 0)));
        assert_eq!(time(b"7.1234567891"), Some((7, 123_456_789)));
        assert_eq!(time(b"1.x"), None);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bytes in [
            &b"99 path=a\n"[..],
            b"8 path=a\n",
            b"5 abc\n",
            b"x path=a\n",
            b"0 ",
            b"2 \n",
            b"10 size=x\n",
            b"18446744073709551615 a=b\n",
            b"26 GNU.sparse.numbytes=12\n",
        ] {
            assert_eq!(Records::parse(bytes), None, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
