//! OVAs and Vagrant boxes: the disks inside, and everything that may be wrong with the rest.

use super::*;
use std::io::Write as _;
use tar::{Builder, EntryType, Header};

/// Builds archives with another implementation's writer.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// `claimed` is the size that the header tells.
    fn put(mut self, kind: EntryType, path: &str, link: &str, data: &[u8], claimed: u64) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(claimed);
        // Written by hand: the builder refuses the paths a hostile archive has.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, path: &str, data: &[u8]) -> Self {
        self.put(EntryType::Regular, path, "", data, data.len() as u64)
    }

    fn save(self, path: &Path) {
        std::fs::write(path, self.0.into_inner().unwrap()).unwrap();
    }

    fn save_gz(self, path: &Path) {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        encoder.write_all(&self.0.into_inner().unwrap()).unwrap();
        std::fs::write(path, encoder.finish().unwrap()).unwrap();
    }
}

/// The bytes of a disk in some format.
fn disk(scene: &Scene, format: &str, options: &str) -> Vec<u8> {
    let (raw, made) = (scene.path("inner.raw"), scene.path("inner"));
    raw_disk(&raw);
    let (from, to) = (raw.to_str().unwrap(), made.to_str().unwrap());
    let mut arguments = vec!["convert", "-f", "raw", "-O", format];
    if !options.is_empty() {
        arguments.extend(["-o", options]);
    }
    arguments.extend([from, to]);
    qemu_img(&arguments);
    std::fs::read(made).unwrap()
}

fn ova() -> Tar {
    Tar::new().file("vm.ovf", b"<Envelope/>")
}

fn vagrant() -> Tar {
    Tar::new().file("metadata.json", b"{}").file("Vagrantfile", b"")
}

#[test]
fn the_disk_of_an_ova_or_a_box_becomes_an_image() {
    let scene = scene();
    let file = scene.path("vm.ova");
    let vmdk = disk(&scene, "vmdk", "subformat=streamOptimized");
    ova().file("vm-disk1.vmdk", &vmdk).file("vm.mf", b"").save(&file);
    let image = scene.import(&file, None).unwrap();
    assert_eq!(image.names[0].short(), "vm");
    assert_same_disk(&scene, &image, &scene.path("inner.raw"), "raw");

    for (name, member, format) in [
        ("libvirt", "./box.img", "qcow2"),
        ("virtualbox", "box-disk001.vmdk", "vmdk"),
        ("hyper-v", "Virtual Hard Disks/box.vhdx", "vhdx"),
        ("plain", "box_0.img", "raw"),
        ("azure", "disk.vhd", "vpc"),
    ] {
        let file = scene.path(&format!("{name}.box"));
        let options = if format == "vpc" { "subformat=fixed,force_size=on" } else { "" };
        vagrant().file(member, &disk(&scene, format, options)).save_gz(&file);
        let image = scene.import(&file, None).unwrap();
        assert_eq!(image.names[0].short(), name);
        assert_same_disk(&scene, &image, &scene.path("inner.raw"), "raw");
    }
    picture_of_disks(&scene);
}

/// A raw disk that tells by `mark` which one it is.
fn marked(scene: &Scene, mark: u8) -> Vec<u8> {
    let raw = scene.path("inner.raw");
    raw_disk(&raw);
    std::fs::File::options()
        .write(true)
        .open(&raw)
        .unwrap()
        .write_all_at(&[mark; 4096], MARK)
        .unwrap();
    std::fs::read(raw).unwrap()
}

/// The same in VMware's format.
fn marked_vmdk(scene: &Scene, mark: u8) -> Vec<u8> {
    marked(scene, mark);
    let (raw, made) = (scene.path("inner.raw"), scene.path("inner"));
    let (from, to) = (raw.to_str().unwrap(), made.to_str().unwrap());
    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", from, to]);
    std::fs::read(made).unwrap()
}

/// The marks of an image's disk and of its data disks, with what these are called.
fn marks(scene: &Scene, image: &ImageInfo) -> (u8, Vec<(String, u8)>) {
    let file = |guid| {
        let index = scene.store.index();
        scene.store.image_path(&index.layer(guid).unwrap().file)
    };
    let data = image.disks.iter();
    let data = data.map(|disk| (disk.name.to_string(), read(&scene.store, &file(disk.guid))));
    (read(&scene.store, &image.file), data.collect())
}

