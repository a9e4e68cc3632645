//! Files and chains as a whole.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ireko_disk::check::{check, check_chain, check_storage};
use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, ErrorKind, Storage};
use ireko_testkit::CrashStorage;

use crate::support::*;

/// Files of a chain of three, leaf first.
fn three(folder: &Path) -> [PathBuf; 3] {
    let paths = ["leaf.vhdx", "mid.vhdx", "base.vhdx"].map(|name| folder.join(name));
    let [leaf, mid, base] = &paths;
    vhdx::create(base, &CreateOptions::new(64 * MIB)).unwrap();
    vhdx::create_child(mid, base, r".\base.vhdx", &ChildOptions::default()).unwrap();
    vhdx::create_child(leaf, mid, r".\mid.vhdx", &ChildOptions::default()).unwrap();
    paths
}

#[track_caller]
fn chain_finds(paths: &[&Path], expected: &[&[Kind]]) {
    let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
    let reports = check_chain(&paths).unwrap();
    assert_eq!(
        reports.iter().map(|(path, _)| path).collect::<Vec<_>>(),
        paths.iter().collect::<Vec<_>>()
    );
    let found: Vec<Vec<Kind>> = reports
        .iter()
        .map(|(_, report)| report.findings.iter().map(|finding| finding.what).collect())
        .collect();
    assert_eq!(found, expected, "{reports:#?}");
    let sound = reports.iter().all(|(_, report)| report.is_sound());
    assert_eq!(Chain::open(&paths, Access::ReadOnly).is_ok(), sound);
}

#[test]
fn links_that_do_not_hold_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let [leaf, mid, base] = &three(folder.path());
    let [other_leaf, small, wide] = ["o", "s", "w"].map(|name| folder.path().join(name));
    let missing = folder.path().join("missing.vhdx");
    chain_finds(&[leaf, mid, base], &[&[], &[], &[]]);
    chain_finds(&[leaf, mid], &[&[], &[Kind::ParentMissing]]);
    chain_finds(&[leaf, &missing, base], &[&[], &[Kind::ParentMissing], &[]]);
    chain_finds(&[leaf, base], &[&[Kind::ParentChanged], &[]]);
    chain_finds(&[base, leaf, mid, base], &[&[Kind::ParentUnexpected], &[], &[], &[Kind::Cycle]]);
    vhdx::create(&small, &CreateOptions::new(32 * MIB)).unwrap();
    vhdx::create_child(&other_leaf, &small, r".\s", &ChildOptions::default()).unwrap();
    chain_finds(&[&other_leaf, base], &[&[Kind::ParentChanged, Kind::ParentGeometry], &[]]);
    let options = CreateOptions { logical_sector: 4096, ..CreateOptions::new(64 * MIB) };
    vhdx::create(&wide, &options).unwrap();
    chain_finds(&[mid, &wide], &[&[Kind::ParentChanged, Kind::ParentGeometry], &[]]);
    // A parent that is damaged says so itself.
    std::fs::write(&small, b"no disk").unwrap();
    chain_finds(&[&other_leaf, &small], &[&[], &[Kind::NotADisk]]);
    assert_eq!(check_chain(&[missing]).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(check_chain(&[]).unwrap(), []);
}

#[test]
fn a_parent_that_was_written_to_is_found_changed() {
    let folder = tempfile::tempdir().unwrap();
    let [leaf, mid, base] = &three(folder.path());
    Chain::open(std::slice::from_ref(base), Access::ReadWrite).unwrap().close().unwrap();
    chain_finds(&[leaf, mid, base], &[&[], &[Kind::ParentChanged], &[]]);
}

#[test]
fn a_file_somebody_writes_to_is_not_checked() {
    let folder = tempfile::tempdir().unwrap();
    let paths = three(folder.path());
    let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
    assert_eq!(check(&paths[0]).unwrap_err().kind(), ErrorKind::InUse);
    assert_eq!(check_chain(&paths).unwrap_err().kind(), ErrorKind::InUse);
    check(&paths[1]).unwrap();
    disk.close().unwrap();
    assert_eq!(check(&paths[0]).unwrap().findings, []);
}

#[test]
fn a_check_changes_nothing_and_tells_who_has_the_space() {
    let base = base();
    let dirty = Arc::new(CrashStorage::new(child(&base, false)));
    let before = dirty.position();
    let report = check_storage(&(dirty.clone() as Arc<dyn Storage>)).unwrap();
    assert_eq!(dirty.position(), before);
    assert!(report.dirty_log && report.current_header.is_some());

    let report = check_image(&base);
    assert!(!report.dirty_log);
    // Headers, log, metadata, BAT: 7 MiB; and five blocks.
    assert_eq!((report.space.used, report.space.leaked), (12 * MIB, 0));
    let mut freed = base.clone();
    set_entry(&mut freed, 1, 0);
    set_entry(&mut freed, 2, 0);
    let report = check_image(&freed);
    assert_eq!(report.space.free, std::slice::from_ref(&(8 * MIB..10 * MIB)));
    assert_eq!((report.space.used, report.space.leaked), (10 * MIB, 2 * MIB));
    assert_eq!(kinds(&report), [(Kind::Leaked, Note)]);
}

#[test]
fn many_faults_of_one_kind_are_counted_and_not_all_listed() {
    let storage = CrashStorage::default();
    let options = CreateOptions { block_size: 1 << 20, ..CreateOptions::new(1 << 40) };
    vhdx::format(&storage, &options).unwrap();
    let mut image = storage.image();
    (0..200_000).for_each(|slot| set_entry(&mut image, slot, 4));
    let report = check_image(&image);
    // One entry in 4097 is a bitmap's.
    let bitmaps = 200_000 / 4097;
    assert_eq!(report.findings.len(), 100 + bitmaps + 1);
    let more = format!("and {} more", 200_000 - bitmaps - 100);
    let last = report.findings.last().unwrap();
    assert!(last.message.contains(&more) && last.severity == Error, "{last:?}");
}

/// Storage of which a part cannot be read.
struct Scratched {
    inner: CrashStorage,
    bad: Range<u64>,
}

impl Storage for Scratched {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match offset < self.bad.end && self.bad.start < offset + buffer.len() as u64 {
            true => Err(io::Error::other("medium error")),
            false => self.inner.read_at(offset, buffer),
        }
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)
    }

    fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inner.punch_hole(offset, length)
    }
}

#[test]
fn what_the_host_cannot_read_is_found_and_the_rest_looked_at() {
    let base = base();
    let (clean, dirty) = (child(&base, true), child(&base, false));
    let bitmap = entry(&clean, BITMAP_SLOT) & !(MIB - 1);
    for (image, at, opens) in [
        (&clean, HEADERS[1], false),
        (&clean, TABLES[0], false),
        (&dirty, LOG, false),
        (&clean, METADATA, false),
        (&clean, LOCATOR, false),
        (&clean, BAT, true),
        (&clean, bitmap, true),
    ] {
        let inner = CrashStorage::new(image.clone());
        let file: Arc<dyn Storage> = Arc::new(Scratched { inner, bad: at..at + 4096 });
        let report = check_storage(&file).unwrap();
        let mut found = report.findings.iter().filter(|found| found.severity == Error);
        let (only, none) = (found.next().unwrap(), found.next());
        assert_eq!((only.what, none), (Kind::Unreadable, None), "{:#?}", report.findings);
        assert!(only.message.contains("medium error"), "{}", only.message);
        let chain = Chain::over(vec![file, storage(&base)], Access::ReadOnly);
        assert_eq!((chain.is_ok(), only.message.contains("does not open")), (opens, !opens));
    }
}
