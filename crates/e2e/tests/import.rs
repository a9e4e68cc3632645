//! Importing files as their user meets it: by the command line, through the daemon, by qemu-img in its
//! walls. No VM runs.

use ireko_disk::{Access, Chain, Disk, vhdx};
use ireko_e2e::World;
use ireko_e2e::programs::run;
use ireko_e2e::slots::Vms;
use ireko_e2e::witness;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const GUID: &str = "2dc27766-f623-4200-9d64-115e9bfd4a08";

struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A raw disk with a partition table and data all over it.
    fn raw(&self, size: u64) -> PathBuf {
        let path = self.path("disk.raw");
        let disk = File::create(&path).expect("create");
        disk.set_len(size).expect("set the length");
        let mut table = [0; 512];
        table[450] = 0x83;
        table[454..458].copy_from_slice(&2048u32.to_le_bytes());
        table[458..462].copy_from_slice(&2048u32.to_le_bytes());
        table[510..].copy_from_slice(&[0x55, 0xaa]);
        disk.write_all_at(&table, 0).expect("write");
        for at in (1 << 20..size - (1 << 20)).step_by(7 << 20) {
            let data: Vec<u8> = (0..1 << 20).map(|n: u64| ((n * at) >> 13) as u8).collect();
            disk.write_all_at(&data, at).expect("write");
        }
        path
    }

    fn converted(&self, from: &Path, format: &str) -> PathBuf {
        let to = self.path(&format!("disk.{format}"));
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O", format]).arg(from).arg(&to);
        run(&mut command).ok();
        to
    }
}

