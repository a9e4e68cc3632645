//! Creating, linking and opening VHD chains: every link is verified, every file is held.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ireko_disk::merge::{self, MergeOptions};
use ireko_disk::vhd::{self, ChildOptions, CreateOptions, Kind};
use ireko_disk::{Access, Chain, Disk, ErrorKind, RelinkOptions, Verify, find_chain, relink, vhdx};

use crate::support::{MIB, dynamic, fixed, folder, set_parent_path};

fn base(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    vhd::create(&path, &CreateOptions::new(64 << 20)).unwrap();
    path
}

fn child(folder: &Path, name: &str, parent: &Path) -> PathBuf {
    let path = folder.join(name);
    let link = format!(r".\{}", parent.file_name().unwrap().to_str().unwrap());
    vhd::create_child(&path, parent, &link, &ChildOptions::default()).unwrap();
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
    let folder = folder();
    let folder = folder.path();
    let (one, two) = (base(folder, "one.vhd"), base(folder, "two.vhd"));
    let mid = child(folder, "mid.vhd", &one);
    let leaf = child(folder, "leaf.vhd", &mid);
    let chain = [leaf.clone(), mid.clone(), one.clone()];
    Chain::open(&chain, Access::ReadOnly).unwrap();
    assert_eq!(find_chain(&leaf, &[]).unwrap(), chain);

    refused(&[&leaf, &mid], ErrorKind::NotFound);
    refused(&[&leaf, &mid, &two], ErrorKind::ParentMismatch);
    refused(&[&leaf, &one], ErrorKind::ParentMismatch);
    refused(&[&one, &two], ErrorKind::ParentMismatch);
    refused(&[&leaf, &mid, &mid], ErrorKind::ParentMismatch);
    let other = folder.join("other.vhdx");
    vhdx::create(&other, &vhdx::CreateOptions::new(64 << 20)).unwrap();
    refused(&[&mid, &other], ErrorKind::ParentMismatch);
}

#[test]
fn a_child_remembers_its_parent_and_has_its_size() {
    let folder = folder();
    let parent = folder.path().join("base.vhd");
    vhd::create(&parent, &fixed(3 * MIB + 512)).unwrap();
    let child = folder.path().join("child.vhd");
    let options = ChildOptions {
        absolute_path: Some(r"C:\disks\base.vhd".into()),
        ..ChildOptions::default()
    };
    vhd::create_child(&child, &parent, r"..\disks\base.vhd", &options).unwrap();
    let (info, parent_info) = (vhd::info(&child).unwrap(), vhd::info(&parent).unwrap());
    assert_eq!((info.kind, parent_info.kind), (Kind::Differencing, Kind::Fixed));
    assert_eq!(info.geometry, parent_info.geometry);
    assert_eq!((info.block_size, parent_info.block_size), (Some(2 << 20), None));
    assert_eq!((info.chs_size, info.creator.as_str(), info.has_footer), (None, "win ", true));
    let link = info.parent.unwrap();
    assert_eq!(link.unique_id, parent_info.unique_id);
    assert_eq!(link.relative_path.as_deref(), Some(r"..\disks\base.vhd"));
    assert_eq!(link.absolute_path.as_deref(), Some(r"C:\disks\base.vhd"));
    let written = std::fs::metadata(&parent).unwrap().modified().unwrap();
    assert!(written.duration_since(link.modified).unwrap() < Duration::from_secs(1));
    assert!(info.created <= SystemTime::now());

    set_parent_path(&child, r".\moved.vhd").unwrap();
    let after = vhd::info(&child).unwrap();
    let link = after.parent.unwrap();
    assert_eq!(link.base_names(), ["moved.vhd"]);
    assert_eq!((link.absolute_path, after.unique_id), (None, info.unique_id));
    let refused = set_parent_path(&parent, "x").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
}

#[test]
fn changing_the_parent_s_path_again_and_again_takes_no_more_space() {
    let folder = folder();
    let parent = base(folder.path(), "base.vhd");
    let path = child(folder.path(), "child.vhd", &parent);
    let length = std::fs::metadata(&path).unwrap().len();
    for round in 0..20 {
        let link = format!(r".\{}\base.vhd", "folder".repeat(round + 1));
        set_parent_path(&path, &link).unwrap();
        assert_eq!(vhd::info(&path).unwrap().parent.unwrap().relative_path, Some(link));
    }
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
}

#[test]
fn a_disk_for_azure_is_whole_mebibytes_and_a_footer() {
    let folder = folder();
    for (wanted, size) in [(1, MIB), (MIB, MIB), (20 * MIB + 1, 21 * MIB)] {
        let path = folder.path().join(format!("{wanted}.vhd"));
        vhd::create(&path, &CreateOptions::for_azure(wanted)).unwrap();
        let info = vhd::info(&path).unwrap();
        assert_eq!((info.kind, info.geometry.virtual_size), (Kind::Fixed, size));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size + 512);
    }
}

