//! One open VHDX file: what it is, and which of its virtual disk's bytes it holds.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};

use super::bat::{Layout, Payload, Piece, decode_bitmap};
use super::bitmap;
use super::bytes::Fields;
use super::commit::Writer;
use super::header::{Current, Header};
use super::locator::Locator;
use super::log::replay::Replayed;
use super::metadata::Metadata;
use super::region::Regions;
use super::{Kind, MAX_FILE, MIB, PAGE, ParentLink, overlap};
use crate::disk::Geometry;
use crate::error::{During, Error, ErrorKind, Result};
use crate::guid::Guid;
use crate::layer::{Below, Place, Run};
use crate::pages::Pages;
use crate::storage::Storage;

/// Pages that a layer keeps in memory when it is alone; parents of long chains keep fewer.
const LEAF_PAGES: usize = 4096;

/// An open file. Reading is possible at once; see [`Layer::into_writable`].
pub(crate) struct Layer {
    pub(super) storage: Arc<dyn Storage>,
    /// The file as seen through its log, when that was left in use.
    replayed: Option<Arc<Replayed>>,
    pub(super) header: Current,
    pub(super) regions: Regions,
    pub(super) metadata: Metadata,
    pub(super) layout: Layout,
    link: Option<ParentLink>,
    /// Bytes in the file; every offset used is below.
    pub(super) length: AtomicU64,
    pub(super) pages: RwLock<Pages<PAGE>>,
    pub(super) writer: Option<Writer>,
}

/// What the BAT says of a block, checked. Offsets are bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    NotPresent,
    /// Undefined, zero or unmapped: a parent must not be asked.
    Zero,
    Full(u64),
    Partial {
        data: u64,
        bitmap: u64,
    },
}

impl Layer {
    /// Opens a file; reads header, regions and metadata, whatever the disk's size.
    ///
    /// A log that was left in use is replayed in memory, and the file is not changed.
    pub fn open(file: Arc<dyn Storage>) -> Result<Self> {
        let mut signature = [0; 8];
        file.read_at(0, &mut signature).during("read the file's signature")?;
        if &signature != b"vhdxfile" {
            return Err(Error::new(ErrorKind::Corrupt, "not a VHDX file"));
        }
        let header = Current::read(&*file)?;
        let replayed = Replayed::read(&file, header.header())?.map(Arc::new);
        let storage = match &replayed {
            Some(replayed) => replayed.clone(),
            None => file,
        };
        let length = storage.len().during("read the file's length")?;
        if length > MAX_FILE {
            return Err(Error::corrupt("the file is larger than any disk"));
        }
        let log_start = header.header().log_offset;
        let log = log_start..log_start + u64::from(header.header().log_length);
        let regions = Regions::read(&*storage, log)?;
        let metadata = Metadata::read(&*storage, &regions.metadata)?;
        let geometry = metadata.geometry;
        let layout =
            Layout::new(geometry.virtual_size, metadata.block_size, geometry.logical_sector);
        if entries(&layout, metadata.locator.is_some()) * 8 > regions.bat.end - regions.bat.start {
            return Err(Error::corrupt("the BAT is too small for the disk"));
        }
        let link = metadata.locator.as_ref().map(Locator::link).transpose()?;
        Ok(Self {
            storage,
            replayed,
            header,
            regions,
            metadata,
            layout,
            link,
            length: AtomicU64::new(length),
            pages: RwLock::new(Pages::new(LEAF_PAGES)),
            writer: None,
        })
    }

    /// Bounds the pages kept in memory; for parents, which the chain's index asks once per region.
    pub fn with_page_limit(mut self, limit: usize) -> Self {
        self.pages = RwLock::new(Pages::new(limit));
        self
    }

    /// Makes the disk ready to be written: new write GUIDs, durably, then the log's replay on disk.
    ///
    /// `file` is what the layer was opened on, and writable. DataWriteGuid is final for the session, so that a
    /// child may be linked to it.
    pub fn into_writable(self, file: Arc<dyn Storage>) -> Result<Self> {
        self.into_writable_as(file, Guid::random())
    }

    /// As [`Layer::into_writable`], with a DataWriteGuid that others know already.
    pub fn into_writable_as(self, file: Arc<dyn Storage>, data_write_guid: Guid) -> Result<Self> {
        self.begin_session(file, |header| header.data_write_guid = data_write_guid)
    }

    /// Makes the file ready for changes that no reader of the disk sees: DataWriteGuid stays.
    pub(crate) fn into_maintained(self, file: Arc<dyn Storage>) -> Result<Self> {
        self.begin_session(file, |_| ())
    }

