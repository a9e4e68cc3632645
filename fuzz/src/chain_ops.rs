//! Operations on a chain, compared with an array of bytes.

use std::sync::Arc;
use std::time::SystemTime;

use ireko_disk::check::check_storage;
use ireko_disk::merge::storages_into_parent;
use ireko_disk::vhdx::Provision;
use ireko_disk::{
    Access, Chain, CompactOptions, Disk, ErrorKind, ExtentKind, Format, ResizeOptions, Storage,
    compact_storage, resize_storage, vhd, vhdx,
};
use ireko_testkit::Image;

use crate::input::Input;
use crate::sparse::Sparse;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 3 * MIB + 4096;
const MAX_SIZE: u64 = 5 * MIB;
static ZEROS: [u8; MAX_SIZE as usize] = [0; MAX_SIZE as usize];
const MAX_OPERATIONS: usize = 100;
const MAX_DEPTH: usize = 6;

/// The first byte chooses the format, sectors and the base's blocks; each operation is a byte with what it needs after it.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut pair = Pair::new(input.u8());
    for _ in 0..MAX_OPERATIONS {
        if input.is_empty() {
            break;
        }
        pair.apply(&mut input);
    }
    pair.disk.flush().expect("flush");
    pair.compare();
    pair.close();
    pair.check();
    pair.reopen(Access::ReadOnly);
    pair.compare();
}

/// A chain and the bytes that it should hold.
struct Pair {
    /// Leaf first.
    layers: Vec<Arc<dyn Storage>>,
    disk: Chain,
    bytes: Vec<u8>,
}

impl Pair {
    fn new(choice: u8) -> Self {
        let fixed = Provision::Fixed { preallocate: false };
        let provision = if choice & 16 == 0 { Provision::Dynamic } else { fixed };
        let block_size = 1 << (20 + (choice >> 1 & 3));
        let base = Sparse::new(Image::default());
        if choice & 8 == 0 {
            let logical_sector = if choice & 1 == 0 { 512 } else { 4096 };
            let new = vhdx::CreateOptions::new(SIZE);
            let options = vhdx::CreateOptions { block_size, logical_sector, provision, ..new };
            vhdx::format(&base, &options).expect("format a VHDX base");
        } else {
            let new = vhd::CreateOptions::new(SIZE);
            let options = vhd::CreateOptions { block_size, provision, ..new };
            vhd::format(&base, &options).expect("format a VHD base");
        }
        let layers: Vec<Arc<dyn Storage>> = vec![Arc::new(base)];
        let disk = Chain::over(layers.clone(), Access::ReadWrite).expect("open a base");
        Self { layers, disk, bytes: vec![0; SIZE as usize] }
    }

    fn apply(&mut self, input: &mut Input<'_>) {
        let operation = input.u8();
        match operation & 15 {
            0 => self.disk.flush().expect("flush"),
            1 => self.reopen(Access::ReadWrite),
            2 if self.layers.len() < MAX_DEPTH => self.add_child(1 << (20 + (operation >> 4 & 3))),
            3 => {
                self.close();
                match operation >> 4 & 3 {
                    0 => self.compact(),
                    1 => self.grow(u64::from(input.u16()) * 4096),
                    2 => self.merge(),
                    _ => self.check(),
                }
                self.reopen(Access::ReadWrite);
            }
            4 => self.check_extents(self.range(input), usize::from(operation >> 4) + 1),
            5 | 6 => {
                let (start, end) = self.range(input);
                self.disk.write_zeroes(start as u64, (end - start) as u64).expect("write zeroes");
                self.bytes[start..end].fill(0);
            }
            7 | 8 => {
                let (start, end) = self.range(input);
                self.disk.discard(start as u64, (end - start) as u64).expect("discard");
                self.take_over_what_discard_left(start, end);
            }
            _ => {
                let (start, end) = self.range(input);
                let mut data = vec![operation; end - start];
                // Not uniform, so that bytes of a wrong place show.
                for (index, sector) in data.chunks_mut(512).enumerate() {
                    sector[0] = (start / 512 + index) as u8;
                }
                self.disk.write_at(start as u64, &data).expect("write");
                self.bytes[start..end].copy_from_slice(&data);
            }
        }
    }