#[test]
fn the_other_disks_of_a_machine_are_the_images_data_disks_in_its_own_order() {
    let scene = scene();
    let file = scene.path("vm.ova");
    let [one, two, three] = [1, 2, 3].map(|mark| marked_vmdk(&scene, mark));
    let description =
        ovf(&["vm two.vmdk", "vm-three.vmdk", "a-name-that-no-serial-number-has.vmdk"]);
    let archive = Tar::new().file("vm.ovf", description.as_bytes());
    let archive = archive.file("a-name-that-no-serial-number-has.vmdk", &one);
    archive.file("vm two.vmdk", &two).file("vm-three.vmdk", &three).save(&file);
    let image = scene.import(&file, None).unwrap();
    let data = vec![("vm-three".to_owned(), 3), ("disk1".to_owned(), 1)];
    assert_eq!(marks(&scene, &image), (2, data));
    assert_eq!(image.names[0].short(), "vm");

    let boxed = scene.path("libvirt.box");
    let metadata = br#"{"provider":"libvirt","format":"raw","disks":[
        {"path":"second.img"},{"path":"first.img","name":"logs"},{"path":"blank.img"}]}"#;
    let archive = Tar::new().file("metadata.json", metadata);
    let archive = archive.file("blank.img", &vec![0; 16 << 20]).file("Vagrantfile", b"");
    let archive = archive.file("first.img", &marked(&scene, 1));
    archive.file("second.img", &marked(&scene, 2)).save_gz(&boxed);
    let image = scene.import(&boxed, None).unwrap();
    let data = vec![("logs".to_owned(), 1), ("blank".to_owned(), 0)];
    assert_eq!(marks(&scene, &image), (2, data));
    picture_of_disks(&scene);
    // They go with their image.
    let files = || durable::names_in(&scene.places.root.join("images")).unwrap().len();
    assert_eq!(files(), 12);
    for image in ["vm", "libvirt"] {
        scene.store.remove(image, false, &[]).unwrap();
    }
    assert_eq!(files(), 0);
}

