//! Children are told of their parents' new places, and of nothing that is not their parent.

use std::fs;
use std::path::{Path, PathBuf};

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions, ParentLink};
use ireko_disk::{
    Access, Chain, Disk, ErrorKind, NewDisk, RelinkOptions, Verify, convert, find_chain,
    first_difference, raw, relink,
};

use crate::support::{Impatient, MIB, bytes_of, folder};

/// `base.vhdx ◄ middle.vhdx ◄ leaf.vhdx`, leaf first, each with bytes of its own.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for (layer, name) in ["base.vhdx", "middle.vhdx", "leaf.vhdx"].iter().enumerate() {
        let path = folder.join(name);
        match paths.first() {
            None => vhdx::create(&path, &CreateOptions::new(40 * MIB)).unwrap(),
            Some(parent) => {
                let name = parent.file_name().unwrap().to_str().unwrap();
                let options = ChildOptions {
                    absolute_path: Some(format!(r"C:\disks\{name}")),
                    ..Default::default()
                };
                vhdx::create_child(&path, parent, &format!(r".\{name}"), &options).unwrap();
            }
        }
        paths.insert(0, path);
        let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
        disk.write_at(layer as u64 * 5 * MIB, &vec![layer as u8 + 1; 6 * MIB as usize]).unwrap();
        disk.close().unwrap();
    }
    paths
}

fn link(path: &Path) -> ParentLink {
    vhdx::info(path).unwrap().parent.unwrap()
}

fn with(verify: Verify) -> RelinkOptions {
    RelinkOptions { verify, ..Default::default() }
}

#[test]
fn a_parent_that_moved_is_found_again() {
    let folder = folder();
    let paths = tree(folder.path());
    let before = bytes_of(&paths);
    let (moved, info) = (folder.path().join("images/root.vhdx"), vhdx::info(&paths[1]).unwrap());
    fs::create_dir(folder.path().join("images")).unwrap();
    fs::rename(&paths[2], &moved).unwrap();
    assert_eq!(find_chain(&paths[0], &[]).unwrap_err().kind(), ErrorKind::NotFound);

    relink(&paths[1], &moved, &[], &RelinkOptions::default(), &()).unwrap();
    let after = vhdx::info(&paths[1]).unwrap();
    let link = after.parent.unwrap();
    assert_eq!(link.relative_path.as_deref(), Some(r".\images\root.vhdx"));
    assert_eq!((link.absolute_path, link.volume_path), (None, None), "no stale path is left");
    assert_eq!(link.linkage, info.parent.unwrap().linkage);
    assert_eq!(after.data_write_guid, info.data_write_guid, "its own children are not affected");
    assert_ne!(after.file_write_guid, info.file_write_guid);
    assert!(!after.dirty_log);
    let chain = find_chain(&paths[0], &[moved.parent().unwrap().to_owned()]).unwrap();
    assert!(bytes_of(&chain) == before);
}

#[test]
fn paths_can_be_said_instead_of_computed() {
    let folder = folder();
    let paths = tree(folder.path());
    assert_eq!(link(&paths[0]).absolute_path.as_deref(), Some(r"C:\disks\middle.vhdx"));
    let options = RelinkOptions {
        relative_path: Some(r"..\there\middle.vhdx".into()),
        absolute_path: Some(r"D:\there\middle.vhdx".into()),
        verify: Verify::Identity,
    };
    relink(&paths[0], &paths[1], &[], &options, &()).unwrap();
    let link = link(&paths[0]);
    assert_eq!(link.relative_path.as_deref(), Some(r"..\there\middle.vhdx"));
    assert_eq!(link.absolute_path.as_deref(), Some(r"D:\there\middle.vhdx"));
    assert_eq!(find_chain(&paths[0], &[]).unwrap(), paths);
    let empty = RelinkOptions { relative_path: Some(String::new()), ..options };
    let refused = relink(&paths[0], &paths[1], &[], &empty, &()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::OutOfRange);
}

