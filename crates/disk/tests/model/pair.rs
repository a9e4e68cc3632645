//! A chain and what it should hold.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ireko_disk::check::{Severity, check_chain};
use ireko_disk::{
    Access, Chain, CompactOptions, Disk, ErrorKind, ExtentKind, Format, FreezePlan, MergeOptions,
    NewDisk, Provision, RelinkOptions, ResizeOptions, compact, convert, merge, relink, resize, vhd,
    vhdx,
};

use crate::operation::{MAX_DEPTH, Operation};

/// What a disk is made as.
#[derive(Clone, Debug)]
pub struct Base {
    pub format: Format,
    pub size: u64,
    /// 512 or, for a VHDX, 4096 bytes.
    pub sector: u32,
    /// Blocks have so many times the format's smallest block, as a power of two.
    pub block_power: u32,
    pub is_fixed: bool,
}

/// A chain of files and the bytes it should hold.
pub struct Pair {
    folder: tempfile::TempDir,
    format: Format,
    pub paths: Vec<PathBuf>,
    disk: Option<Chain>,
    bytes: Vec<u8>,
    files: usize,
}

impl Pair {
    pub fn new(base: &Base) -> Self {
        // In memory where there is such a place: the test is not about the host's disk.
        let shm = std::path::Path::new("/dev/shm");
        let folder = match shm.is_dir() {
            true => tempfile::tempdir_in(shm),
            false => tempfile::tempdir(),
        };
        let format = base.format;
        let (paths, bytes) = (Vec::new(), Vec::new());
        let mut pair = Self { folder: folder.unwrap(), format, paths, disk: None, bytes, files: 0 };
        let path = pair.new_file();
        let block_size = pair.block_size(base.block_power);
        let logical_sector = if format == Format::Vhdx { base.sector } else { 512 };
        let virtual_size = base.size / u64::from(logical_sector) * u64::from(logical_sector);
        let provision = match base.is_fixed {
            true => Provision::Fixed { preallocate: false },
            false => Provision::Dynamic,
        };
        if format == Format::Vhdx {
            let options = vhdx::CreateOptions::new(virtual_size);
            let options = vhdx::CreateOptions { block_size, logical_sector, provision, ..options };
            vhdx::create(&path, &options).unwrap();
        } else {
            let options = vhd::CreateOptions { virtual_size, block_size, provision };
            vhd::create(&path, &options).unwrap();
        }
        pair.bytes = vec![0; virtual_size as usize];
        pair.paths.push(path);
        pair.open();
        pair
    }

    fn block_size(&self, power: u32) -> u32 {
        let smallest = if self.format == Format::Vhdx { 20 } else { 19 };
        1 << (smallest + power)
    }

    /// Puts a new child over a leaf that is closed.
    pub fn add_child(&mut self, block_power: u32) {
        let (child, parent) = (self.new_file(), self.paths[0].clone());
        let block_size = self.block_size(block_power);
        if self.format == Format::Vhdx {
            let options = vhdx::ChildOptions { block_size, ..Default::default() };
            vhdx::create_child(&child, &parent, r".\parent.vhdx", &options).unwrap();
        } else {
            let options = vhd::ChildOptions { block_size, ..Default::default() };
            vhd::create_child(&child, &parent, r".\parent.vhd", &options).unwrap();
        }
        self.paths.insert(0, child);
    }

    pub fn disk(&self) -> &Chain {
        self.disk.as_ref().unwrap()
    }

    pub fn open(&mut self) {
        self.disk = Some(Chain::open(&self.paths, Access::ReadWrite).unwrap());
    }

    pub fn close(&mut self) {
        self.disk.take().unwrap().close().unwrap();
    }

    fn new_file(&mut self) -> PathBuf {
        self.files += 1;
        self.folder.path().join(format!("{}.disk", self.files))
    }

