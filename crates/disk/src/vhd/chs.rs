//! Cylinders, heads and sectors: the size of a disk as BIOSes of the nineties saw it.

/// A disk's geometry as a VHD footer records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chs {
    /// Number of cylinders.
    pub cylinders: u16,
    /// Heads per cylinder.
    pub heads: u8,
    /// Sectors per track.
    pub sectors: u8,
}

impl Chs {
    /// What larger disks have: about 127.5 GiB.
    pub const MAX: Self = Self { cylinders: 65535, heads: 16, sectors: 255 };

    /// The geometry of a disk of so many bytes; its product is at most the size, and often less.
    ///
    /// The rule is the format's own, and readers that count cylinders expect its results.
    pub(super) fn of(virtual_size: u64) -> Self {
        const MAX_SECTORS: u64 = 65535 * 16 * 255;
        let total = (virtual_size / 512).min(MAX_SECTORS);
        let (sectors, heads) = if total >= 65535 * 16 * 63 {
            (255, 16)
        } else {
            let heads = (total / 17).div_ceil(1024).max(4);
            if heads <= 16 && total / 17 < heads * 1024 {
                (17, heads)
            } else if total / 31 < 16 * 1024 {
                (31, 16)
            } else {
                (63, 16)
            }
        };
        let cylinders = total / sectors / heads;
        Self { cylinders: cylinders as u16, heads: heads as u8, sectors: sectors as u8 }
    }

    /// Bytes in all of its sectors.
    pub fn size(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors) * 512
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(virtual_size: u64, cylinders: u16, heads: u8, sectors: u8) {
        let chs = Chs::of(virtual_size);
        assert_eq!(chs, Chs { cylinders, heads, sectors });
        assert!(chs.size() <= virtual_size);
    }

    #[test]
    fn geometries_are_those_of_other_writers() {
        // Hyper-V's own file, then QEMU's.
        check(136_365_211_648, 65278, 16, 255);
        check(4_212_736, 121, 4, 17);
        check(104_448, 3, 4, 17);
    }

    #[test]
    fn every_step_of_the_rule_is_taken() {
        check(30 << 20, 903, 4, 17);
        check(100 << 20, 1003, 12, 17);
        check(200 << 20, 825, 16, 31);
        check(4 << 30, 8322, 16, 63);
        check(64 << 30, 32896, 16, 255);
        check(2040 << 30, 65535, 16, 255);
        check(512, 0, 4, 17);
    }
}
