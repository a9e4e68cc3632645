//! Whether two disks hold the same bytes.

use crate::disk::{Disk, Extent, ExtentKind};
use crate::error::Result;
use crate::extents::Extents;
use crate::watch::{Watch, advance};

/// What is read of each disk at once.
const STEP: u64 = 1 << 20;

/// Returns the first byte at which two disks differ; `None` when they hold the same.
///
/// A disk that is smaller reads as zeros past its end. What both know to be zeros is not read. Progress counts bytes of the larger disk.
pub fn first_difference(a: &dyn Disk, b: &dyn Disk, watch: &dyn Watch) -> Result<Option<u64>> {
    let size = a.geometry().virtual_size.max(b.geometry().virtual_size);
    let mut sides = [Side::new(a), Side::new(b)];
    let mut at = 0;
    while at < size {
        advance(watch, at, size)?;
        let mut end = size;
        for side in &mut sides {
            end = end.min(side.look(at, size)?);
        }
        if sides.iter().any(Side::has_data) {
            end = end.min(at + STEP);
            let [a, b] = &mut sides;
            let (a, b) = (a.read(at, end)?, b.read(at, end)?);
            if a != b {
                let equal = a.iter().zip(b).take_while(|(a, b)| a == b).count();
                return Ok(Some(at + equal as u64));
            }
        }
        for side in &mut sides {
            side.extents.take(end)?;
        }
        at = end;
    }
    advance(watch, size, size)?;
    Ok(None)
}

/// One of the two.
struct Side<'a> {
    disk: &'a dyn Disk,
    extents: Extents<'a>,
    /// What was looked at; `None` past the disk's end.
    now: Option<Extent>,
    buffer: Vec<u8>,
}

impl<'a> Side<'a> {
    fn new(disk: &'a dyn Disk) -> Self {
        Self { disk, extents: Extents::new(disk), now: None, buffer: Vec::new() }
    }

    /// Looks at the extent that starts at `at`, and returns where it ends.
    fn look(&mut self, at: u64, size: u64) -> Result<u64> {
        self.now = self.extents.peek()?;
        Ok(self.now.map_or(size, |extent| at + extent.length))
    }

    fn has_data(&self) -> bool {
        self.now.is_some_and(|extent| extent.kind == ExtentKind::Data)
    }

    fn read(&mut self, at: u64, end: u64) -> Result<&[u8]> {
        self.buffer.resize((end - at) as usize, 0);
        match self.has_data() {
            true => self.disk.read_at(at, &mut self.buffer)?,
            false => self.buffer.fill(0),
        }
        Ok(&self.buffer)
    }
}