#[test]
fn several_disks_whose_order_nobody_tells_are_refused() {
    let scene = scene();
    let file = scene.path("vm.ova");
    let disk = marked(&scene, 1);
    let with = |description: &str, names: &[&str]| {
        let archive = Tar::new().file("vm.ovf", description.as_bytes());
        let archive = names.iter().fold(archive, |archive, name| archive.file(name, &disk));
        archive.save(&file);
    };
    let check = |told: &str| {
        let error = scene.refused(&file, None, told);
        assert!(error.to_string().contains("holds several disks, and"), "{error}");
        assert!(error.remedy().is_some());
    };
    with("<Envelope/>", &["a.raw", "b.raw"]);
    check("its .ovf describes several machines, or none");
    with(&ovf(&["a.raw"]), &["a.raw", "b.raw"]);
    check(r#"its description does not speak of "b.raw""#);
    with(&ovf(&["a.raw", "c.raw"]), &["a.raw", "b.raw"]);
    check(r#"its description speaks of one that is not in it "c.raw""#);
    with(&ovf(&["a.raw", "../a.raw"]), &["a.raw", "b.raw"]);
    check("speaks of one that is not in it");
    with(&ovf(&["a.raw", "a.raw"]), &["a.raw", "b.raw"]);
    check("speaks of one that is not in it");
    with(&ovf(&["a.raw", "b.raw"]).replace(">20<", ">7<"), &["a.raw", "b.raw"]);
    check("on a controller of kind 7");
    let names: Vec<_> = (0..18).map(|number| format!("{number}.raw")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    with(&ovf(&names), &names);
    check("more disks than it may");
    vagrant().file("a.img", &disk).file("b.img", &disk).save(&file);
    check("nothing in it says which of them is the first");
    // A second disk is looked at as closely as the first.
    let base = scene.path("base.qcow2");
    let child = scene.path("child.qcow2");
    qemu_img(&["create", "-f", "qcow2", base.to_str().unwrap(), "8M"]);
    let (base, child_path) = (base.to_str().unwrap(), child.to_str().unwrap());
    qemu_img(&["create", "-f", "qcow2", "-F", "qcow2", "-b", base, child_path]);
    let archive = Tar::new().file("vm.ovf", ovf(&["a.raw", "b.qcow2"]).as_bytes());
    archive.file("a.raw", &disk).file("b.qcow2", &std::fs::read(&child).unwrap()).save(&file);
    scene.refused(&file, None, "has a backing file");

    // A container's further disk is one.
    with(&ovf(&["a.raw", "b.raw"]), &["a.raw", "b.raw"]);
    let what = recognise(&file, None).unwrap();
    let mut pending = scene.store.begin_data_disk(&file, what).unwrap();
    let error = scene.store.fill_data_disk(&mut pending, &()).unwrap_err();
    assert!(error.to_string().contains("more disks than it may"), "{error}");
}

#[test]
fn a_box_that_gnu_tar_wrote_with_holes_is_whole() {
    let scene = scene();
    raw_disk(&scene.path("box.img"));
    std::fs::write(scene.path("metadata.json"), "{}").unwrap();
    let file = scene.path("sparse.box");
    let mut command = Command::new("tar");
    command.arg("-C").arg(&scene.outside).args(["-S", "-czf"]).arg(&file);
    let made = output(command.args(["metadata.json", "box.img"])).unwrap();
    assert!(made.status.success());
    let image = scene.import(&file, None).unwrap();
    assert_same_disk(&scene, &image, &scene.path("box.img"), "raw");
    assert!(image.own_bytes < 8 << 20, "{} bytes", image.own_bytes);
}

#[test]
fn names_that_lead_anywhere_are_refused() {
    let scene = scene();
    let vmdk = disk(&scene, "vmdk", "");
    let file = scene.path("vm.ova");
    let outside = scene.path("evil.vmdk");
    let absolute = outside.to_str().unwrap();
    for name in [absolute, "../evil.vmdk", "a/../../evil.vmdk", r"..\evil.vmdk"] {
        ova().file(name, &vmdk).save(&file);
        scene.refused(&file, None, "leads outside");
    }
    assert!(!outside.exists());
    for (kind, name) in [
        (EntryType::Symlink, "disk.vmdk"),
        (EntryType::Link, "disk.vmdk"),
        (EntryType::Fifo, "pipe"),
        (EntryType::Block, "sda"),
    ] {
        ova().put(kind, name, "/etc/shadow", b"", 0).file("other.vmdk", &vmdk).save(&file);
        scene.refused(&file, None, "is no file");
    }
    for (first, second) in [("a.vmdk", "a.vmdk"), ("vm.mf", "VM.MF"), ("./x", "x")] {
        ova().file(first, b"").file(second, &vmdk).save(&file);
        scene.refused(&file, None, "twice");
    }
}

#[test]
fn sizes_that_no_archive_has_are_refused() {
    let scene = scene();
    let vmdk = disk(&scene, "vmdk", "");
    let file = scene.path("vm.ova");
    for (claimed, told) in [
        (1 << 60, "claims that"),
        ((64 << 40) + 1, "claims that"),
        (u64::MAX >> 1, "claims an impossible size"),
    ] {
        ova().put(EntryType::Regular, "disk.vmdk", "", &vmdk, claimed).save(&file);
        scene.refused(&file, None, told);
    }
    ova().put(EntryType::Regular, "disk.vmdk", "", &vmdk, 64 << 40).save(&file);
    scene.refused(&file, None, "is cut off");
    ova().put(EntryType::Regular, "movie.mp4", "", &[1; 1 << 20], 2 << 30).save(&file);
    scene.refused(&file, None, "bytes of no disk");
}

#[test]
fn bombs_are_refused() {
    let scene = scene();
    let file = scene.path("bomb.box");
    // 256 MiB of zeros that pass for a disk by their name.
    let zeros = vec![0; 256 << 20];
    vagrant().file("box.img", &zeros).save_gz(&file);
    assert!(std::fs::metadata(&file).unwrap().len() < 1 << 20);
    scene.refused(&file, None, "nothing that is known");
    vagrant().put(EntryType::Regular, "junk", "", &zeros[..1 << 20], 1 << 40).save_gz(&file);
    scene.refused(&file, None, "bytes of no disk");
    // A qcow2's header and nothing but zeros after it.
    let mut hollow = disk(&scene, "qcow2", "");
    hollow.resize(64 << 20, 0);
    hollow[24..32].copy_from_slice(&(1u64 << 60).to_be_bytes());
    vagrant().file("box.img", &hollow).save_gz(&file);
    scene.refused(&file, None, "64 TiB");
}

#[test]
fn an_archive_that_is_cut_off_is_refused() {
    let scene = scene();
    let file = scene.path("vm.ova");
    ova().file("disk.vmdk", &disk(&scene, "vmdk", "")).save(&file);
    let whole = std::fs::read(&file).unwrap();
    for keep in [700, 1024, 1536, 70_000, whole.len() / 2] {
        std::fs::write(&file, &whole[..keep]).unwrap();
        scene.refused(&file, None, "");
    }
    let boxed = scene.path("cut.box");
    vagrant().file("box.img", &disk(&scene, "qcow2", "")).save_gz(&boxed);
    let whole = std::fs::read(&boxed).unwrap();
    for keep in [whole.len() / 2, whole.len() - 9] {
        std::fs::write(&boxed, &whole[..keep]).unwrap();
        scene.refused(&boxed, None, "cannot be read");
    }
}

#[test]
fn an_archive_without_one_usable_disk_is_refused() {
    let scene = scene();
    let file = scene.path("vm.ova");
    ova().save(&file);
    scene.refused(&file, None, "holds no disk");
    let base = scene.path("base.qcow2");
    let child = scene.path("child.qcow2");
    qemu_img(&["create", "-f", "qcow2", base.to_str().unwrap(), "8M"]);
    let (base, child_path) = (base.to_str().unwrap(), child.to_str().unwrap());
    qemu_img(&["create", "-f", "qcow2", "-F", "qcow2", "-b", base, child_path]);
    vagrant().file("box.img", &std::fs::read(&child).unwrap()).save_gz(&file);
    scene.refused(&file, None, "has a backing file");
}