    pub fn apply(&mut self, operation: &Operation) {
        let size = self.bytes.len() as u64;
        let clip = |at: u64, length: u64| {
            let at = at.min(size);
            (at, length.min(size - at))
        };
        match *operation {
            Operation::Write { at, length, value } => {
                let (at, length) = clip(at, length as u64);
                // Not uniform, so that bytes of a wrong place show.
                let data: Vec<u8> = (0..length).map(|n| value ^ (n / 97) as u8).collect();
                self.disk().write_at(at, &data).unwrap();
                self.bytes[at as usize..(at + length) as usize].copy_from_slice(&data);
            }
            Operation::Zero { at, length } => {
                let (at, length) = clip(at, length);
                self.disk().write_zeroes(at, length).unwrap();
                self.bytes[at as usize..(at + length) as usize].fill(0);
            }
            Operation::Discard { at, length } => {
                let (at, length) = clip(at, length);
                self.disk().discard(at, length).unwrap();
                let mut now = vec![0; length as usize];
                self.disk().read_at(at, &mut now).unwrap();
                let before = &mut self.bytes[at as usize..(at + length) as usize];
                assert!(now.iter().zip(&*before).all(|(now, before)| *now == 0 || now == before));
                before.copy_from_slice(&now);
            }
            Operation::Flush => self.disk().flush().unwrap(),
            Operation::Child { .. } | Operation::Freeze if self.paths.len() == MAX_DEPTH => {}
            Operation::Child { block_power } => {
                self.close();
                self.add_child(block_power);
                self.open();
            }
            Operation::Freeze if self.format == Format::Vhd => {}
            Operation::Freeze => {
                let frozen = self.new_file();
                let plan = FreezePlan {
                    frozen: frozen.clone(),
                    frozen_parent: (self.paths.len() > 1).then(|| r".\parent.vhdx".into()),
                    next_parent: r".\frozen.vhdx".into(),
                };
                self.disk.as_mut().unwrap().freeze(&plan).unwrap();
                self.paths.insert(1, frozen);
            }
            Operation::MergeIntoNew { .. }
            | Operation::MergeIntoParent { .. }
            | Operation::Relink { .. }
                if self.paths.len() == 1 => {}
            Operation::MergeIntoNew { layers, block_power, keep_identity } => {
                let layers = layers.min(self.paths.len());
                let options = MergeOptions {
                    block_size: Some(self.block_size(block_power)),
                    keep_identity,
                    ..MergeOptions::default()
                };
                self.replace_top(layers, |paths, to| {
                    merge::into_new(paths, layers, to, &options, &()).unwrap();
                });
            }
            Operation::Flatten { other_format } => {
                let has_other = self.disk().geometry().logical_sector == 512;
                self.format = match (other_format && has_other, self.format) {
                    (true, Format::Vhdx) => Format::Vhd,
                    (true, _) => Format::Vhdx,
                    (false, format) => format,
                };
                let format = self.format;
                self.replace_top(self.paths.len(), |paths, to| {
                    let disk = Chain::open(paths, Access::ReadOnly).unwrap();
                    let new = NewDisk::like(format, disk.geometry());
                    convert(&disk, to, &new, &()).unwrap();
                });
            }
            Operation::MergeIntoParent { layer } => {
                self.close();
                // What stands on the layer goes on over its parent.
                let layer = layer % (self.paths.len() - 1);
                make_writable(&self.paths[layer]);
                make_writable(&self.paths[layer + 1]);
                merge::into_parent(&self.paths[layer..], &[], &()).unwrap();
                let child = self.paths.remove(layer);
                assert!(!child.exists());
                self.open();
            }
            Operation::Relink { length } => {
                self.close();
                let path = format!(r".\{}", "p".repeat(length));
                let options = RelinkOptions { relative_path: Some(path), ..Default::default() };
                relink(&self.paths[0], &self.paths[1], &[], &options, &()).unwrap();
                self.open();
            }
            Operation::Compact { layer } => {
                self.close();
                let path = &self.paths[layer % self.paths.len()];
                make_writable(path);
                compact(path, &CompactOptions::default(), &()).unwrap();
                self.open();
            }
            Operation::Resize { sectors } => self.resize(sectors * 4096),
            Operation::Reopen => {
                self.close();
                self.disk = Some(Chain::open(&self.paths, Access::ReadOnly).unwrap());
                self.compare();
                self.disk = None;
                self.open();
                self.compare();
            }
            Operation::Extents { at, limit } => {
                let (at, length) = clip(at, size);
                let disk = self.disk();
                let lists =
                    [disk.extents(at, length, limit), disk.extents_and_holes(at, length, limit)];
                for extents in lists.map(Result::unwrap) {
                    assert!(extents.len() <= limit && (length == 0 || !extents.is_empty()));
                    let mut expected = at;
                    for extent in extents {
                        assert!(extent.offset == expected && extent.length > 0);
                        expected += extent.length;
                        let bytes = &self.bytes[extent.offset as usize..expected as usize];
                        assert!(extent.kind == ExtentKind::Data || bytes.iter().all(|&b| b == 0));
                    }
                    assert!(expected <= at + length);
                }
            }
        }
    }

    /// Puts a new file in the place of the topmost layers, which are deleted.
    fn replace_top(&mut self, layers: usize, make: impl FnOnce(&[PathBuf], &Path)) {
        self.close();
        let to = self.new_file();
        make(&self.paths, &to);
        self.paths.drain(..layers).for_each(|old| std::fs::remove_file(old).unwrap());
        self.paths.insert(0, to);
        self.open();
    }

    /// Resizes the disk, as far as its parent allows.
    fn resize(&mut self, size: u64) {
        self.close();
        let smallest = match self.paths.len() {
            1 => 0,
            _ => Chain::open(&self.paths[1..], Access::ReadOnly).unwrap().geometry().virtual_size,
        };
        let size = size.max(smallest);
        let outcome = resize(&self.paths, size, &ResizeOptions::default(), &());
        let loses = self.bytes.iter().skip(size as usize).any(|&byte| byte != 0);
        match outcome {
            Ok(()) => assert!(!loses, "data is cut off"),
            Err(error) => {
                assert!(loses && error.kind() == ErrorKind::DataLoss, "{error:?}");
                resize(&self.paths, size, &ResizeOptions { allow_loss: true }, &()).unwrap();
            }
        }
        self.bytes.resize(size as usize, 0);
        self.open();
    }

    /// Closes the disk and has its files and their links checked.
    pub fn check_files(&mut self) {
        self.close();
        if self.format == Format::Vhd {
            return;
        }
        for (path, report) in check_chain(&self.paths).unwrap() {
            let name = path.display();
            assert!(report.worst() <= Some(Severity::Note), "{name}: {:#?}", report.findings);
        }
    }

    pub fn compare(&self) {
        let mut bytes = vec![0xEE; self.bytes.len()];
        self.disk().read_at(0, &mut bytes).unwrap();
        if let Some(at) = (0..bytes.len()).find(|&at| bytes[at] != self.bytes[at]) {
            panic!("byte {at:#x} is {:#x}, should be {:#x}", bytes[at], self.bytes[at]);
        }
    }
}

/// A frozen file is read-only by its mode; whoever merges into it has decided otherwise.
fn make_writable(path: &Path) {
    std::fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
}
