//! Operations on a chain, compared with an array of bytes.

use std::sync::Arc;

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk, ExtentKind, Storage};
use ireko_testkit::Image;

use crate::input::Input;
use crate::sparse::Sparse;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 3 * MIB + 4096;
static ZEROS: [u8; SIZE as usize] = [0; SIZE as usize];
const MAX_OPERATIONS: usize = 100;
const MAX_DEPTH: usize = 6;

/// The first byte chooses sectors and the base's blocks; each operation is a byte with what it needs after it.
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
        let options = CreateOptions {
            block_size: 1 << (20 + (choice >> 1 & 3)),
            logical_sector: if choice & 1 == 0 { 512 } else { 4096 },
            ..CreateOptions::new(SIZE)
        };
        let base = Sparse::new(Image::default());
        vhdx::format(&base, &options).expect("format a base");
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
            3 => self.check_extents(range(input), usize::from(operation >> 4) + 1),
            4 | 5 => {
                let (start, end) = range(input);
                self.disk.write_zeroes(start as u64, (end - start) as u64).expect("write zeroes");
                self.bytes[start..end].fill(0);
            }
            6 | 7 => {
                let (start, end) = range(input);
                self.disk.discard(start as u64, (end - start) as u64).expect("discard");
                self.take_over_what_discard_left(start, end);
            }
            _ => {
                let (start, end) = range(input);
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

    fn reopen(&mut self, access: Access) {
        // The old one closes cleanly when it is dropped, and must do so first.
        self.disk = Chain::over(self.layers.clone(), Access::ReadOnly).expect("open for reading");
        self.disk = Chain::over(self.layers.clone(), access).expect("open again");
    }

    fn add_child(&mut self, block_size: u32) {
        self.reopen(Access::ReadOnly);
        let parent = self.disk.identity().expect("a VHDX has one");
        let child = Sparse::new(Image::default());
        let options = ChildOptions { block_size, ..ChildOptions::default() };
        vhdx::format_child(&child, &parent, r".\parent.vhdx", &options).expect("format a child");
        self.layers.insert(0, Arc::new(child));
        self.reopen(Access::ReadWrite);
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
}

/// A range of the disk: whole blocks, whole pages, or bytes.
fn range(input: &mut Input<'_>) -> (usize, usize) {
    let (start, length) = match input.u8() {
        kind @ 0..64 => {
            let block = MIB as usize >> (kind & 1);
            (usize::from(kind >> 1 & 7) * block, (usize::from(kind >> 4) + 1) * block)
        }
        64..160 => (usize::from(input.u16()) * 512, usize::from(input.u8()) * 512),
        _ => (usize::from(input.u16()) * 100, usize::from(input.u16())),
    };
    let start = start.min(SIZE as usize);
    (start, (start + length).min(SIZE as usize))
}
