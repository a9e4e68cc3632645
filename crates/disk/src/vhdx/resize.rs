//! Changing the size of a VHDX file's virtual disk.
//!
//! ```text
//!   grow     clear what lies behind the old end ─► new BAT entries, or a larger BAT elsewhere
//!                                                     └─► one log entry: size, region tables
//!   shrink   one log entry: size ─► entries behind the new end ─► clear what lies behind it
//! ```
//! What lies behind the disk's end, in the last block and in the BAT, is nobody's business while it lies there; so it is made ready
//! before the disk grows over it, and cleared after the disk has shrunk. A crash finds the old size or the new one.
//!
//! Source: [MS-VHDX] 2.2.3 (region tables), 2.5 (number of BAT entries), 2.6.2.2 (virtual disk size).

use std::ops::Range;
use std::sync::Arc;

use super::bat::{Layout, Payload};
use super::layer::{Block, Layer};
use super::metadata;
use super::{Kind, MIB};
use crate::disk::Geometry;
use crate::error::{During, Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::layer::Place;
use crate::resize::ResizeOptions;
use crate::storage::Storage;
use crate::watch::{self, Watch};
use crate::zeros;

const BUFFER: usize = MIB as usize;
/// Entries of a new BAT that are written at once.
const STEP: u64 = MIB / 8;

/// Makes the disk `size` bytes long; durable on return. That a parent is not larger is the caller's to check.
pub(crate) fn resize(
    storage: Arc<dyn Storage>,
    size: u64,
    options: &ResizeOptions,
    watch: &dyn Watch,
) -> Result<()> {
    let layer = Layer::open(storage.clone())?;
    layer.layout_of(size)?;
    let present = layer.geometry().virtual_size;
    if size == present {
        return Ok(());
    }
    if size < present && !options.allow_loss {
        layer.check_loss(size, watch)?;
    }
    // What is cleared behind the disk's end is to be nobody else's.
    layer.check_space()?;
    // A failure before the size changes leaves children linked: DataWriteGuid is changed with it.
    let layer = layer.into_maintained(storage.clone())?;
    let layer = match size > present {
        true => layer.grown(size, Guid::random())?,
        false => layer.shrunk(size, Guid::random())?,
    };
    layer.settle()?;
    storage.sync().during("sync the resized file")
}

impl Layer {
    /// Makes the disk longer; the new bytes read as zeros. Durable on return.
    ///
    /// The layer is writable, and the session's DataWriteGuid becomes `data_write_guid` before the change can be seen. After an
    /// error the disk has one of the two sizes, and the file is closed.
    pub(crate) fn grown(mut self, size: u64, data_write_guid: Guid) -> Result<Self> {
        let layout = self.layout_of(size)?;
        // From here on what lies in the file is what the pages hold.
        self.flush()?;
        self.clear_tail()?;
        let bat = match self.entries(&layout) * 8 <= self.regions.bat.end - self.regions.bat.start {
            true => {
                self.prepare_entries(&layout)?;
                None
            }
            false => Some(self.copy_bat(&layout)?),
        };
        self.switch(layout, bat, data_write_guid)?;
        self.flush()?;
        Ok(self)
    }

    /// Makes the disk shorter, whatever it holds behind its new end. Durable on return.
    ///
    /// As [`Layer::grown`] otherwise.
    pub(crate) fn shrunk(mut self, size: u64, data_write_guid: Guid) -> Result<Self> {
        let (layout, old) = (self.layout_of(size)?, self.layout);
        // Blocks are counted while the BAT still names them; then they can be given up.
        self.with_space(|_| ())?;
        self.flush()?;
        self.switch(layout, None, data_write_guid)?;
        for slot in layout.payload_slot(layout.blocks() - 1) + 1..self.entries(&old) {
            let entry = self.bat_entry(slot)?;
            if entry != 0 && !self.is_slot_of(&layout, slot) {
                self.publish_slot(slot, 0, self.used_by(&old, slot, entry)?)?;
            }
        }
        self.flush()?;
        self.clear_tail()?;
        Ok(self)
    }

    /// Returns the layout of a disk that differs from this one in size. Fails for a size that the format does not allow.
    fn layout_of(&self, size: u64) -> Result<Layout> {
        let geometry = Geometry { virtual_size: size, ..self.geometry() };
        metadata::check(geometry, self.block_size())?;
        Ok(Layout::new(size, self.block_size(), geometry.logical_sector))
    }

    /// Fails with [`ErrorKind::DataLoss`] when this file holds other bytes than zeros from `size` on.
    fn check_loss(&self, size: u64, watch: &dyn Watch) -> Result<()> {
        let length = self.layout.virtual_size - size;
        let (mut runs, mut buffer, mut done) = (Vec::new(), vec![0; BUFFER], 0);
        for piece in self.pieces(size, length) {
            runs.clear();
            self.map_piece(&piece, &mut runs)?;
            for run in &runs {
                let Place::Here(at) = run.place else {
                    done += run.length;
                    continue;
                };
                let start = size + done;
                let range = at..at + run.length;
                let zeros = zeros::holds_zeros(&*self.storage, range, &mut buffer, |bytes| {
                    done += bytes;
                    watch::advance(watch, done, length)
                })?;
                if !zeros {
                    let message = format!("the disk holds data behind {start:#x}");
                    return Err(Error::new(ErrorKind::DataLoss, message));
                }
            }
        }
        watch::advance(watch, done, length)
    }

    /// Makes the last block zeros behind the disk's end.
    fn clear_tail(&self) -> Result<()> {
        let last = self.layout.blocks() - 1;
        let used = self.layout.bytes_in(last);
        match self.block(last)? {
            Block::Full(data) | Block::Partial { data, .. } if used < self.layout.block_size => {
                self.punch(data + used, self.layout.block_size - used)
            }
            _ => Ok(()),
        }
    }

    /// Whether a disk of this layout has such a BAT entry, and may use it.
    fn is_slot_of(&self, layout: &Layout, slot: u64) -> bool {
        match layout.block_of(slot) {
            Some(block) => block < layout.blocks(),
            None => self.parent().is_some() && slot < layout.differencing_entries(),
        }
    }

    /// Returns what a BAT entry is to be in a longer disk; takes the space of a fixed disk's new blocks.
    fn grown_entry(&self, layout: &Layout, slot: u64) -> Result<u64> {
        if self.is_slot_of(&self.layout, slot) {
            return self.bat_entry(slot);
        }
        match self.kind() {
            // Whatever is there was left behind by somebody who did not finish shrinking the disk.
            _ if layout.is_bitmap_slot(slot) || !self.is_slot_of(layout, slot) => Ok(0),
            Kind::Dynamic => Ok(Payload::NotPresent.encode()),
            Kind::Fixed => {
                self.allocated(self.layout.block_size, |at| Ok(Payload::Full(at).encode()))
            }
            // Not every reader knows what a parent holds behind its end; this one is not asked.
            Kind::Differencing => Ok(Payload::Zero.encode()),
        }
    }

    /// Makes entries behind the disk's last ready for a longer disk.
    fn prepare_entries(&self, layout: &Layout) -> Result<()> {
        let last = self.layout.payload_slot(self.layout.blocks() - 1);
        for slot in last + 1..self.entries(layout) {
            let entry = self.grown_entry(layout, slot)?;
            if entry != self.bat_entry(slot)? {
                self.publish_slot(slot, entry, None)?;
            }
        }
        Ok(())
    }

    /// Writes a BAT for a longer disk into free space, and returns where; it is not in use yet.
    fn copy_bat(&self, layout: &Layout) -> Result<Range<u64>> {
        // For every disk, so that one without parent can get one without moving its BAT.
        let length = (layout.differencing_entries() * 8).next_multiple_of(MIB);
        let start = self.allocated(length, Ok)?;
        let end = self.entries(layout);
        let mut bytes = Vec::new();
        for first in (0..end).step_by(STEP as usize) {
            bytes.clear();
            for slot in first..end.min(first + STEP) {
                bytes.extend(self.grown_entry(layout, slot)?.to_le_bytes());
            }
            if bytes.iter().any(|byte| *byte != 0) {
                self.storage.write_at(start + first * 8, &bytes).during("write the new BAT")?;
            }
        }
        Ok(start..start + length)
    }

    /// Changes the size, and where the BAT is, as one step; and what is known of both in memory. Not durable before the next flush.
    fn switch(&mut self, layout: Layout, bat: Option<Range<u64>>, guid: Guid) -> Result<()> {
        let storage = &*self.storage;
        let mut pages = metadata::resize(storage, &self.regions.metadata, layout.virtual_size)?;
        let (mut regions, mut freed) = (self.regions.clone(), None);
        if let Some(bat) = bat {
            pages.extend(regions.move_bat(storage, bat)?);
            freed = Some(self.regions.bat.clone());
        }
        self.set_data_write_guid(guid)?;
        self.publish_pages(pages, freed.clone())?;
        if let Some(old) = freed {
            self.pages.write().forget(old);
        }
        self.regions = regions;
        self.layout = layout;
        self.metadata.geometry.virtual_size = layout.virtual_size;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChildOptions, CreateOptions, format, format_child};
    use super::*;
    use crate::chain::index::Index;
    use crate::storage::MemoryStorage;

    #[test]
    fn a_grown_layer_is_written_on_in_the_space_of_its_old_bat() {
        let base: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        format(&*base, &CreateOptions::new(8 * MIB)).unwrap();
        let child: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        let parent = Layer::open(base.clone()).unwrap();
        let options = ChildOptions { block_size: 1 << 20, ..ChildOptions::default() };
        format_child(&*child, &parent.as_parent(), r".\base.vhdx", &options).unwrap();
        let below = Index::new(vec![Arc::new(parent.into())]);
        let layer = Layer::open(child.clone()).unwrap().into_maintained(child.clone()).unwrap();
        // The BAT is in memory, and is to be forgotten when it moves.
        let old = layer.regions.bat.clone();
        layer.write(0, &vec![7; MIB as usize], &below).unwrap();

        let guid = Guid::random();
        let layer = layer.grown(1 << 38, guid).unwrap();
        assert!(layer.regions.bat != old && layer.data_write_guid() == guid);
        layer.write(MIB, &[8; 512], &below).unwrap();
        assert_eq!(layer.bitmap_block(1).unwrap(), Some(old.start));
        layer.write((1 << 38) - 512, &[9; 512], &below).unwrap();
        layer.settle().unwrap();

        let layer = Layer::open(child).unwrap();
        assert_eq!((layer.data_write_guid(), layer.geometry().virtual_size), (guid, 1 << 38));
        for (at, expected) in [(0, 7), (MIB, 8), (MIB + 512, 0), (8 * MIB, 0), ((1 << 38) - 512, 9)]
        {
            let mut sector = [1; 512];
            layer.read(at, &mut sector, &below).unwrap();
            assert_eq!(sector, [expected; 512], "at {at:#x}");
        }
    }
}
