//! Others read what we write, and we read what others wrote.
//!
//! `qemu-img` reads bases and replays logs, `7zz` reads chains; the samples were made by Windows and
//! Disk2vhd. What is not there is said to be skipped. With `IREKO_SOAK` set, larger disks too.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use ireko_disk::vhdx::{self, ChildOptions, CreateOptions};
use ireko_disk::{Access, Chain, Disk};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Image};
use sha2::{Digest, Sha256};

const MIB: u64 = 1 << 20;

/// Returns whether a program is there; says what is skipped if not.
fn has(program: &str) -> bool {
    let found =
        Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        println!("skipped: needs {program}");
    }
    found.is_ok()
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = [&output.stdout[..output.stdout.len().min(2000)], &output.stderr].concat();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&text));
    output
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash_of_reader(mut reader: impl Read) -> String {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match reader.read(&mut buffer).unwrap() {
            0 => return hex(&hash.finalize()),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn hash_of_disk(disk: &dyn Disk) -> String {
    let (size, mut hash, mut buffer) =
        (disk.geometry().virtual_size, Sha256::new(), vec![0; 1 << 20]);
    let mut at = 0;
    while at < size {
        let step = (size - at).min(MIB) as usize;
        disk.read_at(at, &mut buffer[..step]).unwrap();
        hash.update(&buffer[..step]);
        at += step as u64;
    }
    hex(&hash.finalize())
}

/// Writes here and there, also across blocks and in parts of sectors.
fn scribble(disk: &dyn Disk, seed: u64) {
    let (mut random, size) = (Random::new(seed), disk.geometry().virtual_size);
    for _ in 0..60 {
        let length = random.below(3 * MIB / 2) + 1;
        let at = random.below(size - length);
        match random.below(6) {
            0 => disk.write_zeroes(at, length).unwrap(),
            1 => disk.discard(at, length).unwrap(),
            _ => {
                let mut data = vec![0; length as usize];
                random.fill(&mut data);
                disk.write_at(at, &data).unwrap();
            }
        }
    }
}

fn hash_by_qemu(path: &Path) -> String {
    let raw = path.with_extension("raw");
    run("qemu-img", &["convert", "-f", "vhdx", "-O", "raw", text(path), text(&raw)]);
    hash_of_reader(File::open(raw).unwrap())
}

/// Whether there is time for disks of several GiB.
fn soaking() -> bool {
    std::env::var_os("IREKO_SOAK").is_some()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
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

#[test]
fn qemu_replays_our_log_to_the_same_bytes() {
    if !has("qemu-img") {
        return;
    }
    let storage = Arc::new(CrashStorage::default());
    vhdx::format(&*storage, &CreateOptions::new(100 * MIB)).unwrap();
    let disk = Chain::over(vec![storage.clone()], Access::ReadWrite).unwrap();
    for round in 0..5 {
        scribble(&disk, round);
        disk.flush().unwrap();
    }
    let expected = hash_of_disk(&disk);
    let trace = storage.trace();
    drop(disk);
    let mut random = Random::new(1);
    // The log was synced last, and none of its pages reached its place.
    let dirty = trace.cut(trace.positions(), ireko_testkit::Damage::LosesAll, &mut random);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dirty.vhdx");
    save(&dirty, &path);

    assert!(vhdx::info(&path).unwrap().dirty_log);
    let ours = Chain::open(std::slice::from_ref(&path), Access::ReadOnly).unwrap();
    assert_eq!(hash_of_disk(&ours), expected);
    drop(ours);
    run("qemu-img", &["check", "-r", "all", "-f", "vhdx", text(&path)]);
    assert_eq!(hash_by_qemu(&path), expected);
    let replayed = Chain::open(&[path], Access::ReadOnly).unwrap();
    assert_eq!(hash_of_disk(&replayed), expected);
}

/// Writes a sparse file.
fn save(image: &Image, path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(image.length()).unwrap();
    let mut page = [0; 4096];
    for at in image.pages() {
        let length = (image.length() - at).min(4096) as usize;
        image.read(at, &mut page[..length]).unwrap();
        file.write_all_at(&page[..length], at).unwrap();
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
                    let options = ChildOptions { block_size: block_mib << 20 };
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

/// Unpacks a sample into `folder`.
fn sample(name: &str, folder: &Path) -> Option<PathBuf> {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/samples").join(name);
    if !packed.exists() {
        println!("skipped: {} is absent", packed.display());
        return None;
    }
    if !has("7zz") {
        return None;
    }
    let path = folder.join(Path::new(name).file_stem().unwrap());
    let kind = if name.ends_with("bz2") { "-tbzip2" } else { "-tgzip" };
    let file = File::create(&path).unwrap();
    let status = Command::new("7zz").args(["e", kind, "-so", text(&packed)]).stdout(file).status();
    assert!(status.unwrap().success());
    Some(path)
}

#[track_caller]
fn sample_reads(name: &str, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = sample(name, folder.path()) else { return };
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
    let hash = "d3d112d8dab7fd360609f7d5a7b769904b7a2a7d7b6b8c535f65a23293c05478";
    sample_reads("iotest-dynamic-1G.vhdx.bz2", hash);
}

#[test]
fn a_disk_with_two_identical_headers_reads_as_listed() {
    let hash = "96d964042be9b58dda1725567abfb0cf9fd8380e2118754afa979c2ad445938a";
    sample_reads("test-disk2vhd.vhdx.bz2", hash);
}

#[test]
fn a_dirty_disk_of_windows_reads_as_listed_once_its_log_is_replayed() {
    let hash = "3ba3b309425b7ff5e8e0199edceed95226250f880c53b24e8eae93865f3fad5e";
    sample_reads("vhdx-log-replay.vhdx.gz", hash);
}

#[test]
fn a_swap_disk_of_windows_reads_as_listed() {
    let hash = "60dd30b4c74361427d1089510cabb36e2eeda0cc4747f467ea43173acd358c49";
    sample_reads("swap.vhdx.gz", hash);
}