#[test]
fn another_file_is_refused_unless_it_holds_the_same_bytes() {
    let folder = folder();
    let paths = tree(folder.path());
    let before = bytes_of(&paths);
    // The leaf's parents in one file: other identity, same bytes.
    let flat = folder.path().join("flat.vhdx");
    let source = Chain::open(&paths[1..], Access::ReadOnly).unwrap();
    let new = NewDisk::Vhdx(CreateOptions::like(source.geometry()));
    convert(&source, &flat, &new, &()).unwrap();
    drop(source);

    let refused = relink(&paths[0], &flat, &[], &with(Verify::Identity), &()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ParentMismatch);
    relink(&paths[0], &flat, &[], &with(Verify::SameBytes), &()).unwrap();
    let chain = find_chain(&paths[0], &[]).unwrap();
    assert_eq!(chain, [paths[0].clone(), flat.clone()]);
    assert!(bytes_of(&chain) == before);

    // One byte is enough to be another disk.
    let disk = Chain::open(&paths[1..], Access::ReadWrite).unwrap();
    disk.write_at(39 * MIB, &[1]).unwrap();
    disk.close().unwrap();
    let refused = relink(&paths[0], &paths[1], &[], &with(Verify::SameBytes), &()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ParentMismatch);
    assert_eq!(link(&paths[0]).relative_path.as_deref(), Some(r".\flat.vhdx"));
    relink(&paths[0], &paths[1], &[], &with(Verify::Force), &()).unwrap();
    assert_eq!(find_chain(&paths[0], &[]).unwrap(), paths);
}

#[test]
fn circles_other_sectors_and_larger_parents_are_refused_even_by_force() {
    let folder = folder();
    let paths = tree(folder.path());
    let force = with(Verify::Force);
    for parent in [&paths[1], &paths[0]] {
        let refused = relink(&paths[1], parent, &[], &force, &()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ParentMismatch, "{refused}");
    }
    let larger = CreateOptions::new(41 * MIB);
    let sectors = CreateOptions { logical_sector: 4096, ..CreateOptions::new(40 * MIB) };
    for (name, options) in [("larger.vhdx", larger), ("sectors.vhdx", sectors)] {
        let parent = folder.path().join(name);
        vhdx::create(&parent, &options).unwrap();
        let refused = relink(&paths[0], &parent, &[], &force, &()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ParentMismatch, "{name}");
    }
    assert_eq!(find_chain(&paths[0], &[]).unwrap(), paths);
}

#[test]
fn a_base_has_no_parent_and_an_open_child_is_in_use() {
    let folder = folder();
    let paths = tree(folder.path());
    let other = folder.path().join("other.vhdx");
    vhdx::create(&other, &CreateOptions::new(40 * MIB)).unwrap();
    let refused = relink(&paths[2], &other, &[], &with(Verify::Force), &()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    let _open = Chain::open(&paths, Access::ReadOnly).unwrap();
    let refused = relink(&paths[0], &paths[1], &[], &RelinkOptions::default(), &()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InUse);
}

#[test]
fn a_cancelled_comparison_changes_nothing() {
    let folder = folder();
    let paths = tree(folder.path());
    let before = fs::read(&paths[0]).unwrap();
    let watch = Impatient::after(3 * MIB);
    let error = relink(&paths[0], &paths[1], &[], &with(Verify::SameBytes), &watch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(fs::read(&paths[0]).unwrap() == before);
}

#[test]
fn the_first_difference_is_found_and_a_smaller_disk_reads_zeros_past_its_end() {
    let folder = folder();
    let disk = |name: &str, size: u64| {
        let path = folder.path().join(name);
        raw::create(&path, size).unwrap();
        Chain::open_as(&path, ireko_disk::Format::Raw, Access::ReadWrite).unwrap()
    };
    let (a, b) = (disk("a", 8 * MIB), disk("b", 5 * MIB));
    assert_eq!(first_difference(&a, &b, &()).unwrap(), None);
    // Zeros that one disk has written are zeros.
    a.write_at(MIB, &vec![0; MIB as usize]).unwrap();
    assert_eq!(first_difference(&b, &a, &()).unwrap(), None);
    a.write_at(7 * MIB + 77, &[1]).unwrap();
    assert_eq!(first_difference(&a, &b, &()).unwrap(), Some(7 * MIB + 77));
    assert_eq!(first_difference(&b, &a, &()).unwrap(), Some(7 * MIB + 77));
    b.write_at(3 * MIB - 1, &[1; 2]).unwrap();
    a.write_at(3 * MIB - 1, &[1]).unwrap();
    assert_eq!(first_difference(&a, &b, &()).unwrap(), Some(3 * MIB));
}