/// The sha256 of an image's whole disk, by our own engine.
fn disk_hash(file: &Path) -> String {
    let chain = Chain::open(&[file.to_owned()], Access::ReadOnly).expect("open the image");
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    let size = chain.geometry().virtual_size;
    for at in (0..size).step_by(1 << 20) {
        let length = (size - at).min(1 << 20) as usize;
        chain.read_at(at, &mut piece[..length]).expect("read the image");
        hash.update(&piece[..length]);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn listing(world: &World) -> Vec<String> {
    let mut names = Vec::new();
    for folder in ["images", "journal"] {
        let entries = fs::read_dir(world.root().join(folder)).expect("a folder").flatten();
        names.extend(entries.map(|entry| format!("{folder}/{:?}", entry.file_name())));
    }
    names.sort();
    names
}

#[test]
fn disks_of_every_format_are_imported_with_the_bytes_that_qemu_img_reads() {
    let (world, files) = (World::new("importing disks", Vms::None), Files::new());
    let raw = files.raw(160 << 20);
    let hash = witness::sha256(&raw);
    world.ok(&["import", raw.to_str().unwrap(), "raw"]);
    for format in ["vhdx", "vpc", "qcow2", "vmdk", "vdi"] {
        let file = files.converted(&raw, format);
        world.ok(&["image", "import", file.to_str().unwrap(), format]);
        fs::remove_file(file).unwrap();
    }
    for slug in ["raw", "vhdx", "qcow2", "vmdk", "vdi"] {
        let file = world.image_file(slug);
        assert_eq!(disk_hash(&file), hash, "{slug}");
        witness::qemu_img_accepts(&file);
    }
    let boxed = files.path("a-box");
    let inner = files.converted(&raw, "qcow2");
    fs::rename(inner, files.path("box.img")).unwrap();
    fs::write(files.path("metadata.json"), "{}").unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(files.0.path()).arg("-czf").arg(&boxed);
    run(tar.args(["metadata.json", "box.img"])).ok();
    let id = world.ok(&["image", "import", boxed.to_str().unwrap()]);
    assert_eq!(world.inspect("a-box", "/Id"), id.as_str());
    assert_eq!(disk_hash(&world.image_file("a-box")), hash);
}

#[test]
fn an_import_keeps_the_guid_honours_the_name_and_overwrites_nothing() {
    let (world, files) = (World::new("importing VHDX", Vms::None), Files::new());
    let file = files.path(&format!("Win2016_Hyper-V_{GUID}.vhdx"));
    vhdx::create(&file, &vhdx::CreateOptions::new(1 << 30)).unwrap();
    let child = files.path("child.vhdx");
    let locator = format!(r".\Win2016_Hyper-V_{GUID}.vhdx");
    vhdx::create_child(&child, &file, &locator, &vhdx::ChildOptions::default()).unwrap();
    let (file, child) = (file.to_str().unwrap(), child.to_str().unwrap());

    let fails = |args: &[&str], said| world.run(args).fails_with(1, said);
    fails(&["image", "import", child], "import Win2016_Hyper-V_");
    let id = world.ok(&["image", "import", file]);
    assert_eq!(world.inspect("win2016_hyper-v", "/Id"), id.as_str());
    assert!(world.root().join(format!("images/Win2016_Hyper-V_{GUID}.vhdx")).exists());
    let before = listing(&world);
    fails(&["image", "import", file, "other"], "it is the image Win2016_Hyper-V:latest");
    fails(&["image", "import", child, "WIN2016_HYPER-V"], "is in use");
    assert_eq!(listing(&world), before);
    world.ok(&["image", "import", child, "日本語"]);
    assert_eq!(world.inspect("日本語", "/Parent"), id.as_str());
}

#[test]
fn what_must_not_be_imported_is_refused_and_leaves_nothing() {
    let (world, files) = (World::new("refusing imports", Vms::None), Files::new());
    world.ok(&["images"]);
    let before = listing(&world);
    let fails = |file: &Path, said: &str| {
        world.run(&["image", "import", file.to_str().unwrap(), "bad"]).fails_with(1, said);
        assert_eq!(listing(&world), before);
    };
    let qemu_img = |args: &[&str]| drop(run(Command::new("qemu-img").args(args)).ok());
    let secret = files.path("secret");
    fs::write(&secret, vec![7; 1 << 20]).unwrap();
    let (bad, secret) = (files.path("bad"), secret.to_str().unwrap().to_owned());
    let path = bad.to_str().unwrap();
    qemu_img(&["create", "-f", "qcow2", "-F", "raw", "-b", &secret, path]);
    fails(&bad, "has a backing file");
    let description = format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\
         \"monolithicFlat\"\nRW 2048 FLAT \"{secret}\" 0\n"
    );
    fs::write(&bad, description).unwrap();
    fails(&bad, "holds its disk itself");
    fs::write(&bad, "no disk at all").unwrap();
    fails(&bad, "known are VHDX, VHD, qcow2");
    fs::write(&bad, b"PK\x03\x04").unwrap();
    fails(&bad, "no zip archive");
    let layout = files.path("layout");
    fs::create_dir(&layout).unwrap();
    fs::write(layout.join("oci-layout"), "{}").unwrap();
    fails(&layout, "neither manifest.json nor index.json");
    std::os::unix::fs::symlink(&secret, layout.join("index.json")).unwrap();
    fails(&layout, "index.json");
    fails(&files.path("nowhere"), "cannot read");
    // A qcow2 whose header is fine and whose tables are not: qemu-img says so, or reads zeros.
    let raw = files.raw(32 << 20);
    let broken = files.converted(&raw, "qcow2");
    File::options().write(true).open(&broken).unwrap().write_all_at(&[0xff; 8], 48).unwrap();
    fails(&broken, "qemu-img cannot convert the disk");
}

#[test]
fn an_import_whose_client_goes_away_is_undone() {
    let (world, files) = (World::new("interrupting an import", Vms::None), Files::new());
    world.ok(&["images"]);
    let before = listing(&world);
    let raw = files.raw(1 << 30);
    let disk = File::options().write(true).open(&raw).unwrap();
    for at in (0..1 << 30).step_by(1 << 20).skip(1) {
        disk.write_all_at(&[at as u8 | 1; 1 << 20], at).unwrap();
    }
    let file = files.converted(&raw, "qcow2");
    let mut client = world.ireko(&["image", "import", file.to_str().unwrap()]).spawn().unwrap();
    // It has begun once there is a journal entry; before that there is nothing to undo.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while listing(&world) == before {
        assert!(std::time::Instant::now() < deadline, "the import never begins");
        std::thread::yield_now();
    }
    client.kill().unwrap();
    client.wait().unwrap();
    while listing(&world) != before {
        assert!(std::time::Instant::now() < deadline, "not undone: {:?}", listing(&world));
        std::thread::yield_now();
    }
}

