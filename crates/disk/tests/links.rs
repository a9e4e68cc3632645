//! Opening chains: every link is verified, every file is held.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk, ErrorKind};

fn base(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    vhdx::create(&path, &CreateOptions::new(64 << 20)).unwrap();
    path
}

fn child(folder: &Path, name: &str, parent: &Path) -> PathBuf {
    let path = folder.join(name);
    vhdx::create_child(&path, parent, r".\parent.vhdx", &ChildOptions::default()).unwrap();
    path
}

#[track_caller]
fn refused(paths: &[&Path], kind: ErrorKind) {
    let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let error = Chain::open(&paths, access).err().expect("must be refused");
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[test]
fn a_chain_must_be_complete_and_each_parent_the_right_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (one, two) = (base(folder, "one.vhdx"), base(folder, "two.vhdx"));
    let mid = child(folder, "mid.vhdx", &one);
    let leaf = child(folder, "leaf.vhdx", &mid);
    Chain::open(&[leaf.clone(), mid.clone(), one.clone()], Access::ReadOnly).unwrap();

    refused(&[], ErrorKind::NotFound);
    refused(&[&leaf, &mid], ErrorKind::NotFound);
    refused(&[&leaf, &mid, &two], ErrorKind::ParentMismatch);
    refused(&[&leaf, &one], ErrorKind::ParentMismatch);
    refused(&[&one, &two], ErrorKind::ParentMismatch);
    refused(&[&leaf, &mid, &mid], ErrorKind::ParentMismatch);
    refused(&[&leaf, &folder.join("missing.vhdx")], ErrorKind::NotFound);
}

#[test]
fn a_refused_open_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let one = base(folder.path(), "one.vhdx");
    let leaf = child(folder.path(), "leaf.vhdx", &one);
    let other = base(folder.path(), "other.vhdx");
    let before = std::fs::read(&leaf).unwrap();
    refused(&[&leaf, &other], ErrorKind::ParentMismatch);
    assert!(std::fs::read(&leaf).unwrap() == before);
}

#[test]
fn a_parent_that_was_written_to_no_longer_fits() {
    let folder = tempfile::tempdir().unwrap();
    let one = base(folder.path(), "one.vhdx");
    let leaf = child(folder.path(), "leaf.vhdx", &one);
    Chain::open(std::slice::from_ref(&one), Access::ReadWrite).unwrap().write_at(0, b"x").unwrap();
    refused(&[&leaf, &one], ErrorKind::ParentMismatch);
}

#[test]
fn a_leaf_has_one_writer_and_its_parents_none() {
    let folder = tempfile::tempdir().unwrap();
    let one = base(folder.path(), "one.vhdx");
    let (a, b) = (child(folder.path(), "a.vhdx", &one), child(folder.path(), "b.vhdx", &one));
    let _running = Chain::open(&[a.clone(), one.clone()], Access::ReadWrite).unwrap();
    refused(&[&a, &one], ErrorKind::InUse);
    let _sibling = Chain::open(&[b, one.clone()], Access::ReadWrite).unwrap();
    let write_parent = Chain::open(std::slice::from_ref(&one), Access::ReadWrite).err().unwrap();
    assert_eq!(write_parent.kind(), ErrorKind::InUse);
    let over_running =
        vhdx::create_child(&folder.path().join("c"), &a, r".\a.vhdx", &ChildOptions::default());
    assert_eq!(over_running.unwrap_err().kind(), ErrorKind::InUse);
    assert!(!folder.path().join("c").exists());
    vhdx::info(&a).unwrap();
}

#[test]
fn parents_may_be_files_nobody_can_write() {
    let folder = tempfile::tempdir().unwrap();
    let one = base(folder.path(), "one.vhdx");
    std::fs::set_permissions(&one, std::fs::Permissions::from_mode(0o444)).unwrap();
    let leaf = child(folder.path(), "leaf.vhdx", &one);
    let before = std::fs::read(&one).unwrap();
    let disk = Chain::open(&[leaf, one.clone()], Access::ReadWrite).unwrap();
    disk.write_at(0, &[1; 4096]).unwrap();
    disk.close().unwrap();
    assert!(std::fs::read(&one).unwrap() == before);
}

#[test]
fn a_disk_open_for_reading_refuses_writes() {
    let folder = tempfile::tempdir().unwrap();
    let one = base(folder.path(), "one.vhdx");
    let disk = Chain::open(&[one], Access::ReadOnly).unwrap();
    disk.flush().unwrap();
    for outcome in [disk.write_at(0, b"x"), disk.write_zeroes(0, 1), disk.discard(0, 1)] {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ReadOnly);
    }
}
