//! Others read what we write, and we read what others wrote.
//!
//! `qemu-img` reads bases and replays logs, `7zz` and libvhdi read chains; the samples were made by Windows and
//! Disk2vhd. What is not there is said to be skipped. With `IREKO_SOAK` set, larger disks too.

mod outside;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Damage, Image, Trace};
use outside::{
    MIB, Sample, has, hash_of_disk, hash_of_reader, run, sample, save, scribble, soaking, text,
};

fn hash_by_qemu(path: &Path) -> String {
    let raw = path.with_extension("raw");
    run("qemu-img", &["convert", "-f", "vhdx", "-O", "raw", text(path), text(&raw)]);
    hash_of_reader(File::open(raw).unwrap())
}

#[test]
fn qemu_reads_our_bases() {
    if !has("qemu-img") {
        return;
    }
    for (block_mib, sector, size) in [(32, 512, 100 * MIB), (1, 512, 37 * MIB + 512), (8, 512, MIB)]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base.vhdx");
        let options = CreateOptions {
            block_size: block_mib << 20,
            logical_sector: sector,
            ..CreateOptions::new(size.max(4 * MIB))
        };
        vhdx::create(&path, &options).unwrap();
        run("qemu-img", &["info", "-f", "vhdx", text(&path)]);
        let disk = Chain::open(std::slice::from_ref(&path), Access::ReadWrite).unwrap();
        scribble(&disk, u64::from(block_mib));
        let expected = hash_of_disk(&disk);
        disk.close().unwrap();
        run("qemu-img", &["check", "-f", "vhdx", text(&path)]);
        assert_eq!(hash_by_qemu(&path), expected);
    }
}

#[test]
fn qemu_writes_to_our_base_and_we_read_it() {
    if !has("qemu-io") || !has("qemu-img") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.vhdx");
    vhdx::create(&path, &CreateOptions::new(200 * MIB)).unwrap();
    let commands = ["write -P 7 1M 3M", "write -P 9 150M 64k"];
    run("qemu-io", &["-f", "vhdx", "-c", commands[0], "-c", commands[1], text(&path)]);
    let disk = Chain::open(std::slice::from_ref(&path), Access::ReadWrite).unwrap();
    let mut bytes = vec![0; 3 << 20];
    disk.read_at(MIB, &mut bytes).unwrap();
    assert!(bytes.iter().all(|&b| b == 7));
    disk.read_at(150 * MIB, &mut bytes[..65536]).unwrap();
    assert!(bytes[..65536].iter().all(|&b| b == 9));
    scribble(&disk, 5);
    let expected = hash_of_disk(&disk);
    disk.close().unwrap();
    assert_eq!(hash_by_qemu(&path), expected);
}

/// A base written and flushed several times, with its trace; no layer under it.
fn flushed_base(block_mib: u32) -> (Trace, String) {
    let storage = Arc::new(CrashStorage::default());
    let options =
        CreateOptions { block_size: block_mib << 20, ..CreateOptions::new(60 * MIB + 512) };
    vhdx::format(&*storage, &options).unwrap();
    let storage = Arc::new(CrashStorage::new(storage.image()));
    let disk = Chain::over(vec![storage.clone()], Access::ReadWrite).unwrap();
    for round in 0..3 {
        scribble(&disk, round);
        disk.flush().unwrap();
    }
    (storage.trace(), hash_of_disk(&disk))
}

/// Compares what we read in a base that was left dirty with what qemu reads in it, once it has replayed its log.
#[track_caller]
fn qemu_replays_as_we_do(dirty: &Image) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dirty.vhdx");
    save(dirty, &path);
    let ours = Chain::open(std::slice::from_ref(&path), Access::ReadOnly).unwrap();
    let expected = hash_of_disk(&ours);
    drop(ours);
    if vhdx::info(&path).unwrap().dirty_log {
        run("qemu-img", &["check", "-r", "all", "-f", "vhdx", text(&path)]);
    }
    assert_eq!(hash_by_qemu(&path), expected);
    let replayed = Chain::open(&[path], Access::ReadOnly).unwrap();
    assert_eq!(hash_of_disk(&replayed), expected);
    expected
}