#[test]
fn the_disks_of_an_ova_become_an_image_with_data_disks() {
    let (world, files) = (World::new("importing an OVA", Vms::None), Files::new());
    let (raw, data) = (files.raw(24 << 20), files.path("data.raw"));
    File::create(&data).expect("a file").set_len(8 << 20).expect("a length");
    let witnesses = [witness::sha256(&raw), witness::sha256(&data)];
    for (from, to) in [(&raw, "system.vmdk"), (&data, "data.vmdk")] {
        fs::rename(files.converted(from, "vmdk"), files.path(to)).expect("rename");
    }
    let item = |id: u32, disk: &str| {
        format!(
            "<Item><AddressOnParent>{id}</AddressOnParent><HostResource>ovf:/disk/{disk}\
             </HostResource><InstanceID>{id}</InstanceID><Parent>9</Parent>\
             <ResourceType>17</ResourceType></Item>"
        )
    };
    let description = |items: &str| {
        format!(
            r#"<Envelope><References><File href="data.vmdk" id="f1"/>
            <File href="system.vmdk" id="f2"/></References><DiskSection>
            <Disk diskId="data" fileRef="f1"/><Disk diskId="system" fileRef="f2"/></DiskSection>
            <VirtualSystem><VirtualHardwareSection><Item><InstanceID>9</InstanceID>
            <ResourceType>6</ResourceType></Item>{items}</VirtualHardwareSection></VirtualSystem>
            </Envelope>"#
        )
    };
    let ova = files.path("two.ova");
    let pack = |items: &str| {
        fs::write(files.path("vm.ovf"), description(items)).expect("write");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(files.0.path()).arg("-cf").arg(&ova);
        run(tar.args(["vm.ovf", "data.vmdk", "system.vmdk"])).ok();
    };
    world.ok(&["images"]);
    let before = listing(&world);
    pack(&item(0, "system"));
    let ova = ova.to_str().expect("UTF-8");
    world.run(&["image", "import", ova]).fails_with(1, "does not speak of \"data.vmdk\"");
    assert_eq!(listing(&world), before);

    pack(&(item(1, "data") + &item(0, "system")));
    let told = world.run(&["image", "import", ova]);
    assert!(told.stderr.contains("two:latest has data disks: data"), "{told:#?}");
    assert_eq!(world.inspect("two", "/Disks/0/Name"), "data");
    let all: Vec<_> = listing(&world).into_iter().filter(|it| it.contains(".vhdx")).collect();
    assert_eq!(all.len(), 2, "{all:?}");
    let own = world.inspect("two", "/GraphDriver/Data/File");
    let own = Path::new(own.as_str().expect("a path"));
    assert_eq!([disk_hash(own), disk_hash(&world.image_file("two_data"))], witnesses);
    world.ok(&["create", "--name", "vm", "two"]);
    let disks = fs::read_dir(world.container_dir("vm")).expect("a folder").flatten();
    let disks = disks.filter(|it| it.path().extension().is_some_and(|it| it == "vhdx"));
    assert_eq!(disks.count(), 2);
    world.ok(&["rm", "vm"]);
    world.ok(&["rmi", "two"]);
    assert!(listing(&world).iter().all(|name| !name.contains(".vhdx")));
}
