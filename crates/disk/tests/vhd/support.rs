//! Making VHD disks, in files and in storage that loses power.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ireko_disk::check::check_storage;
use ireko_disk::vhd::{self, ChildOptions, CreateOptions, ParentIdentity, Provision};
use ireko_disk::{Access, Chain, FileStorage, Lock, Storage};
use ireko_testkit::{CrashStorage, Image};

pub const MIB: u64 = 1 << 20;
pub const SECTOR: usize = 512;

pub fn fixed(virtual_size: u64) -> CreateOptions {
    let provision = Provision::Fixed { preallocate: false };
    CreateOptions { provision, ..CreateOptions::new(virtual_size) }
}

pub fn dynamic(virtual_size: u64, block_size: u32) -> CreateOptions {
    CreateOptions { block_size, ..CreateOptions::new(virtual_size) }
}

pub fn blocks_of(block_size: u32) -> ChildOptions {
    ChildOptions { block_size, ..ChildOptions::default() }
}

/// A folder in memory where there is such a place: these tests are not about the host's disk.
pub fn folder() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let folder = match shm.is_dir() {
        true => tempfile::tempdir_in(shm),
        false => tempfile::tempdir(),
    };
    folder.unwrap()
}

pub fn open(paths: &[PathBuf], access: Access) -> Chain {
    Chain::open(paths, access).unwrap()
}

/// Opens images as a chain; what is written to it is lost.
pub fn over(images: &[Image], access: Access) -> Chain {
    let storages = images.iter().map(|image| Arc::new(CrashStorage::new(image.clone())) as _);
    Chain::over(storages.collect(), access).unwrap()
}

pub fn formatted(options: &CreateOptions) -> Image {
    let storage = CrashStorage::default();
    vhd::format(&storage, options).unwrap();
    storage.image()
}

/// A new child of an image.
pub fn child_of(parent: &Image, block_size: u32) -> Image {
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let identity =
        ParentIdentity::of(Arc::new(CrashStorage::new(parent.clone())), modified).unwrap();
    let storage = CrashStorage::default();
    vhd::format_child(&storage, &identity, r".\base.vhd", &blocks_of(block_size)).unwrap();
    storage.image()
}

/// Changes the leaf of a chain of images, and closes it.
pub fn changed(images: &mut [Image], change: impl FnOnce(&Chain)) {
    let leaf = Arc::new(CrashStorage::new(images[0].clone()));
    let parents = images[1..].iter().map(|image| Arc::new(CrashStorage::new(image.clone())) as _);
    let storages: Vec<Arc<dyn Storage>> =
        std::iter::once(leaf.clone() as _).chain(parents).collect();
    let disk = Chain::over(storages, Access::ReadWrite).unwrap();
    change(&disk);
    disk.close().unwrap();
    images[0] = leaf.image();
}

/// Changes the parent's path in a file that nobody uses.
pub fn set_parent_path(path: &Path, relative_path: &str) -> ireko_disk::Result<()> {
    let file = FileStorage::open(path, Lock::Write)?;
    vhd::set_parent_path(Arc::new(file), relative_path)
}

/// The engine's own check finds nothing that a reader or the next writer stumbles over.
#[track_caller]
pub fn is_readable(image: &Image) {
    let file: Arc<dyn Storage> = Arc::new(CrashStorage::new(image.clone()));
    let report = check_storage(&file).unwrap();
    assert!(report.is_sound(), "{:#?}", report.findings);
}

pub fn bytes_of(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; image.length() as usize];
    image.read(0, &mut bytes).unwrap();
    bytes
}
