//! The BAT: every entry's state and place, whom each MiB belongs to, and the bits of partial blocks.
//!
//! Read once, in large pieces of whole chunks. Each fault is reported and its cure handed out, so that a
//! repair walks the same way and a hostile table costs neither of them memory.

use std::fmt;
use std::ops::Range;

use super::super::bat::{Layout, Payload, encode_bitmap};
use super::super::bytes::Fields;
use super::super::{Kind, MIB};
use super::owners::{Before, Owners};
use crate::check::{CLOSED, FindingKind, Look, Repair, Severity};
use crate::error::Result;
use crate::zeros::all_zeros;

/// Entries that are read at once; a chunk may have less or more.
const BATCH: u64 = MIB / 8;
const RESERVED: u64 = 0xF_FFF8;
const STATE: u64 = 7;

/// The BAT and what it is checked against.
pub(super) struct Table {
    pub region: Range<u64>,
    pub layout: Layout,
    pub kind: Kind,
    /// The disk may be a child that lost its mark: nothing is cleared that only a child has.
    pub in_doubt: bool,
}

/// What can be done about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Cure {
    pub slot: u64,
    pub repair: Repair,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Action {
    /// The entry becomes this one.
    Set(u64),
    /// The file gets at least so many bytes.
    Extend(u64),
    /// So many bytes at the entry's place are copied elsewhere, and the entry follows.
    Copy { entry: u64, length: u64 },
}

/// Where cures go.
pub(super) type Cures<'a> = dyn FnMut(Cure) -> Result<()> + 'a;

/// Whose place in the file is looked at.
#[derive(Clone, Copy)]
enum Tenant {
    Block(u64),
    Bitmap { chunk: u64 },
}

/// The bitmap block of a chunk.
#[derive(Clone, Copy)]
enum Bitmap {
    Absent,
    At(u64),
    /// Not to be found, and that was reported.
    Lost,
}

/// What was read of the table.
enum Batch {
    Entries,
    Zeros,
    Unreadable,
}

struct Walk<'a, 'l> {
    table: &'a Table,
    look: &'a mut Look<'l>,
    owners: &'a mut Owners,
    cures: &'a mut Cures<'a>,
    /// Blocks without a place of their own.
    absent: u64,
}

impl Table {
    /// Looks at every entry; `owners` knows the file's metadata. Fails only when a cure does.
    pub fn check<'a>(
        &'a self,
        look: &'a mut Look<'_>,
        owners: &'a mut Owners,
        cures: &'a mut Cures<'a>,
    ) -> Result<()> {
        let present = (self.region.end - self.region.start) / 8;
        let (layout, wanted) = (self.layout, self.entries());
        if wanted > present {
            let message = format_args!(
                "the BAT at {:#x} has {present} entries and the disk needs {wanted}; {CLOSED}",
                self.region.start
            );
            look.findings.error(FindingKind::TableTooSmall, message);
        }
        let used = wanted.min(present);
        let mut walk = Walk { table: self, look, owners, cures, absent: 0 };
        walk.chunks(used)?;
        walk.past_end(used..present)?;
        if self.kind == Kind::Fixed && walk.absent > 0 {
            let message = format_args!(
                "{} of the {} blocks of a fixed disk have no place in the file: writing to them can fail for want of space",
                walk.absent,
                layout.blocks()
            );
            walk.look.findings.warning(FindingKind::NotAllocated, message);
        }
        Ok(())
    }

    fn entries(&self) -> u64 {
        match self.kind {
            Kind::Differencing => self.layout.differencing_entries(),
            Kind::Fixed | Kind::Dynamic => self.layout.dynamic_entries(),
        }
    }
}