    fn begin_session(
        mut self,
        file: Arc<dyn Storage>,
        change: impl FnOnce(&mut Header),
    ) -> Result<Self> {
        // An empty log may lie anywhere for a reader; a writer would put it where blocks go later.
        let header = self.header.header();
        let log_end = header.log_offset.saturating_add(u64::from(header.log_length));
        if log_end > self.length.load(Ordering::Acquire) {
            return Err(Error::corrupt("the log lies past the end of the file"));
        }
        self.header.update(&*file, |header| {
            header.file_write_guid = Guid::random();
            change(header);
        })?;
        if let Some(replayed) = self.replayed.take() {
            replayed.write_back()?;
            self.header.update(&*file, |header| header.log_guid = Guid::NIL)?;
        }
        self.writer = Some(Writer::new(self.header.clone())?);
        self.storage = file;
        Ok(self)
    }

    pub fn geometry(&self) -> Geometry {
        self.metadata.geometry
    }

    pub fn block_size(&self) -> u32 {
        self.metadata.block_size
    }

    pub fn kind(&self) -> Kind {
        match (&self.metadata.locator, self.metadata.fixed) {
            (Some(_), _) => Kind::Differencing,
            (None, true) => Kind::Fixed,
            (None, false) => Kind::Dynamic,
        }
    }

    pub fn page83(&self) -> Guid {
        self.metadata.page83
    }

    /// What the file knows of its parent; `None` for a base.
    pub fn parent(&self) -> Option<&ParentLink> {
        self.link.as_ref()
    }

    /// DataWriteGuid: what a child remembers this file's content by.
    pub fn data_write_guid(&self) -> Guid {
        self.header.header().data_write_guid
    }

    pub(super) fn file_write_guid(&self) -> Guid {
        self.header.header().file_write_guid
    }

    /// Whether the file was left with its log in use.
    pub(super) fn was_dirty(&self) -> bool {
        self.replayed.is_some()
    }

    /// The file, as far as its bytes are the disk's.
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    pub fn is_writable(&self) -> bool {
        self.writer.is_some()
    }

    pub(super) fn pieces(&self, offset: u64, length: u64) -> impl Iterator<Item = Piece> + use<> {
        self.layout.pieces(offset, length)
    }

    pub(super) fn offset_of(&self, piece: &Piece) -> u64 {
        self.layout.offset_of(piece)
    }

