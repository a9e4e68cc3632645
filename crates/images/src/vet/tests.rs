//! Files made by qemu-img, as they are and made hostile.

use super::*;
use crate::ErrorKind;
use crate::tests::{output, temporary};
use std::path::PathBuf;
use std::process::Command;

struct Files(tempfile::TempDir);

impl Files {
    fn make(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let path = self.0.path().join(name);
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q"]).args(arguments).arg(&path).arg("8M");
        let made = output(&mut command).unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        path
    }
}

fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

#[track_caller]
fn check_refused(path: &Path, format: DiskFormat, told: &str) {
    let error = vet(path, format).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadInput);
    assert!(error.to_string().contains(told), "{error}");
}

#[test]
fn whole_disks_pass_with_their_size() {
    let files = Files(temporary());
    for (format, qemu, options) in [
        (DiskFormat::Qcow2, "qcow2", "compat=0.10"),
        (DiskFormat::Qcow2, "qcow2", "compat=1.1"),
        (DiskFormat::Qcow2, "qcow2", "compression_type=zstd,extended_l2=on"),
        (DiskFormat::Vdi, "vdi", "static=off"),
        (DiskFormat::Vdi, "vdi", "static=on"),
        (DiskFormat::Vmdk, "vmdk", "subformat=monolithicSparse"),
        (DiskFormat::Vmdk, "vmdk", "subformat=streamOptimized"),
    ] {
        let path = files.make("disk", &["-f", qemu, "-o", options]);
        assert_eq!(vet(&path, format).unwrap(), 8 << 20, "{options}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_stream_optimised_vmdk_has_its_size_in_its_footer() {
    let files = Files(temporary());
    let path = files.make("disk", &["-f", "vmdk", "-o", "subformat=streamOptimized"]);
    let mut footer = std::fs::read(&path).unwrap()[..512].to_vec();
    patch(&path, 0x38, &[0xff; 8]);
    check_refused(&path, DiskFormat::Vmdk, "its footer is missing");
    footer[0x0c..0x14].copy_from_slice(&(1u64 << 10).to_le_bytes());
    let end = std::fs::metadata(&path).unwrap().len();
    patch(&path, end + 512, &[&footer[..], &[0; 512]].concat());
    assert_eq!(vet(&path, DiskFormat::Vmdk).unwrap(), 512 << 10);
    patch(&path, end + 512 + 0x0c, &[0; 8]);
    check_refused(&path, DiskFormat::Vmdk, "data is in other files");
}

#[test]
fn a_qcow2_that_names_another_file_is_refused() {
    let files = Files(temporary());
    let base = files.make("base", &["-f", "raw"]);
    let base = base.to_str().unwrap();
    let child = files.make("child", &["-f", "qcow2", "-F", "raw", "-b", base]);
    check_refused(&child, DiskFormat::Qcow2, "has a backing file");
    // The flag alone, and the name alone, are enough.
    let data = files.0.path().join("data");
    let option = format!("data_file={},data_file_raw=on", data.display());
    let split = files.make("split", &["-f", "qcow2", "-o", &option]);
    check_refused(&split, DiskFormat::Qcow2, "in another file");
    patch(&split, 72, &[0; 8]);
    check_refused(&split, DiskFormat::Qcow2, "in another file");
    let flagged = files.make("flagged", &["-f", "qcow2"]);
    patch(&flagged, 79, &[4]);
    check_refused(&flagged, DiskFormat::Qcow2, "in another file");
}

#[test]
fn a_damaged_qcow2_is_refused() {
    let files = Files(temporary());
    #[track_caller]
    fn check(files: &Files, offset: u64, bytes: &[u8], told: &str) {
        let path = files.make("disk", &["-f", "qcow2"]);
        patch(&path, offset, bytes);
        check_refused(&path, DiskFormat::Qcow2, told);
    }
    check(&files, 4, &1u32.to_be_bytes(), "version 2 or 3");
    check(&files, 20, &63u32.to_be_bytes(), "clusters of 2^63");
    check(&files, 24, &(1u64 << 60).to_be_bytes(), "64 TiB is the most");
    check(&files, 24, &[0; 8], "0 bytes");
    check(&files, 32, &2u32.to_be_bytes(), "is encrypted");
    check(&files, 79, &[2], "marked as corrupt");
    check(&files, 72, &[0x80], "features that are not known");
    check(&files, 100, &7u32.to_be_bytes(), "a header of 7 bytes");
    check(&files, 116, &u32::MAX.to_be_bytes(), "leads out of its header");
    let path = files.make("disk", &["-f", "qcow2"]);
    File::options().write(true).open(&path).unwrap().set_len(80).unwrap();
    check_refused(&path, DiskFormat::Qcow2, "is cut off");
}

#[test]
fn a_vmdk_that_names_another_file_is_refused() {
    let files = Files(temporary());
    let flat = files.make("flat", &["-f", "vmdk", "-o", "subformat=monolithicFlat"]);
    check_refused(&flat, DiskFormat::Vmdk, "holds its disk itself");
    let base = files.make("base", &["-f", "vmdk"]);
    let base = base.to_str().unwrap();
    let child = files.make("child", &["-f", "vmdk", "-F", "vmdk", "-b", base]);
    check_refused(&child, DiskFormat::Vmdk, "differencing");
    // The hint alone makes QEMU open the file.
    let text = b"# Disk DescriptorFile\nparentCID=ffffffff\nparentFileNameHint=\"/etc/shadow\"\n";
    let hinted = files.make("hinted", &["-f", "vmdk"]);
    patch(&hinted, 0x200, text);
    check_refused(&hinted, DiskFormat::Vmdk, "differencing");
    // A descriptor at another place than where QEMU looks.
    let moved = files.make("moved", &["-f", "vmdk"]);
    let end = std::fs::metadata(&moved).unwrap().len();
    patch(&moved, end, text);
    patch(&moved, 0x1c, &(end / 512).to_le_bytes());
    check_refused(&moved, DiskFormat::Vmdk, "differencing");
    let several = files.make("several", &["-f", "vmdk"]);
    let text = b"# Disk DescriptorFile\nRW 1 SPARSE \"a.vmdk\"\nRW 1 FLAT \"/etc/shadow\" 0\n";
    patch(&several, 0x200, text);
    check_refused(&several, DiskFormat::Vmdk, "has its data in");
    let empty = files.make("empty", &["-f", "vmdk"]);
    patch(&empty, 0x0c, &[0; 8]);
    check_refused(&empty, DiskFormat::Vmdk, "data is in other files");
    patch(&empty, 0x0c, &(1u64 << 60).to_le_bytes());
    check_refused(&empty, DiskFormat::Vmdk, "64 TiB");
    patch(&empty, 0x24, &(1u64 << 60).to_le_bytes());
    check_refused(&empty, DiskFormat::Vmdk, "descriptor outside");
}

#[test]
fn a_vdi_with_a_parent_is_refused() {
    let files = Files(temporary());
    #[track_caller]
    fn check(files: &Files, offset: u64, bytes: &[u8], told: &str) {
        let path = files.make("disk", &["-f", "vdi"]);
        patch(&path, offset, bytes);
        check_refused(&path, DiskFormat::Vdi, told);
    }
    check(&files, 0x4c, &4u32.to_le_bytes(), "differencing");
    check(&files, 0x4c, &9u32.to_le_bytes(), "unknown type 9");
    check(&files, 0x1a8, &[1], "differencing");
    check(&files, 0x1c7, &[1], "differencing");
    check(&files, 0x44, &[9], "version 1.1");
    check(&files, 0x170, &(1u64 << 60).to_le_bytes(), "64 TiB");
}

#[test]
fn a_file_of_another_format_than_told_is_refused() {
    let files = Files(temporary());
    let path = files.make("disk", &["-f", "raw"]);
    for format in [DiskFormat::Qcow2, DiskFormat::Vmdk, DiskFormat::Vdi, DiskFormat::Raw] {
        assert_eq!(vet(&path, format).unwrap_err().kind(), ErrorKind::BadInput);
    }
}