#[test]
fn qemu_replays_our_log_to_the_same_bytes() {
    if !has("qemu-img") {
        return;
    }
    for block_mib in [1, 32] {
        let (trace, flushed) = flushed_base(block_mib);
        let mut random = Random::new(1);
        // The log was synced last, and none of its pages reached its place.
        let dirty = trace.cut(trace.positions(), Damage::LosesAll, &mut random);
        assert_eq!(qemu_replays_as_we_do(&dirty), flushed);
        for _ in 0..if soaking() { 100 } else { 4 } {
            let damage = Damage::ALL[random.below(Damage::ALL.len() as u64) as usize];
            let cut = random.below(trace.positions() as u64) as usize;
            qemu_replays_as_we_do(&trace.cut(cut, damage, &mut random));
        }
    }
}

#[test]
fn seven_zip_reads_our_chains() {
    if !has("7zz") {
        return;
    }
    let mut shapes = vec![(100 * MIB, 512, 2), (37 * MIB, 512, 1), (64 * MIB, 4096, 1)];
    if soaking() {
        // More than one chunk.
        shapes.push((5 << 30, 512, 2));
    }
    for (size, sector, block_mib) in shapes {
        let folder = tempfile::tempdir().unwrap();
        let mut paths: Vec<PathBuf> = Vec::new();
        for depth in 1..=3u64 {
            let path = folder.path().join(format!("layer_{depth}.vhdx"));
            match paths.first() {
                None => {
                    let options =
                        CreateOptions { logical_sector: sector, ..CreateOptions::new(size) };
                    vhdx::create(&path, &options).unwrap();
                }
                Some(parent) => {
                    let link = format!(r".\layer_{}.vhdx", depth - 1);
                    let options =
                        ChildOptions { block_size: block_mib << 20, ..Default::default() };
                    vhdx::create_child(&path, parent, &link, &options).unwrap();
                }
            }
            paths.insert(0, path);
            let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
            scribble(&disk, depth);
            let expected = hash_of_disk(&disk);
            disk.close().unwrap();
            let mut reader = Command::new("7zz")
                .args(["e", "-tvhdx", "-so", text(&paths[0])])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let hash = hash_of_reader(reader.stdout.take().unwrap());
            assert!(reader.wait().unwrap().success());
            assert_eq!(hash, expected, "depth {depth}, {size} bytes, {sector}-byte sectors");
        }
    }
}

/// Whether libvhdi is there, for Debian's own Python; says what is skipped if not.
fn has_libvhdi() -> bool {
    let loads = Command::new(DEBIAN_S_PYTHON).args(["-c", "import pyvhdi"]).output();
    let found = loads.is_ok_and(|output| output.status.success()) && has("vhdiinfo");
    if !found {
        println!("skipped: needs python3-libvhdi and libvhdi-utils");
    }
    found
}

const DEBIAN_S_PYTHON: &str = "/usr/bin/python3";

fn libvhdi(paths: &[PathBuf]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/witness/libvhdi_reader.py");
    Command::new(DEBIAN_S_PYTHON).arg(script).args(paths).output().unwrap()
}

/// Writes without leaving a block zero or unmapped, where libvhdi would read the parent.
fn write_here_and_there(disk: &Chain, seed: u64) {
    let (mut random, size) = (Random::new(seed), disk.geometry().virtual_size);
    for _ in 0..40 {
        let length = random.below(3 * MIB) + 1;
        let mut data = vec![0; length as usize];
        random.fill(&mut data);
        disk.write_at(random.below(size - length), &data).unwrap();
    }
}