#[test]
fn options_outside_the_format_s_limits_are_refused_and_leave_no_file() {
    let folder = folder();
    let path = folder.path().join("a.vhd");
    let good = CreateOptions::new(1 << 30);
    for bad in [
        CreateOptions { virtual_size: 0, ..good.clone() },
        CreateOptions { virtual_size: 1000, ..good.clone() },
        CreateOptions { virtual_size: (2040 << 30) + 512, ..good.clone() },
        CreateOptions { block_size: 3 << 20, ..good.clone() },
        CreateOptions { block_size: 256 << 10, ..good.clone() },
        CreateOptions { block_size: 512 << 20, ..good.clone() },
        CreateOptions { virtual_size: (2040 << 30) + 512, ..fixed(0) },
        CreateOptions::for_azure(u64::MAX),
    ] {
        assert_eq!(vhd::create(&path, &bad).unwrap_err().kind(), ErrorKind::OutOfRange);
        assert!(!path.exists());
    }
    let parent = base(folder.path(), "base.vhd");
    for link in ["", "a\0b"] {
        let options = ChildOptions::default();
        let refused = vhd::create_child(&path, &parent, link, &options).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::OutOfRange);
        assert!(!path.exists());
    }
}

#[test]
fn the_largest_disk_takes_writes_at_its_end() {
    let folder = folder();
    let path = folder.path().join("large.vhd");
    vhd::create(&path, &dynamic(2040 << 30, 2 << 20)).unwrap();
    let disk = Chain::open(std::slice::from_ref(&path), Access::ReadWrite).unwrap();
    disk.write_at((2040 << 30) - 512, &[7; 512]).unwrap();
    disk.close().unwrap();
    let disk = Chain::open(&[path], Access::ReadOnly).unwrap();
    let mut bytes = [0; 512];
    disk.read_at((2040 << 30) - 512, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 512]);
}

#[test]
fn layers_merge_into_a_new_file_that_children_take_for_the_old_one() {
    let folder = folder();
    let folder = folder.path();
    let one = base(folder, "one.vhd");
    let mid = child(folder, "mid.vhd", &one);
    let top = child(folder, "top.vhd", &mid);
    let leaf = child(folder, "leaf.vhd", &top);
    let chain = [leaf.clone(), top, mid, one.clone()];
    for (depth, value) in [(3, 1), (2, 2), (1, 3), (0, 4)] {
        let disk = Chain::open(&chain[depth..], Access::ReadWrite).unwrap();
        disk.write_at(value * 10_000, &vec![value as u8; 50_000]).unwrap();
        disk.close().unwrap();
    }
    let read = |paths: &[PathBuf]| {
        let mut bytes = vec![0; 200_000];
        Chain::open(paths, Access::ReadOnly).unwrap().read_at(0, &mut bytes).unwrap();
        bytes
    };
    let expected = read(&chain);
    let options = MergeOptions { keep_identity: true, ..MergeOptions::default() };
    for (layers, name) in [(2, "two.vhd"), (3, "three.vhd")] {
        let merged = folder.join(name);
        merge::into_new(&chain[1..], layers, &merged, &options, &()).unwrap();
        let paths: Vec<PathBuf> = [&[leaf.clone(), merged], &chain[1 + layers..]].concat();
        assert!(read(&paths) == expected);
    }
}

#[test]
fn a_child_is_relinked_to_its_parent_elsewhere_and_to_no_other() {
    let folder = folder();
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    std::fs::create_dir(&here).unwrap();
    std::fs::create_dir(&there).unwrap();
    let (parent, other) = (base(&here, "base.vhd"), base(&there, "other.vhd"));
    let leaf = child(&here, "leaf.vhd", &parent);
    let moved = there.join("base.vhd");
    std::fs::rename(&parent, &moved).unwrap();
    let options = RelinkOptions::default();
    relink(&leaf, &moved, &[], &options, &()).unwrap();
    let link = vhd::info(&leaf).unwrap().parent.unwrap();
    assert_eq!(link.relative_path.as_deref(), Some(r"..\there\base.vhd"));
    let refused = relink(&leaf, &other, &[], &options, &()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ParentMismatch);
    let options = RelinkOptions { verify: Verify::Force, ..options };
    relink(&leaf, &other, &[], &options, &()).unwrap();
    Chain::open(&[leaf, other], Access::ReadOnly).unwrap();
}

#[test]
fn a_parent_in_use_by_a_writer_gets_no_child() {
    let folder = folder();
    let parent = base(folder.path(), "base.vhd");
    let disk = Chain::open(std::slice::from_ref(&parent), Access::ReadWrite).unwrap();
    let options = ChildOptions::default();
    let path = folder.path().join("child.vhd");
    let refused = vhd::create_child(&path, &parent, r".\base.vhd", &options).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InUse);
    vhd::info(&parent).unwrap();
    disk.close().unwrap();
}

#[test]
fn reading_and_closing_change_nothing() {
    let folder = folder();
    let parent = base(folder.path(), "base.vhd");
    let leaf = child(folder.path(), "leaf.vhd", &parent);
    let before = std::fs::read(&leaf).unwrap();
    for access in [Access::ReadOnly, Access::ReadWrite] {
        let disk = Chain::open(&[leaf.clone(), parent.clone()], access).unwrap();
        disk.read_at(0, &mut [0; 4096]).unwrap();
        disk.flush().unwrap();
        disk.close().unwrap();
        assert!(std::fs::read(&leaf).unwrap() == before);
    }
}
