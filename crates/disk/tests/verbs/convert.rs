//! Whole disks into new files of every format: the same bytes, no space for zeros, nothing left of a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::slice;

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{
    Access, Chain, Disk, ErrorKind, Extent, ExtentKind, Format, Geometry, NewDisk, Onto, Provision,
    convert, copy, raw, vhd,
};
use ireko_testkit::random::Random;

use crate::support::{Impatient, MIB, Shape, bytes, folder, names};

fn chain(folder: &Path, depth: usize, size: u64, sector: u32) -> Vec<PathBuf> {
    let blocks = (0..depth).map(|layer| 1 << (20 + layer % 6)).collect();
    let shape = Shape { format: Format::Vhdx, size, sector, blocks, changes: 12 };
    shape.make(folder, &mut Random::new(depth as u64))
}

#[test]
fn every_disk_reads_the_same_in_every_format() {
    for (depth, sector) in [(1, 512), (3, 512), (2, 4096), (8, 512)] {
        let folder = folder();
        let size = 21 * MIB + u64::from(sector);
        let paths = chain(folder.path(), depth, size, sector);
        let source = Chain::open(&paths, Access::ReadOnly).unwrap();
        let expected = bytes(&source);
        let vhdx = |change: fn(CreateOptions) -> CreateOptions| {
            NewDisk::Vhdx(change(CreateOptions::like(source.geometry())))
        };
        let fixed = |options| CreateOptions {
            provision: Provision::Fixed { preallocate: false },
            ..options
        };
        let small = |options| CreateOptions { block_size: 1 << 20, ..options };
        let mut all = vec![vhdx(|options| options), vhdx(small), vhdx(fixed), NewDisk::Raw];
        if sector == 512 {
            let dynamic = vhd::CreateOptions::new(size);
            let fixed = vhd::CreateOptions {
                provision: Provision::Fixed { preallocate: false },
                ..dynamic.clone()
            };
            all.extend([NewDisk::Vhd(dynamic), NewDisk::Vhd(fixed)]);
        }
        for (index, new) in all.iter().enumerate() {
            let to = folder.path().join(format!("to{index}"));
            convert(&source, &to, new, &()).unwrap();
            let format = Format::of_file(&to).unwrap_or(Format::Raw);
            let copied = Chain::open_as(&to, format, Access::ReadOnly).unwrap();
            assert_eq!(copied.geometry().virtual_size, source.geometry().virtual_size);
            assert!(bytes(&copied) == expected, "depth {depth}, {new:?}");
            // And back again.
            let back = folder.path().join(format!("back{index}"));
            let options = NewDisk::Vhdx(CreateOptions::like(source.geometry()));
            convert(&copied, &back, &options, &()).unwrap();
            assert!(bytes(&Chain::open(&[back], Access::ReadOnly).unwrap()) == expected);
        }
    }
}

#[test]
fn a_flattened_disk_keeps_size_and_sectors_and_gets_an_identity_of_its_own() {
    let folder = folder();
    let paths = chain(folder.path(), 3, 20 * MIB, 4096);
    let source = Chain::open(&paths, Access::ReadOnly).unwrap();
    let page83 = source.identity().unwrap().page83;
    let options = CreateOptions::like(source.geometry());
    let (new, same) = (folder.path().join("new"), folder.path().join("same"));
    convert(&source, &new, &NewDisk::Vhdx(options.clone()), &()).unwrap();
    convert(&source, &same, &NewDisk::Vhdx(CreateOptions { page83: Some(page83), ..options }), &())
        .unwrap();
    let (new, same) = (vhdx::info(&new).unwrap(), vhdx::info(&same).unwrap());
    assert_eq!(new.geometry, source.geometry());
    assert!(new.parent.is_none() && !new.dirty_log);
    assert_ne!(new.page83, page83);
    assert_eq!(same.page83, page83);
}