    /// Checks that `parent` holds the bytes this file was made over, by its DataWriteGuid.
    pub(crate) fn check_parent(&self, parent: &Self) -> Result<()> {
        let orphan = || Error::new(ErrorKind::ParentMismatch, "the file has no parent");
        let link = self.link.as_ref().ok_or_else(orphan)?;
        let found = parent.data_write_guid();
        match link.accepts(found) {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::ParentMismatch,
                format!(
                    "the child was made from another version of it: its parent linkage {} is not the parent's data \
                     write GUID {found}",
                    link.linkage
                ),
            )),
        }
    }

    /// Keeps a block where it is while the guard lives. Read-only files need no guard.
    fn hold(&self, piece: &Piece) -> Option<RwLockReadGuard<'_, ()>> {
        self.writer.as_ref().map(|writer| writer.stripe(piece.block).read())
    }

    /// Reads bytes of the virtual disk through this layer and those below; the range lies within the disk.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8], below: &dyn Below) -> Result<()> {
        let mut rest = buffer;
        for piece in self.pieces(offset, rest.len() as u64) {
            let (now, later) = rest.split_at_mut(piece.length as usize);
            let _held = self.hold(&piece);
            self.read_piece(&piece, now, below)?;
            rest = later;
        }
        Ok(())
    }

    /// Appends the runs of a range of the virtual disk. What lies past this layer's disk is below.
    pub(crate) fn map(&self, range: Range<u64>, runs: &mut Vec<Run>) -> Result<()> {
        let end = range.end.min(self.layout.virtual_size).max(range.start);
        for piece in self.layout.pieces(range.start, end - range.start) {
            let _held = self.hold(&piece);
            self.map_piece(&piece, runs)?;
        }
        if range.end > end {
            runs.push(Run { length: range.end - end, place: Place::Below });
        }
        Ok(())
    }

    /// Appends the runs of a part of a block.
    pub(super) fn map_piece(&self, piece: &Piece, runs: &mut Vec<Run>) -> Result<()> {
        let whole = |place| Run { length: piece.length, place };
        match self.block(piece.block)? {
            Block::NotPresent => runs.push(whole(Place::Below)),
            Block::Zero => runs.push(whole(Place::Zero)),
            Block::Full(data) => runs.push(whole(Place::Here(data + piece.start))),
            Block::Partial { data, bitmap } => self.map_partial(piece, data, bitmap, runs)?,
        }
        Ok(())
    }

    pub(super) fn map_partial(
        &self,
        piece: &Piece,
        data: u64,
        bitmap: u64,
        runs: &mut Vec<Run>,
    ) -> Result<()> {
        let (sector, end) = (self.layout.sector, piece.start + piece.length);
        let mut at = piece.start;
        // Where the present run of bits ends, in bytes of the block.
        let mut border = piece.start / sector * sector;
        self.each_bit_run(piece, bitmap, |present, count| {
            border += count * sector;
            let length = border.min(end) - at;
            let place = if present { Place::Here(data + at) } else { Place::Below };
            runs.push(Run { length, place });
            at += length;
        })
    }

    /// Calls `visit(present, sectors)` for the sectors that a piece touches, in order.
    pub(super) fn each_bit_run(
        &self,
        piece: &Piece,
        bitmap: u64,
        mut visit: impl FnMut(bool, u64),
    ) -> Result<()> {
        for (page, bits) in bitmap::by_page(self.bits(piece)) {
            self.with_page(bitmap + page * PAGE as u64, |page| {
                bitmap::runs(page, bits, &mut visit)
            })?;
        }
        Ok(())
    }

    /// Bits of the chunk's bitmap block for the sectors that a piece touches.
    pub(super) fn bits(&self, piece: &Piece) -> Range<u64> {
        let first = self.layout.first_bit(piece.block);
        let sector = self.layout.sector;
        first + piece.start / sector..first + (piece.start + piece.length).div_ceil(sector)
    }

    /// Reads bytes of this file that a [`Place::Here`] pointed at.
    pub(crate) fn read_here(&self, place: u64, buffer: &mut [u8]) -> Result<()> {
        self.storage.read_at(place, buffer).during("read a payload block")
    }

    /// Looks a block up in the BAT and checks the offsets found.
    pub(super) fn block(&self, block: u64) -> Result<Block> {
        let payload = Payload::decode(self.bat_entry(self.layout.payload_slot(block))?)?;
        let has_parent = self.link.is_some();
        match payload {
            Payload::NotPresent => Ok(Block::NotPresent),
            Payload::Undefined | Payload::Zero | Payload::Unmapped => Ok(Block::Zero),
            Payload::Partial(data) if has_parent => {
                let bitmap = self.bitmap_block(block)?;
                let missing = || Error::corrupt(format!("block {block} lacks its sector bitmap"));
                let bitmap = bitmap.ok_or_else(missing)?;
                Ok(Block::Partial { data: self.bounded(data, self.layout.block_size)?, bitmap })
            }
            // A disk without parent has no sectors elsewhere; other readers take 7 for 6 here too.
            Payload::Full(data) | Payload::Partial(data) => {
                Ok(Block::Full(self.bounded(data, self.layout.block_size)?))
            }
        }
    }

    /// Returns the file offset of the bitmap block for a payload block's chunk, if present.
    pub(super) fn bitmap_block(&self, block: u64) -> Result<Option<u64>> {
        let entry = self.bat_entry(self.layout.bitmap_slot(block))?;
        decode_bitmap(entry)?.map(|offset| self.bounded(offset, MIB)).transpose()
    }

    pub(super) fn bat_entry(&self, slot: u64) -> Result<u64> {
        let (page, within) = self.bat_place(slot);
        self.with_page(page, |page| page.as_slice().u64(within))
    }

    /// Number of BAT entries that a disk of this layout has, given its parent or none.
    pub(super) fn entries(&self, layout: &Layout) -> u64 {
        entries(layout, self.link.is_some())
    }

    /// Returns the page a BAT slot lies in, and where in it.
    pub(super) fn bat_place(&self, slot: u64) -> (u64, usize) {
        let at = self.regions.bat.start + slot * 8;
        (at & !(PAGE as u64 - 1), at as usize % PAGE)
    }

    /// Checks that a block lies in the file and in nothing else's place.
    pub(super) fn bounded(&self, offset: u64, length: u64) -> Result<u64> {
        let place = offset..offset.saturating_add(length);
        let inside = offset >= MIB && place.end <= self.length.load(Ordering::Acquire);
        if !inside || self.regions.reserved.iter().any(|region| overlap(region, &place)) {
            return Err(Error::corrupt(format!(
                "a block lies at {offset:#x}, outside the file's payload"
            )));
        }
        Ok(offset)
    }

    pub(super) fn with_page<T>(&self, at: u64, look: impl FnOnce(&[u8; PAGE]) -> T) -> Result<T> {
        if let Some(page) = self.pages.read().get(at) {
            return Ok(look(page));
        }
        // Reading under the lock: a page read outside it could be stale by the time it is kept.
        Ok(look(self.pages.write().load(&*self.storage, at)?))
    }
}

fn entries(layout: &Layout, has_parent: bool) -> u64 {
    match has_parent {
        true => layout.differencing_entries(),
        false => layout.dynamic_entries(),
    }
}