    /// Each byte is what it was, or zero.
    fn take_over_what_discard_left(&mut self, start: usize, end: usize) {
        let mut now = vec![0; end - start];
        self.disk.read_at(start as u64, &mut now).expect("read");
        let before = &mut self.bytes[start..end];
        for (now, before) in now.chunks(512).zip(before.chunks(512)) {
            let is_either = |(now, before): (&u8, &u8)| *now == 0 || now == before;
            assert!(now == before || now.iter().zip(before).all(is_either));
        }
        before.copy_from_slice(&now);
    }

    /// Leaves files that were closed cleanly, open for nothing: what `disk` is then has never seen the closing.
    fn close(&mut self) {
        let reader = Chain::over(self.layers.clone(), Access::ReadOnly).expect("open for reading");
        std::mem::replace(&mut self.disk, reader).close().expect("close");
    }

    fn reopen(&mut self, access: Access) {
        self.close();
        self.disk = Chain::over(self.layers.clone(), access).expect("open again");
    }

    fn add_child(&mut self, block_size: u32) {
        self.reopen(Access::ReadOnly);
        let child = Sparse::new(Image::default());
        match self.disk.identity() {
            Some(parent) => {
                let options = vhdx::ChildOptions { block_size, ..Default::default() };
                vhdx::format_child(&child, &parent, r".\parent.vhdx", &options)
            }
            None => {
                let parent =
                    vhd::ParentIdentity::of(self.layers[0].clone(), SystemTime::UNIX_EPOCH);
                let options = vhd::ChildOptions { block_size, ..Default::default() };
                let parent = parent.expect("read the parent");
                vhd::format_child(&child, &parent, r".\parent.vhd", &options)
            }
        }
        .expect("format a child");
        self.layers.insert(0, Arc::new(child));
        self.reopen(Access::ReadWrite);
    }

    fn compact(&mut self) {
        match compact_storage(self.layers[0].clone(), &CompactOptions::default(), &()) {
            // Fixed VHD files have nothing to compact.
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            outcome => outcome.expect("compact"),
        }
    }

    fn grow(&mut self, by: u64) {
        let size = (self.bytes.len() as u64 + by).min(MAX_SIZE);
        let options = ResizeOptions::default();
        resize_storage(&self.layers, size, &options, &()).expect("grow");
        self.bytes.resize(size as usize, 0);
    }

    fn merge(&mut self) {
        if self.layers.len() > 1 && self.disk.format() == Format::Vhdx {
            storages_into_parent(self.layers.clone(), &()).expect("merge");
            self.layers.remove(0);
        }
    }

    fn check(&self) {
        for layer in &self.layers {
            match check_storage(layer) {
                Ok(report) => assert!(report.is_sound(), "{:#?}", report.findings),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
            }
        }
    }

    fn check_extents(&self, (start, end): (usize, usize), limit: usize) {
        let extents = self.disk.extents(start as u64, (end - start) as u64, limit).expect("map");
        assert!(extents.len() <= limit && (start == end || !extents.is_empty()));
        let mut at = start as u64;
        for extent in extents {
            assert!(extent.offset == at && extent.length > 0);
            at += extent.length;
            let bytes = &self.bytes[extent.offset as usize..at as usize];
            assert!(extent.kind == ExtentKind::Data || *bytes == ZEROS[..bytes.len()]);
        }
        assert!(at <= end as u64);
    }

    fn compare(&self) {
        let mut bytes = vec![0xEE; self.bytes.len()];
        self.disk.read_at(0, &mut bytes).expect("read");
        if bytes != self.bytes {
            let wrong = (0..bytes.len()).find(|&at| bytes[at] != self.bytes[at]);
            panic!("the disk differs first at byte {wrong:?}");
        }
    }

    /// A range of the disk: whole blocks, whole pages, or bytes.
    fn range(&self, input: &mut Input<'_>) -> (usize, usize) {
        let (start, length) = match input.u8() {
            kind @ 0..64 => {
                let block = MIB as usize >> (kind & 1);
                (usize::from(kind >> 1 & 7) * block, (usize::from(kind >> 4) + 1) * block)
            }
            64..160 => (usize::from(input.u16()) * 512, usize::from(input.u8()) * 512),
            _ => (usize::from(input.u16()) * 100, usize::from(input.u16())),
        };
        let start = start.min(self.bytes.len());
        (start, (start + length).min(self.bytes.len()))
    }
}