impl Walk<'_, '_> {
    /// Looks at the first so many entries.
    fn chunks(&mut self, used: u64) -> Result<()> {
        let layout = self.table.layout;
        let per_chunk = layout.chunk_ratio() + 1;
        let batch = (BATCH / per_chunk).max(1) * per_chunk;
        let mut bytes = Vec::new();
        for start in (0..used).step_by(batch as usize) {
            let slots = start..(start + batch).min(used);
            let first_chunk = start / per_chunk;
            match self.read(slots.clone(), &mut bytes) {
                Batch::Unreadable => {}
                Batch::Zeros => {
                    let end = slots.end.div_ceil(per_chunk) * layout.chunk_ratio();
                    let first = first_chunk * layout.chunk_ratio();
                    self.absent += end.min(layout.blocks()).saturating_sub(first);
                }
                Batch::Entries => {
                    for (chunk, bytes) in (first_chunk..).zip(bytes.chunks(per_chunk as usize * 8))
                    {
                        self.chunk(chunk, bytes)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks at entries that no disk of this size has.
    fn past_end(&mut self, slots: Range<u64>) -> Result<()> {
        let mut bytes = Vec::new();
        for start in slots.clone().step_by(BATCH as usize) {
            let batch = start..(start + BATCH).min(slots.end);
            if let Batch::Entries = self.read(batch.clone(), &mut bytes) {
                for (slot, entry) in batch.zip(bytes.chunks_exact(8)) {
                    self.unused(slot, entry.u64(0))?;
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, slots: Range<u64>, bytes: &mut Vec<u8>) -> Batch {
        let at = self.table.region.start + slots.start * 8;
        let length = (slots.end - slots.start) * 8;
        // Most of a young file's BAT is a hole.
        let next = self.look.view.next_data(at);
        if next.is_ok_and(|data| data.is_none_or(|data| data.start >= at + length)) {
            return Batch::Zeros;
        }
        bytes.resize(length as usize, 0);
        if !self.look.read("BAT", at, bytes, "what its entries name cannot be read") {
            return Batch::Unreadable;
        }
        if all_zeros(bytes) { Batch::Zeros } else { Batch::Entries }
    }

    /// Looks at the entries of a chunk; the last may have none for its bitmap.
    fn chunk(&mut self, chunk: u64, entries: &[u8]) -> Result<()> {
        let layout = self.table.layout;
        let first = chunk * layout.chunk_ratio();
        let (payload, bitmap) =
            entries.split_at(entries.len().min(layout.chunk_ratio() as usize * 8));
        let bitmap = match bitmap.is_empty() {
            true => Bitmap::Absent,
            false => self.bitmap(chunk, layout.bitmap_slot(first), bitmap.u64(0))?,
        };
        let mut partial = Vec::new();
        for (block, entry) in (first..).zip(payload.chunks_exact(8)) {
            let entry = entry.u64(0);
            if block >= layout.blocks() {
                self.unused(layout.payload_slot(block), entry)?;
                continue;
            }
            self.payload(block, entry, bitmap)?;
            if entry & STATE == 7 {
                partial.push(block);
            }
        }
        if let Bitmap::At(at) = bitmap {
            self.bits(at, &partial);
        }
        Ok(())
    }

    fn bitmap(&mut self, chunk: u64, slot: u64, entry: u64) -> Result<Bitmap> {
        if self.table.kind != Kind::Differencing {
            self.stale_bitmap(slot, entry)?;
            return Ok(Bitmap::Absent);
        }
        let tenant = Tenant::Bitmap { chunk };
        self.reserved_bits(tenant, slot, entry)?;
        let offset = entry & !(MIB - 1);
        match entry & STATE {
            0 => return Ok(Bitmap::Absent),
            6 => {}
            7 => {
                let message = format_args!(
                    "{} has state 7, which only payload has; it is taken for present",
                    self.name(tenant, slot)
                );
                self.look.findings.warning(FindingKind::BlockState, message);
            }
            state => {
                let message = format_args!(
                    "{} has the reserved state {state}: partial blocks of its chunk cannot be read",
                    self.name(tenant, slot)
                );
                self.lost(FindingKind::BlockState, slot, tenant.lost_entry(), message)?;
                return Ok(Bitmap::Lost);
            }
        }
        let found = self.place(tenant, slot, encode_bitmap(offset), MIB)?;
        Ok(if found { Bitmap::At(offset) } else { Bitmap::Lost })
    }

    fn payload(&mut self, block: u64, entry: u64, bitmap: Bitmap) -> Result<()> {
        let (tenant, slot) = (Tenant::Block(block), self.table.layout.payload_slot(block));
        let (state, is_child) = (entry & STATE, self.table.kind == Kind::Differencing);
        self.absent += u64::from(state != 6);
        self.reserved_bits(tenant, slot, entry)?;
        match state {
            0..=3 => return Ok(()),
            4 => {
                let message = format_args!(
                    "{} has the reserved state 4: it cannot be read",
                    self.name(tenant, slot)
                );
                return self.lost(FindingKind::BlockState, slot, tenant.lost_entry(), message);
            }
            5 => {
                let message = format_args!(
                    "{} has state 5, which drafts of the format called unmapped; it is taken for that",
                    self.name(tenant, slot)
                );
                self.look.findings.warning(FindingKind::BlockState, message);
                return Ok(());
            }
            7 if !is_child => {
                let message = format_args!(
                    "{} is partial, but the disk has no parent: it is taken for full, and sectors it does not have may \
                     hold anything",
                    self.name(tenant, slot)
                );
                self.look.findings.error(FindingKind::BlockState, message);
            }
            _ => {}
        }
        self.place(tenant, slot, entry & !RESERVED, self.table.layout.block_size)?;
        match bitmap {
            Bitmap::Absent if state == 7 && is_child => {
                let message = format_args!(
                    "{} is partial, but its chunk has no sector bitmap: it cannot be read",
                    self.name(tenant, slot)
                );
                self.lost(FindingKind::BitmapMissing, slot, tenant.lost_entry(), message)
            }
            // Its bitmap was reported; giving that up takes the block with it.
            Bitmap::Lost if state == 7 => {
                self.cure(slot, Repair::DiscardBlock, tenant.lost_entry())
            }
            _ => Ok(()),
        }
    }

    fn reserved_bits(&mut self, tenant: Tenant, slot: u64, entry: u64) -> Result<()> {
        if entry & RESERVED == 0 {
            return Ok(());
        }
        let message = format_args!(
            "{} has reserved bits set: {entry:#018x}; they are ignored",
            self.name(tenant, slot)
        );
        let repair = Some(Repair::ClearUnused);
        self.look.findings.add(Severity::Warning, FindingKind::ReservedBits, repair, message);
        self.cure(slot, Repair::ClearUnused, entry & !RESERVED)
    }

    /// Looks at the place an entry names; `false` when what it holds cannot be read.
    fn place(&mut self, tenant: Tenant, slot: u64, entry: u64, length: u64) -> Result<bool> {
        let at = entry & !(MIB - 1);
        let end = at.saturating_add(length);
        let (file_length, gone) = (self.look.length, tenant.gone());
        if at < MIB || at >= file_length {
            let message = format_args!(
                "{} lies at {at:#x}, and the file's blocks lie from 1 MiB to its end at {file_length:#x}: {gone}",
                self.name(tenant, slot)
            );
            self.lost(FindingKind::BlockMisplaced, slot, tenant.lost_entry(), message)?;
            return Ok(false);
        }
        let place = at..end.min(file_length);
        let before = self.owners.before(&place);
        if before == Before::Metadata {
            let message = format_args!(
                "{} lies at {at:#x}, over the file's headers, log or regions: {gone}",
                self.name(tenant, slot)
            );
            self.lost(FindingKind::BlockMisplaced, slot, tenant.lost_entry(), message)?;
            return Ok(false);
        }
        self.owners.claim(&place);
        if end > file_length {
            let message = format_args!(
                "{} lies at {at:#x}, and the file ends within it at {file_length:#x}: {gone}",
                self.name(tenant, slot)
            );
            let repair = Some(Repair::CompleteBlock);
            self.look.findings.add(Severity::Error, FindingKind::BlockCutOff, repair, message);
            self.hand_out(slot, Repair::CompleteBlock, Action::Extend(end))?;
            return Ok(false);
        }
        if before == Before::Block {
            let message = format_args!(
                "{} lies at {at:#x}, over another one: at most one of them holds what it should, and nothing can be \
                 allocated in the file",
                self.name(tenant, slot)
            );
            let repair = Some(Repair::SeparateBlocks);
            self.look.findings.add(Severity::Error, FindingKind::BlocksOverlap, repair, message);
            self.hand_out(slot, Repair::SeparateBlocks, Action::Copy { entry, length })?;
        }
        Ok(true)
    }

    /// Looks at an entry that belongs to no block of the disk.
    fn unused(&mut self, slot: u64, entry: u64) -> Result<()> {
        let (table, file_length) = (self.table, self.look.length);
        if entry == 0 {
            return Ok(());
        }
        if table.kind != Kind::Differencing && table.layout.is_bitmap_slot(slot) {
            return self.stale_bitmap(slot, entry);
        }
        let at = entry & !(MIB - 1);
        let place = at..at.saturating_add(table.layout.block_size);
        let could_be_a_block = entry & STATE >= 6
            && at >= MIB
            && place.end <= file_length
            && self.owners.before(&place) == Before::Free;
        let where_ = table.region.start + slot * 8;
        let (what, repair, outcome) = match could_be_a_block {
            true => (
                FindingKind::BlockPastEnd,
                Repair::DiscardBlock,
                "names a place in the file: if that is a block, the disk was larger once",
            ),
            false => (FindingKind::EntryPastEnd, Repair::ClearUnused, "is not zero; it is ignored"),
        };
        let known_end = !table.in_doubt;
        let message =
            format_args!("the BAT entry at {where_:#x} is behind the disk's end and {outcome}");
        self.look.findings.add(Severity::Warning, what, known_end.then_some(repair), message);
        if known_end { self.cure(slot, repair, 0) } else { Ok(()) }
    }

    /// Looks at a bitmap's entry of a disk that needs none.
    fn stale_bitmap(&mut self, slot: u64, entry: u64) -> Result<()> {
        if entry == 0 {
            return Ok(());
        }
        let (known, repair) = (!self.table.in_doubt, Repair::ClearUnused);
        let message = format_args!(
            "the BAT entry at {:#x} names a sector bitmap, but the disk has no parent; it is ignored",
            self.table.region.start + slot * 8
        );
        let what = FindingKind::BitmapUnexpected;
        self.look.findings.add(Severity::Warning, what, known.then_some(repair), message);
        if known { self.cure(slot, repair, 0) } else { Ok(()) }
    }

    /// Looks at the bits of partial blocks, which are of one chunk and in order.
    fn bits(&mut self, bitmap: u64, partial: &[u64]) {
        let layout = self.table.layout;
        let (Some(&first), Some(&last)) = (partial.first(), partial.last()) else { return };
        let per_block = layout.sectors_per_block() as usize / 8;
        let start = layout.first_bit(first) / 8;
        let length = (layout.first_bit(last) / 8 - start) as usize + per_block;
        let mut bytes = vec![0; length];
        if !self.look.read("sector bitmap", bitmap + start, &mut bytes, "its blocks cannot be read")
        {
            return;
        }
        for &block in partial {
            let bits = &bytes[(layout.first_bit(block) / 8 - start) as usize..][..per_block];
            let on_disk = (layout.bytes_in(block) / layout.sector) as usize;
            let is_set = |bit: usize| bits[bit / 8] >> (bit % 8) & 1 != 0;
            let (what, slot) = (FindingKind::BitmapBits, layout.payload_slot(block));
            if (on_disk..per_block * 8).any(is_set) {
                // A disk that was made shorter within a block has them.
                let message = format_args!(
                    "{} has sectors behind the disk's end; they are ignored",
                    self.name(Tenant::Block(block), slot)
                );
                self.look.findings.add(Severity::Note, what, None, message);
            } else if all_zeros(bits) {
                let message = format_args!(
                    "{} is partial and has none of its sectors: the parent shows through everywhere",
                    self.name(Tenant::Block(block), slot)
                );
                self.look.findings.add(Severity::Note, what, None, message);
            }
        }
    }

    /// Reports what only giving it up can do away with.
    fn lost(
        &mut self,
        what: FindingKind,
        slot: u64,
        entry: u64,
        message: fmt::Arguments<'_>,
    ) -> Result<()> {
        let repair = Some(Repair::DiscardBlock);
        self.look.findings.add(Severity::Error, what, repair, message);
        self.cure(slot, Repair::DiscardBlock, entry)
    }

    fn cure(&mut self, slot: u64, repair: Repair, entry: u64) -> Result<()> {
        self.hand_out(slot, repair, Action::Set(entry))
    }

    fn hand_out(&mut self, slot: u64, repair: Repair, action: Action) -> Result<()> {
        (self.cures)(Cure { slot, repair, action })
    }

    /// Names a tenant and where its entry is.
    fn name(&self, tenant: Tenant, slot: u64) -> impl fmt::Display + use<> {
        let (at, block_size) = (self.table.region.start + slot * 8, self.table.layout.block_size);
        fmt::from_fn(move |f| match tenant {
            Tenant::Block(block) => write!(
                f,
                "block {block} (at {:#x} of the disk, BAT entry at {at:#x})",
                block * block_size
            ),
            Tenant::Bitmap { chunk } => {
                write!(f, "the sector bitmap of chunk {chunk} (BAT entry at {at:#x})")
            }
        })
    }
}

impl Tenant {
    /// The entry of a tenant that is given up. A parent must not show through instead of a block.
    fn lost_entry(self) -> u64 {
        match self {
            Self::Block(_) => Payload::Undefined.encode(),
            Self::Bitmap { .. } => 0,
        }
    }

    /// What follows when its place is not to be had.
    fn gone(self) -> &'static str {
        match self {
            Self::Block(_) => "it cannot be read",
            Self::Bitmap { .. } => "partial blocks of its chunk cannot be read",
        }
    }
}
