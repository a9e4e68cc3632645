//! Files of every kind, made by other programs where they are at hand.

use super::*;
use crate::ErrorKind;
use crate::tests::{output, temporary};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

struct Files(tempfile::TempDir);

impl Files {
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_entry_type(tar::EntryType::Regular);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn disks_of_other_programs_are_recognised_whatever_they_are_called() {
    let files = Files(temporary());
    let formats = [
        ("vhdx", DiskFormat::Vhdx),
        ("vpc", DiskFormat::Vhd),
        ("qcow2", DiskFormat::Qcow2),
        ("vmdk", DiskFormat::Vmdk),
        ("vdi", DiskFormat::Vdi),
    ];
    for (name, format) in formats {
        let path = files.0.path().join(format!("{name}.txt"));
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", name]).arg(&path).arg("8M");
        assert!(output(&mut command).unwrap().status.success());
        assert_eq!(recognise(&path, None).unwrap(), Recognised::Disk(format), "{name}");
    }
    let fixed = files.0.path().join("fixed");
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "vpc", "-o", "subformat=fixed"]).arg(&fixed).arg("8M");
    assert!(output(&mut command).unwrap().status.success());
    assert_eq!(recognise(&fixed, None).unwrap(), Recognised::Disk(DiskFormat::Vhd));
}

#[test]
fn archives_are_recognised_by_their_members() {
    let files = Files(temporary());
    #[track_caller]
    fn check(files: &Files, names: &[&str], expected: Recognised) {
        let members: Vec<_> = names.iter().map(|name| (*name, &b"x"[..])).collect();
        let plain = tar(&members);
        assert_eq!(recognise(&files.write("plain", &plain), None).unwrap(), expected, "{names:?}");
        let packed = match expected {
            Recognised::Packed(packing, _) => Recognised::Packed(packing, Compression::Gzip),
            other => other,
        };
        assert_eq!(recognise(&files.write("gz", &gzip(&plain)), None).unwrap(), packed);
    }
    let packed = |packing| Recognised::Packed(packing, Compression::None);
    check(&files, &["vm.ovf", "disk1.vmdk", "vm.mf"], packed(Packing::Ova));
    check(&files, &["./metadata.json", "./box.img"], packed(Packing::VagrantBox));
    check(&files, &["box.ovf", "Vagrantfile", "box-disk001.vmdk"], packed(Packing::VagrantBox));
    check(&files, &["Vagrantfile", "box.ovf", "x.vmdk"], packed(Packing::VagrantBox));
    let hyper_v = ["metadata.json", "Virtual Hard Disks/box.vhdx"];
    check(&files, &hyper_v, packed(Packing::VagrantBox));
    check(&files, &["oci-layout", "index.json"], Recognised::OciLayout);
    check(&files, &["abc/layer.tar", "abc.json", "manifest.json"], Recognised::DockerArchive);
    let both = ["blobs/sha256/a", "index.json", "manifest.json", "oci-layout"];
    check(&files, &both, Recognised::DockerArchive);
    check(&files, &["etc/passwd", "bin/sh"], Recognised::RootFs);
    check(&files, &["opt/vm.ovf", "srv/box.img", "metadata.json"], Recognised::RootFs);
    check(&files, &[], Recognised::RootFs);
}

#[test]
fn what_else_is_known_is_recognised() {
    let files = Files(temporary());
    assert_eq!(recognise(&files.write("zip", b"PK\x03\x04"), None).unwrap(), Recognised::Zip);
    let layout = files.0.path().join("layout");
    std::fs::create_dir(&layout).unwrap();
    let error = recognise(&layout, None).unwrap_err();
    assert!(error.to_string().ends_with("is a folder"));
    std::fs::write(layout.join("oci-layout"), "{}").unwrap();
    assert_eq!(recognise(&layout, None).unwrap(), Recognised::OciLayout);
}

#[test]
fn what_is_not_known_is_refused_with_what_is() {
    let files = Files(temporary());
    let mut iso = vec![0; 40 << 10];
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    for (bytes, told) in [
        (&b""[..], "is empty"),
        (b"hello", "is nothing that is known"),
        (&[0; 2 << 20], "is nothing that is known"),
        (b"BZh91AY&SY", "bzip2"),
        (&gzip(b"QFI\xfb and so on"), "is a compressed qcow2 disk"),
        (&gzip(b"hello"), "no archive inside"),
        (&gzip(&[7; 4096])[..20], "an archive that cannot be read"),
        (&iso, "ISO image"),
    ] {
        let error = recognise(&files.write("file", bytes), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadInput);
        assert!(error.to_string().contains(told), "{error}");
    }
    let error = recognise(&files.write("file", b"hello"), None).unwrap_err();
    assert!(error.remedy().unwrap().contains("--format raw"));
}

#[test]
fn what_the_user_says_decides_where_the_content_leaves_a_choice() {
    let files = Files(temporary());
    let zeros = files.write("zeros", &[0; 4096]);
    assert_eq!(recognise(&zeros, None).unwrap(), Recognised::RootFs);
    let raw = recognise(&zeros, Some("raw".parse().unwrap())).unwrap();
    assert_eq!(raw, Recognised::Disk(DiskFormat::Raw));
    for name in FORMATS {
        recognise(&zeros, Some(name.parse().unwrap())).unwrap();
    }
    assert!("iso".parse::<GivenFormat>().is_err());
}
