//! Changing the size of a VHD file's virtual disk.
//!
//! ```text
//!   grow     clear what lies behind the old end ─► longer table ─► header ─► footer at the end ─► its copy
//!   shrink   footer at the end ─► its copy ─► entries behind the new end ─► header
//! ```
//! Each arrow is a sync. The footer at the end is one sector and says the size: a crash finds the old one or the new one. The table
//! grows where it is, since many take no blocks before it: blocks in the way move to the end first. Where other metadata
//! is in the way, the table moves instead.
//!
//! A fixed disk has one footer and no copy. It moves by a second one being written behind it, which says the same; only when the
//! bytes between are zeros does that one say the new size.

use std::ops::Range;
use std::sync::Arc;

use super::bat::{ENTRY, Layout};
use super::compact::copy;
use super::create::{check_new_size, fill_table};
use super::footer::{FOOTER, Footer, check_size};
use super::layer::{Body, Layer};
use super::space::Space;
use super::sparse::Sparse;
use super::{Kind, SECTOR};
use crate::error::{During, Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::layer::Place;
use crate::resize::ResizeOptions;
use crate::storage::Storage;
use crate::watch::{self, Watch};
use crate::zeros;

const BUFFER: usize = 1 << 20;

/// Makes the disk `size` bytes long, with another unique id; durable on return. That a parent is not larger is the caller's to check.
pub(crate) fn resize(
    storage: Arc<dyn Storage>,
    size: u64,
    options: &ResizeOptions,
    watch: &dyn Watch,
) -> Result<()> {
    let layer = Layer::open(storage.clone())?;
    let present = layer.geometry().virtual_size;
    if size == present {
        return Ok(());
    }
    match size > present {
        true => check_new_size(size)?,
        // A fixed disk that is too large for others may at least become smaller.
        false => check_size(Kind::Fixed, size)?,
    }
    if size < present && !options.allow_loss {
        layer.check_loss(size, watch)?;
    }
    // What is cleared behind the disk's end is to be nobody else's.
    layer.check_space()?;
    let layer = layer.into_writable(storage.clone())?;
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
    /// The layer is writable, and its unique id becomes `unique_id` with the size. After an error the disk has one of the two
    /// sizes, and the file is closed.
    pub(crate) fn grown(mut self, size: u64, unique_id: Guid) -> Result<Self> {
        let footer = self.resized_footer(size, unique_id);
        if let Body::Sparse(sparse) = &mut self.body {
            sparse.flush()?;
            sparse.clear_tail()?;
            sparse.lengthen_table(&Layout::new(size, sparse.header.block_size()))?;
            sparse.change_footers(|current| current.resize(size, unique_id))?;
            sparse.layout = Layout::new(size, sparse.header.block_size());
            self.footer = footer;
            return Ok(self);
        }
        self.switch_fixed(footer)
    }

    /// Makes the disk shorter, whatever it holds behind its new end. Durable on return. As [`Layer::grown`] otherwise.
    pub(crate) fn shrunk(mut self, size: u64, unique_id: Guid) -> Result<Self> {
        let footer = self.resized_footer(size, unique_id);
        if let Body::Sparse(sparse) = &mut self.body {
            // Blocks are counted while the table still has them; then they can be given up.
            sparse.with_space(|_| ())?;
            sparse.flush()?;
            sparse.change_footers(|current| current.resize(size, unique_id))?;
            let layout = Layout::new(size, sparse.header.block_size());
            for block in layout.blocks()..sparse.layout.blocks() {
                if let Some(at) = sparse.block(block)? {
                    sparse.give_up(block, at)?;
                }
            }
            sparse.flush()?;
            sparse.layout = layout;
            sparse.clear_tail()?;
            sparse.set_table(sparse.header.table_offset(), layout.blocks() as u32)?;
            self.footer = footer;
            return Ok(self);
        }
        self.switch_fixed(footer)
    }

    fn resized_footer(&self, size: u64, unique_id: Guid) -> Footer {
        let mut footer = self.footer.clone();
        footer.resize(size, unique_id);
        footer
    }

    /// Fails with [`ErrorKind::DataLoss`] when this file holds other bytes than zeros from `size` on.
    fn check_loss(&self, size: u64, watch: &dyn Watch) -> Result<()> {
        let (present, step) = (self.geometry().virtual_size, u64::from(self.block_size()));
        let (mut runs, mut buffer, mut done) = (Vec::new(), vec![0; BUFFER], 0);
        let length = present - size;
        while done < length {
            runs.clear();
            let start = size + done;
            self.map(start..present.min((start / step + 1) * step), &mut runs)?;
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

    /// Gives a fixed disk another footer, behind as many bytes as that says.
    fn switch_fixed(self, footer: Footer) -> Result<Self> {
        let storage = self.storage.clone();
        let sync = || storage.sync().during("sync the disk");
        let put = |at, footer: &Footer| {
            storage.write_at(at, footer.record()).during("write the footer")?;
            sync()
        };
        let (old, new) = (self.footer.virtual_size(), footer.virtual_size());
        let mut place = storage.len().during("read the file's length")? - FOOTER;
        let behind = place + FOOTER;
        if new > place {
            put(new, &self.footer)?;
            place = new;
        }
        if new > old {
            let cleared = behind.min(new) - old;
            storage.punch_hole(old, cleared).during("clear what lies behind the disk")?;
            sync()?;
        }
        put(place, &footer)?;
        if new < place {
            put(new, &footer)?;
            storage.set_len(new + FOOTER).during("cut the file's end off")?;
        }
        Layer::open(storage.clone())?.into_writable(storage)
    }
}

impl Sparse {
    /// Makes the last block zeros behind the disk's end.
    fn clear_tail(&self) -> Result<()> {
        let last = self.layout.blocks() - 1;
        let used = self.layout.bytes_in(last);
        if let Some(at) = self.block(last)?
            && used < self.layout.block_size
        {
            let (start, length) = (self.data(at) + used, self.layout.block_size - used);
            self.storage.punch_hole(start, length).during("clear what lies behind the disk")?;
        }
        self.sync(self.writer()?)
    }

    /// Makes room in the table for the blocks of a longer disk; they are not there. Durable on return.
    fn lengthen_table(&mut self, layout: &Layout) -> Result<()> {
        let (start, blocks) = (self.header.table_offset(), layout.blocks() as u32);
        let present = u64::from(self.header.table_entries()) * ENTRY;
        let more = (start + present).next_multiple_of(SECTOR)..start + layout.table_length();
        let others = |range: &Range<u64>| range.start != start;
        let in_the_way = |range: &Range<u64>| range.start < more.end && more.start < range.end;
        let other = self.reserved.iter().filter(|range| others(range)).chain(&self.names);
        if other.into_iter().any(in_the_way) {
            let place = self.allocate(|space| space.take_metadata(layout.table_length(), 0))?.place;
            self.copy_table(place.clone())?;
            return self.set_table(place.start, blocks);
        }
        self.clear_entries(start)?;
        if !more.is_empty() {
            self.make_room(&more)?;
            fill_table(&*self.storage, more.start, more.end)?;
            self.sectors.write().forget(more);
            self.sync(self.writer()?)?;
        }
        self.set_table(start, blocks)
    }

    /// Moves blocks out of a part of the file.
    fn make_room(&self, part: &Range<u64>) -> Result<()> {
        let mut buffer = vec![0; BUFFER];
        let span = self.layout.span();
        self.reserve(part)?;
        for (block, from) in self.places()? {
            if from < part.end && part.start < from + span {
                let to = self.allocate(Space::take_block)?.place.start;
                copy(&*self.storage, from..from + span, to, &mut buffer)?;
                self.rename_block(block, from, to)?;
            }
        }
        self.flush()?;
        // What has moved away is free now.
        self.reserve(part)
    }

    /// Makes entries of the table at `start` that lie behind the disk's last say that nothing is there. Durable on return.
    fn clear_entries(&self, start: u64) -> Result<()> {
        let used = start + self.layout.blocks() * ENTRY;
        let end = (start + u64::from(self.header.table_entries()) * ENTRY).next_multiple_of(SECTOR);
        let whole = used.next_multiple_of(SECTOR);
        if used < whole {
            let sector = whole - SECTOR;
            self.publish(&[sector], |edit| {
                edit.sector(sector)[(used % SECTOR) as usize..].fill(0xFF);
            })?;
        }
        self.flush()?;
        if whole < end {
            fill_table(&*self.storage, whole, end)?;
            self.sectors.write().forget(whole..end);
        }
        self.sync(self.writer()?)
    }

    /// Writes the table into space that was taken for a longer one. Durable on return.
    fn copy_table(&self, place: Range<u64>) -> Result<()> {
        let start = self.header.table_offset();
        let mut bytes = vec![0; BUFFER];
        let used = self.layout.table_length();
        for at in (0..used).step_by(BUFFER) {
            let part = &mut bytes[..(used - at).min(BUFFER as u64) as usize];
            self.storage.read_at(start + at, part).during("read the block table")?;
            let entries = (self.layout.blocks() * ENTRY - at).min(part.len() as u64) as usize;
            part[entries..].fill(0xFF);
            self.storage.write_at(place.start + at, part).during("write the block table")?;
        }
        fill_table(&*self.storage, place.start + used, place.end)?;
        self.sectors.write().forget(place);
        self.sync(self.writer()?)
    }

    /// Names the table and its length in the header, whose first sector has both. Durable on return.
    fn set_table(&mut self, start: u64, entries: u32) -> Result<()> {
        let writer = self.writer()?;
        let mut header = self.header.clone();
        header.set_table(start, entries);
        if header == self.header {
            return Ok(());
        }
        let at = writer.ground.lock().footer.header_offset();
        let first = &header.record()[..SECTOR as usize];
        self.storage.write_at(at, first).during("write the dynamic header")?;
        self.sync(writer)?;
        let old = self.header.table_offset();
        self.header = header;
        if let Some(table) = self.reserved.iter_mut().find(|range| range.start == old) {
            *table = start..(start + u64::from(entries) * ENTRY).next_multiple_of(SECTOR);
        }
        Ok(())
    }
}