#[test]
fn sectors_of_4096_bytes_do_not_become_a_vhd() {
    let folder = folder();
    let source = chain(folder.path(), 1, 20 * MIB, 4096);
    let source = Chain::open(&source, Access::ReadOnly).unwrap();
    let to = folder.path().join("to.vhd");
    let new = NewDisk::like(Format::Vhd, source.geometry());
    let refused = convert(&source, &to, &new, &()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert_eq!(names(folder.path()), ["layer0.vhdx"]);
}

#[test]
fn a_disk_for_azure_is_rounded_up_to_whole_mib() {
    let folder = folder();
    let paths = chain(folder.path(), 2, 20 * MIB + 512, 512);
    let source = Chain::open(&paths, Access::ReadOnly).unwrap();
    let to = folder.path().join("to.vhd");
    let new = NewDisk::Vhd(vhd::CreateOptions::for_azure(source.geometry().virtual_size));
    convert(&source, &to, &new, &()).unwrap();
    assert_eq!(fs::metadata(&to).unwrap().len(), 21 * MIB + 512);
    let mut expected = bytes(&source);
    expected.resize(21 * MIB as usize, 0);
    assert!(bytes(&Chain::open(&[to], Access::ReadOnly).unwrap()) == expected);
}

#[test]
fn zeros_take_no_space_in_the_copy() {
    let folder = folder();
    let path = folder.path().join("full.raw");
    raw::create(&path, 64 * MIB).unwrap();
    let source = Chain::open_as(&path, Format::Raw, Access::ReadWrite).unwrap();
    source.write_at(0, &vec![0; 64 * MIB as usize]).unwrap();
    source.write_at(40 * MIB, &[1; 4096]).unwrap();
    let to = folder.path().join("to.vhdx");
    let options = CreateOptions { block_size: 2 << 20, ..CreateOptions::like(source.geometry()) };
    let copied = convert(&source, &to, &NewDisk::Vhdx(options), &()).unwrap();
    assert_eq!((copied.read, copied.written), (64 * MIB, 4096));
    assert!(fs::metadata(&to).unwrap().len() <= 10 * MIB);
    assert!(vhdx::info(&to).unwrap().allocated < MIB / 2);
}

#[test]
fn what_is_a_hole_in_a_file_is_not_read() {
    let folder = folder();
    let size = 256 * MIB;
    let [base, leaf] = ["base.vhdx", "leaf.vhdx"].map(|name| folder.path().join(name));
    vhdx::create(&base, &CreateOptions::new(size)).unwrap();
    let write = |paths: &[PathBuf], at| {
        let disk = Chain::open(paths, Access::ReadWrite).unwrap();
        disk.write_at(at, &[1; 65536]).unwrap();
        // A hole that is not worth going around.
        disk.write_at(at + 65536 + 8192, &[1; 4096]).unwrap();
        disk.close().unwrap();
    };
    write(slice::from_ref(&base), 40 * MIB);
    vhdx::create_child(&leaf, &base, r".\base.vhdx", &ChildOptions::default()).unwrap();
    write(&[leaf.clone(), base.clone()], 100 * MIB);
    let source = Chain::open(&[leaf, base], Access::ReadOnly).unwrap();
    let data = |extents: Vec<Extent>| -> Vec<(u64, u64)> {
        let data = extents.into_iter().filter(|extent| extent.kind == ExtentKind::Data);
        data.map(|extent| (extent.offset, extent.length)).collect()
    };
    let second = 65536 + 8192;
    let expected = [
        (40 * MIB, second + 4096),
        // Between these the leaf has nothing, not even a hole.
        (100 * MIB, 65536),
        (100 * MIB + second, 4096),
    ];
    assert_eq!(data(source.extents_and_holes(0, size, 100).unwrap()), expected);
    assert_eq!(data(source.extents(0, size, 100).unwrap())[0], (32 * MIB, 32 * MIB));

    let to = folder.path().join("to.vhdx");
    let new = NewDisk::like(Format::Vhdx, source.geometry());
    let read: u64 = expected.iter().map(|(_, length)| length).sum();
    assert_eq!(convert(&source, &to, &new, &()).unwrap().read, read);
    assert!(bytes(&Chain::open(&[to], Access::ReadOnly).unwrap()) == bytes(&source));
}

#[test]
fn a_copy_onto_a_disk_with_bytes_of_its_own_hides_them_where_the_source_knows_better() {
    let folder = folder();
    let paths = chain(folder.path(), 2, 20 * MIB, 512);
    let source = Chain::open_top(&paths[..1]).unwrap();
    let path = folder.path().join("target.raw");
    raw::create(&path, 20 * MIB).unwrap();
    let target = Chain::open_as(&path, Format::Raw, Access::ReadWrite).unwrap();
    let base = Chain::open(&paths[1..], Access::ReadOnly).unwrap();
    copy(&base, &target, Onto::Blank, &()).unwrap();
    copy(&source, &target, Onto::Disk, &()).unwrap();
    assert!(bytes(&target) == bytes(&Chain::open(&paths, Access::ReadOnly).unwrap()));
}

#[test]
fn progress_only_grows_and_a_cancelled_conversion_leaves_nothing() {
    let folder = folder();
    let path = folder.path().join("source.raw");
    raw::create(&path, 80 * MIB).unwrap();
    let source = Chain::open_as(&path, Format::Raw, Access::ReadWrite).unwrap();
    source.write_at(MIB, &vec![3; 70 * MIB as usize]).unwrap();
    let to = folder.path().join("to");
    for new in [NewDisk::Raw, NewDisk::like(Format::Vhdx, source.geometry())] {
        let watch = Impatient::after(50 * MIB);
        let error = convert(&source, &to, &new, &watch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(watch.seen() < 60 * MIB);
        assert_eq!(names(folder.path()), ["source.raw"]);

        let watch = Impatient::after(u64::MAX);
        convert(&source, &to, &new, &watch).unwrap();
        assert_eq!(watch.seen(), 70 * MIB);
        fs::remove_file(&to).unwrap();
    }
}

/// A disk of which a part cannot be read.
struct Damaged;

impl Disk for Damaged {
    fn geometry(&self) -> Geometry {
        Geometry { virtual_size: 64 * MIB, logical_sector: 512, physical_sector: 512 }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> ireko_disk::Result<()> {
        buffer.fill(1);
        match offset < 40 * MIB {
            true => Ok(()),
            false => Err(ireko_disk::Error::new(ErrorKind::Io, "medium error")),
        }
    }

    fn write_at(&self, _: u64, _: &[u8]) -> ireko_disk::Result<()> {
        unreachable!("a source is not written")
    }

    fn write_zeroes(&self, _: u64, _: u64) -> ireko_disk::Result<()> {
        unreachable!("a source is not written")
    }

    fn discard(&self, _: u64, _: u64) -> ireko_disk::Result<()> {
        unreachable!("a source is not written")
    }

    fn extents(&self, offset: u64, length: u64, _: usize) -> ireko_disk::Result<Vec<Extent>> {
        Ok(vec![Extent { offset, length, kind: ExtentKind::Data }])
    }

    fn flush(&self) -> ireko_disk::Result<()> {
        Ok(())
    }
}

#[test]
fn a_source_that_cannot_be_read_fails_and_leaves_nothing() {
    let folder = folder();
    let to = folder.path().join("to");
    let new = NewDisk::like(Format::Vhdx, Damaged.geometry());
    let error = convert(&Damaged, &to, &new, &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_file_that_exists_stays_and_a_disk_that_is_too_small_is_refused() {
    let folder = folder();
    let to = folder.path().join("to");
    fs::write(&to, "mine").unwrap();
    let source = Chain::open(&chain(folder.path(), 1, 8 * MIB, 512), Access::ReadOnly).unwrap();
    let new = NewDisk::like(Format::Vhdx, source.geometry());
    assert!(convert(&source, &to, &new, &()).is_err());
    assert_eq!(fs::read(&to).unwrap(), b"mine");

    let other = folder.path().join("other");
    let small = NewDisk::Vhdx(CreateOptions::new(7 * MIB));
    let error = convert(&source, &other, &small, &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    let large = NewDisk::Vhdx(CreateOptions::new(9 * MIB));
    convert(&source, &other, &large, &()).unwrap();
    let copied = bytes(&Chain::open(std::slice::from_ref(&other), Access::ReadOnly).unwrap());
    assert!(
        copied[..8 * MIB as usize] == bytes(&source)
            && copied[8 * MIB as usize..] == [0; MIB as usize]
    );
    assert_eq!(names(folder.path()), ["layer0.vhdx", "other", "to"]);
}

/// A file system of a few MiB in a folder, for as long as this lives.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(mib: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status();
        match mounted.is_ok_and(|status| status.success()) {
            true => Some(Self(folder)),
            false => {
                println!("skipped: may not mount a small file system");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Even while a failed test still holds files on it.
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_file_system_fails_and_nothing_is_left_on_it() {
    let Some(small) = Small::mount(24) else { return };
    let folder = folder();
    let path = folder.path().join("source.raw");
    raw::create(&path, 64 * MIB).unwrap();
    let disk = Chain::open_as(&path, Format::Raw, Access::ReadWrite).unwrap();
    disk.write_at(0, &vec![5; 64 * MIB as usize]).unwrap();
    let to = small.0.path().join("to");
    for new in [NewDisk::Raw, NewDisk::like(Format::Vhdx, disk.geometry())] {
        let error = convert(&disk, &to, &new, &()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(names(small.0.path()).is_empty());
    }
}
