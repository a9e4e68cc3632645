//! The footer: 512 bytes that say what the disk is.
//!
//! ```text
//!   fixed                    data … │ footer        the last 512 bytes of the file count
//!   dynamic, differencing    copy │ header │ … │ footer
//! ```
//! A footer at the end that is missing or damaged, as a crash while the file grew may leave it, is replaced by
//! the copy at offset 0; of a fixed disk that place is the guest's, so a copy is never one of a fixed disk.

use std::time::{Duration, SystemTime};

use super::bytes::{Checksums, Fields, FieldsMut, checksum};
use super::chs::Chs;
use super::{Kind, MAX_FIXED, MAX_SPARSE, SECTOR};
use crate::error::{During, Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::storage::Storage;

pub(super) const FOOTER: u64 = 512;
pub(super) const COOKIE: &[u8; 8] = b"conectix";
const CHECKSUM: usize = 64;
const VERSION: u32 = 0x0001_0000;
/// Offset of a header that is not there.
const NONE: u64 = u64::MAX;
/// 2000-01-01 00:00:00 UTC in seconds since 1970.
const EPOCH: u64 = 946_684_800;

/// A footer whose fields are within their limits.
///
/// Kept as the bytes it came in, so that what others store in its unused part survives a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    record: [u8; FOOTER as usize],
    kind: Kind,
}

/// Where the footer that counts was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The last 512 bytes of the file.
    AtEnd,
    /// Only the copy at offset 0 is good.
    Copy,
    /// The last 511 bytes, as early versions of Virtual PC wrote it.
    Short,
}

impl Footer {
    /// Reads the footer of a file, from the first place that has a good one.
    ///
    /// Fails with [`ErrorKind::Corrupt`] when none has; the error is then that of the footer at the end.
    pub fn find(storage: &dyn Storage, checksums: Checksums) -> Result<(Self, Found)> {
        let length = storage.len().during("read the file's length")?;
        let at_end = Self::at_end(storage, length, checksums);
        let refused = match at_end {
            Ok(footer) => return Ok((footer, Found::AtEnd)),
            Err(error) if error.kind() == ErrorKind::Corrupt => error,
            Err(error) => return Err(error),
        };
        if let Ok(footer) = Self::copy(storage, checksums) {
            return Ok((footer, Found::Copy));
        }
        let mut record = [0; FOOTER as usize];
        if length > FOOTER {
            let short = &mut record[..511];
            storage.read_at(length - 511, short).during("read the footer")?;
            if let Ok(footer) = Self::decode(record, checksums) {
                return Ok((footer, Found::Short));
            }
        }
        Err(refused)
    }

    /// Reads the footer that ends a file of this length.
    pub fn at_end(storage: &dyn Storage, length: u64, checksums: Checksums) -> Result<Self> {
        let missing = || Error::corrupt("not a VHD file: it is too short");
        let at = length.checked_sub(FOOTER).ok_or_else(missing)?;
        Self::read(storage, at, checksums)
    }

    /// Reads the copy at the file's beginning. A fixed disk has none.
    pub fn copy(storage: &dyn Storage, checksums: Checksums) -> Result<Self> {
        let footer = Self::read(storage, 0, checksums)?;
        match footer.kind {
            Kind::Fixed => Err(Error::corrupt("a fixed disk has no copy of its footer")),
            Kind::Dynamic | Kind::Differencing => Ok(footer),
        }
    }

    fn read(storage: &dyn Storage, at: u64, checksums: Checksums) -> Result<Self> {
        let mut record = [0; FOOTER as usize];
        storage.read_at(at, &mut record).during("read the footer")?;
        Self::decode(record, checksums)
    }