#[test]
fn libvhdi_reads_our_chains_and_tells_their_links() {
    if !has_libvhdi() {
        return;
    }
    for (size, sector, blocks) in [(100 * MIB, 512, [32, 2, 1, 8]), (37 * MIB, 4096, [1, 8, 2, 32])]
    {
        let folder = tempfile::tempdir().unwrap();
        let mut paths: Vec<PathBuf> = Vec::new();
        for (level, block_mib) in blocks.into_iter().enumerate() {
            let path = folder.path().join(format!("layer_{level}.vhdx"));
            let block_size = block_mib << 20;
            match paths.first() {
                None => {
                    let new = CreateOptions::new(size);
                    let options = CreateOptions { block_size, logical_sector: sector, ..new };
                    vhdx::create(&path, &options).unwrap();
                }
                Some(parent) => {
                    let link = format!(r".\layer_{}.vhdx", level - 1);
                    vhdx::create_child(
                        &path,
                        parent,
                        &link,
                        &ChildOptions { block_size, ..Default::default() },
                    )
                    .unwrap();
                }
            }
            paths.insert(0, path);
            let disk = Chain::open(&paths, Access::ReadWrite).unwrap();
            write_here_and_there(&disk, level as u64);
            let expected = hash_of_disk(&disk);
            disk.close().unwrap();

            let output = libvhdi(&paths);
            let said = [output.stdout, output.stderr].concat();
            assert_eq!(String::from_utf8_lossy(&said).trim(), expected, "layer {level}");
            let told = run("vhdiinfo", &[text(&paths[0])]).stdout;
            let told = String::from_utf8(told).unwrap().to_lowercase();
            let info = vhdx::info(&paths[0]).unwrap();
            let field = |name| {
                let line = told.lines().find(|line| line.trim().starts_with(name));
                line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned())
            };
            assert_eq!(field("identifier"), Some(info.data_write_guid.to_string()), "{told}");
            let parent = info.parent.map(|link| link.linkage.to_string());
            assert_eq!(field("parent identifier"), parent, "{told}");
        }
        // The parent is there, and it is not the leaf's.
        let wrong = [paths[0].clone(), paths[2].clone(), paths[3].clone()];
        let output = libvhdi(&wrong);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("mismatch in identifier"), "{said}");
    }
}

#[test]
fn seven_zip_tells_a_log_that_we_left_dirty() {
    if !has("7zz") {
        return;
    }
    let storage = Arc::new(CrashStorage::default());
    vhdx::format(&*storage, &CreateOptions::new(10 * MIB)).unwrap();
    let disk = Chain::over(vec![storage.clone()], Access::ReadWrite).unwrap();
    disk.write_at(0, &[7; 4096]).unwrap();
    disk.flush().unwrap();
    let dirty = storage.image();
    disk.close().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhdx");
    let says_dirty = |image| {
        save(image, &path);
        let output = Command::new("7zz").args(["t", "-tvhdx", text(&path)]).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.success(), !said.contains("LOG was not replayed"), "{said}");
        !output.status.success()
    };
    assert!(says_dirty(&dirty));
    assert!(!says_dirty(&storage.image()));
}

#[track_caller]
fn sample_reads(from: Sample) {
    let (folder, expected) = (tempfile::tempdir().unwrap(), from.hash);
    let Some(path) = sample(from, folder.path()) else { return };
    let before = std::fs::read(&path).unwrap();
    let disk = Chain::open(std::slice::from_ref(&path), Access::ReadOnly).unwrap();
    assert_eq!(hash_of_disk(&disk), expected);
    drop(disk);
    assert!(std::fs::read(&path).unwrap() == before, "reading changed the file");
    let disk = Chain::open(std::slice::from_ref(&path), Access::ReadWrite).unwrap();
    if disk.geometry().virtual_size <= 1 << 30 || soaking() {
        assert_eq!(hash_of_disk(&disk), expected);
    }
    disk.write_at(0, b"ireko").unwrap();
    disk.close().unwrap();
    assert!(!vhdx::info(&path).unwrap().dirty_log);
    if has("qemu-img") {
        run("qemu-img", &["check", "-f", "vhdx", text(&path)]);
    }
}

#[test]
fn a_dynamic_disk_of_hyper_v_reads_as_listed() {
    sample_reads(outside::OF_HYPER_V);
}

#[test]
fn a_disk_with_two_identical_headers_reads_as_listed() {
    sample_reads(outside::OF_DISK2VHD);
}

#[test]
fn a_dirty_disk_of_windows_reads_as_listed_once_its_log_is_replayed() {
    sample_reads(outside::DIRTY);
}

#[test]
fn a_swap_disk_of_windows_reads_as_listed() {
    sample_reads(outside::SWAP);
}