    fn decode(record: [u8; FOOTER as usize], checksums: Checksums) -> Result<Self> {
        let fields = record.as_slice();
        if &fields.bytes(0) != COOKIE {
            return Err(Error::corrupt("the VHD footer is missing"));
        }
        if checksums == Checksums::Required && fields.u32(CHECKSUM) != checksum(fields, CHECKSUM) {
            return Err(Error::corrupt("the VHD footer's checksum is wrong"));
        }
        if fields.u32(12) >> 16 != VERSION >> 16 {
            let message = format!("VHD version {:#x} is not known", fields.u32(12));
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let kind = match fields.u32(60) {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => Kind::Differencing,
            other => {
                let message = format!("disk type {other} is not known");
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        };
        let footer = Self { record, kind };
        check_size(kind, footer.virtual_size())
            .map_err(|error| Error::corrupt(error.to_string()))?;
        Ok(footer)
    }

    /// Makes the footer of a new disk. The size is within its limits.
    pub fn new(kind: Kind, virtual_size: u64, unique_id: Guid, header: Option<u64>) -> Self {
        let mut record = [0; FOOTER as usize];
        record.put(0, COOKIE);
        // Reserved, always set.
        record.put(8, &2u32.to_be_bytes());
        record.put(12, &VERSION.to_be_bytes());
        record.put(16, &header.unwrap_or(NONE).to_be_bytes());
        record.put(24, &to_seconds(SystemTime::now()).to_be_bytes());
        let code: u32 = match kind {
            Kind::Fixed => 2,
            Kind::Dynamic => 3,
            Kind::Differencing => 4,
        };
        record.put(60, &code.to_be_bytes());
        record.put(68, &unique_id.to_big_endian());
        let mut footer = Self { record, kind };
        footer.set_virtual_size(virtual_size);
        footer
    }

    /// The footer as it lies in the file.
    pub fn record(&self) -> &[u8; FOOTER as usize] {
        &self.record
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn virtual_size(&self) -> u64 {
        self.record.as_slice().u64(48)
    }

    /// Where the dynamic header is; anything for a fixed disk.
    pub fn header_offset(&self) -> u64 {
        self.record.as_slice().u64(16)
    }

    pub fn unique_id(&self) -> Guid {
        self.record.as_slice().guid(68)
    }

    pub fn chs(&self) -> Chs {
        let fields = self.record.as_slice();
        Chs { cylinders: fields.u16(56), heads: self.record[58], sectors: self.record[59] }
    }

    /// Four letters: which program made the file.
    pub fn creator(&self) -> [u8; 4] {
        self.record.as_slice().bytes(28)
    }

    pub fn created(&self) -> SystemTime {
        from_seconds(self.record.as_slice().u32(24))
    }

    /// Whether a virtual machine was suspended on the disk.
    pub fn saved_state(&self) -> bool {
        self.record[84] != 0
    }

    pub fn set_unique_id(&mut self, unique_id: Guid) {
        self.record.put(68, &unique_id.to_big_endian());
        self.seal();
    }

    pub fn set_header_offset(&mut self, offset: u64) {
        self.record.put(16, &offset.to_be_bytes());
        self.seal();
    }

    /// Changes size and geometry. Names a creator whose sizes readers take for exact: of most others' files QEMU
    /// believes the cylinders.
    pub fn set_virtual_size(&mut self, virtual_size: u64) {
        self.record.put(48, &virtual_size.to_be_bytes());
        // The size the disk was made with: nobody needs it, and libvhdi takes it for the present one.
        self.record.put(40, &virtual_size.to_be_bytes());
        self.record.put(28, b"win ");
        // Windows 10.
        self.record.put(32, &0x000A_0000u32.to_be_bytes());
        self.record.put(36, b"Wi2k");
        self.set_chs(Chs::of(virtual_size));
    }

    /// Changes size and unique id: children do not fit the disk any more.
    pub fn resize(&mut self, virtual_size: u64, unique_id: Guid) {
        self.set_unique_id(unique_id);
        self.set_virtual_size(virtual_size);
    }

    /// Changes the geometry alone: a child has its parent's.
    pub fn set_chs(&mut self, chs: Chs) {
        self.record.put(56, &chs.cylinders.to_be_bytes());
        self.record.put(58, &[chs.heads, chs.sectors]);
        self.seal();
    }

    fn seal(&mut self) {
        let sum = checksum(&self.record, CHECKSUM);
        self.record.put(CHECKSUM, &sum.to_be_bytes());
    }

    /// The size that QEMU and Virtual PC see where it is another than ours.
    ///
    /// They multiply cylinders, heads and sectors unless the geometry is the largest there is, or the creator one of those that
    /// are known to mean the size.
    pub fn chs_size(&self) -> Option<u64> {
        let by_size = [b"win ", b"qem2", b"d2v ", b"CTXS", b"tap\0"].contains(&&self.creator());
        let size = self.chs().size();
        (!by_size && self.chs() != Chs::MAX && size != self.virtual_size()).then_some(size)
    }
}

/// Checks a virtual disk's size in bytes.
pub(super) fn check_size(kind: Kind, virtual_size: u64) -> Result<()> {
    let limit = match kind {
        Kind::Fixed => MAX_FIXED,
        Kind::Dynamic | Kind::Differencing => MAX_SPARSE,
    };
    if virtual_size == 0 || virtual_size > limit || !virtual_size.is_multiple_of(SECTOR) {
        let message = format!(
            "a {kind} VHD of {virtual_size} bytes; it is a multiple of 512, up to {} GiB",
            limit >> 30
        );
        return Err(Error::new(ErrorKind::OutOfRange, message));
    }
    Ok(())
}

/// A time as VHD stores it: seconds since 2000. Times before or long after become the nearest there is.
pub(super) fn to_seconds(time: SystemTime) -> u32 {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u32::try_from(since_1970.as_secs().saturating_sub(EPOCH)).unwrap_or(u32::MAX)
}

pub(super) fn from_seconds(seconds: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH + u64::from(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn footer(kind: Kind) -> Footer {
        Footer::new(kind, 3 << 20, Guid::random(), None)
    }

    /// What is found in a file of these bytes.
    fn find(parts: &[&[u8]]) -> Result<(Footer, Found)> {
        Footer::find(&MemoryStorage::new(parts.concat()), Checksums::Required)
    }

    #[test]
    fn survives_a_round_trip() {
        for kind in [Kind::Fixed, Kind::Dynamic, Kind::Differencing] {
            let footer = footer(kind);
            let (found, place) = find(&[&[0; 1000], footer.record()]).unwrap();
            assert_eq!((&found, place), (&footer, Found::AtEnd));
            assert_eq!((found.kind(), found.virtual_size()), (kind, 3 << 20));
            assert!(found.created().elapsed().unwrap() < Duration::from_secs(3600));
        }
    }

    #[test]
    fn the_end_counts_then_the_copy_then_a_short_footer() {
        let (end, copy) = (footer(Kind::Dynamic), footer(Kind::Dynamic));
        let fixed = footer(Kind::Fixed);
        let found = |parts: &[&[u8]]| find(parts).unwrap();
        assert_eq!(found(&[copy.record(), &[0; 512], end.record()]), (end, Found::AtEnd));
        assert_eq!(found(&[copy.record(), &[0; 5000]]), (copy.clone(), Found::Copy));
        // A fixed disk's first sector is the guest's.
        let error = find(&[fixed.record(), &[0; 5000]]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let short = &fixed.record()[..511];
        assert_eq!(found(&[&[7; 5000], short]), (fixed.clone(), Found::Short));
    }

    #[test]
    fn a_wrong_checksum_is_accepted_only_where_that_is_wanted() {
        let mut record = *footer(Kind::Dynamic).record();
        record[30] ^= 1;
        assert!(Footer::decode(record, Checksums::Required).is_err());
        assert!(Footer::decode(record, Checksums::Ignored).is_ok());
    }

    #[test]
    fn others_unused_bytes_survive_a_change_of_size() {
        let mut footer = footer(Kind::Dynamic);
        footer.record[85] = 1;
        footer.set_virtual_size(5 << 30);
        let (found, _) = find(&[footer.record()]).unwrap();
        assert_eq!((found.virtual_size(), found.record[85]), (5 << 30, 1));
    }

    #[test]
    fn only_files_of_some_creators_are_smaller_for_others() {
        let mut footer = footer(Kind::Fixed);
        footer.set_virtual_size(100 << 20);
        assert_eq!(footer.chs_size(), None);
        footer.record.put(28, b"vpc ");
        assert_eq!(footer.chs_size(), Some(1003 * 12 * 17 * 512));
        footer.record.put(56, &Chs::MAX.cylinders.to_be_bytes());
        footer.record.put(58, &[16, 255]);
        assert_eq!(footer.chs_size(), None);
    }

    #[test]
    fn times_before_2000_and_after_2136_are_bounded() {
        assert_eq!(to_seconds(SystemTime::UNIX_EPOCH), 0);
        assert_eq!(to_seconds(from_seconds(u32::MAX) + Duration::from_secs(9)), u32::MAX);
        assert_eq!(to_seconds(from_seconds(5)), 5);
    }
}
