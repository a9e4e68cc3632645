//! Others read what we write, and we read what others wrote.
//!
//! `qemu-img` reads and writes fixed and dynamic disks, `7zz` reads them, `pyvhdi` reads chains: QEMU takes a
//! differencing disk for a dynamic one and reads zeros where the parent's bytes should be. What is not there is said to be skipped.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ireko_disk::vhd::{self, Kind};
use ireko_disk::{Access, Chain, CompactOptions, Disk, ErrorKind, ResizeOptions, compact, resize};
use ireko_testkit::random::Random;
use sha2::{Digest, Sha256};

use crate::support::{MIB, blocks_of, dynamic, fixed, folder, open, set_parent_path};

/// Returns whether a program is there; says what is skipped if not.
fn has(program: &str) -> bool {
    let found =
        Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        println!("skipped: needs {program}");
    }
    found.is_ok()
}

/// Debian's own Python, which is the one that has Debian's modules.
const PYTHON: &str = "/usr/bin/python3";

fn has_pyvhdi() -> bool {
    let found = Command::new(PYTHON)
        .args(["-c", "import pyvhdi"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        println!("skipped: needs {PYTHON} with pyvhdi (python3-libvhdi)");
    }
    found
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
    scribble_in_units(disk, seed, 1);
}

/// Writes here and there, in units of so many bytes.
fn scribble_in_units(disk: &dyn Disk, seed: u64, unit: u64) {
    let (mut random, size) = (Random::new(seed), disk.geometry().virtual_size);
    for _ in 0..60 {
        let length = (random.below(3 * MIB / 2) + 1).next_multiple_of(unit);
        let at = random.below(size - length) / unit * unit;
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

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn hash_by_qemu(path: &Path) -> String {
    let raw = path.with_extension("raw");
    run("qemu-img", &["convert", "-f", "vpc", "-O", "raw", text(path), text(&raw)]);
    hash_of_reader(File::open(raw).unwrap())
}

fn hash_by_7zip(path: &Path) -> String {
    let mut reader = Command::new("7zz")
        .args(["e", "-tvhd", "-so", text(path)])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let hash = hash_of_reader(reader.stdout.take().unwrap());
    assert!(reader.wait().unwrap().success());
    hash
}

/// Reads a chain, leaf first, by libvhdi.
fn hash_by_libvhdi(paths: &[PathBuf]) -> String {
    const SCRIPT: &str = "
import hashlib, pyvhdi, sys
above = None
files = []
for path in sys.argv[1:]:
    file = pyvhdi.file()
    file.open(path)
    files.append(file)
for child, parent in reversed(list(zip(files, files[1:]))):
    child.set_parent(parent)
leaf, digest = files[0], hashlib.sha256()
left = leaf.get_media_size()
while left:
    part = leaf.read_buffer(min(left, 1 << 20))
    digest.update(part)
    left -= len(part)
print(digest.hexdigest())
";
    let mut arguments = vec!["-c", SCRIPT];
    arguments.extend(paths.iter().map(|path| text(path)));
    let output = run(PYTHON, &arguments);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Sizes that cylinders, heads and sectors do not add up to.
const SIZES: [u64; 3] = [40 * MIB, 17 * MIB + 512, 5 * MIB + 1024];

#[test]
fn others_read_our_disks_without_parent() {
    let (qemu, seven_zip, libvhdi) = (has("qemu-img"), has("7zz"), has_pyvhdi());
    for size in SIZES {
        for (seed, options) in
            [fixed(size), dynamic(size, 2 << 20), dynamic(size, 512 << 10), dynamic(size, 16 << 20)]
                .iter()
                .enumerate()
        {
            let folder = folder();
            let path = folder.path().join("base.vhd");
            vhd::create(&path, options).unwrap();
            let disk = open(std::slice::from_ref(&path), Access::ReadWrite);
            scribble(&disk, seed as u64);
            let expected = hash_of_disk(&disk);
            disk.close().unwrap();
            if qemu {
                let info = run("qemu-img", &["info", "-f", "vpc", text(&path)]);
                let info = String::from_utf8(info.stdout).unwrap();
                assert!(info.contains(&format!("({size} bytes)")), "{info}");
                assert_eq!(hash_by_qemu(&path), expected);
            }
            if seven_zip {
                run("7zz", &["t", "-tvhd", text(&path)]);
                assert_eq!(hash_by_7zip(&path), expected);
            }
            if libvhdi {
                assert_eq!(hash_by_libvhdi(std::slice::from_ref(&path)), expected);
            }
        }
    }
}

/// Makes a chain of three layers, and calls `judge(paths, hash)` for each depth.
fn each_depth(
    size: u64,
    base: &vhd::CreateOptions,
    block_size: u32,
    unit: u64,
    judge: impl Fn(&[PathBuf], &str),
) {
    let folder = folder();
    let mut paths: Vec<PathBuf> = Vec::new();
    for depth in 1..=3u64 {
        let path = folder.path().join(format!("layer_{depth}.vhd"));
        match paths.first() {
            None => vhd::create(&path, base).unwrap(),
            Some(parent) => {
                let link = format!(r".\layer_{}.vhd", depth - 1);
                vhd::create_child(&path, parent, &link, &blocks_of(block_size)).unwrap();
            }
        }
        paths.insert(0, path);
        let disk = open(&paths, Access::ReadWrite);
        scribble_in_units(&disk, depth + size, unit);
        let expected = hash_of_disk(&disk);
        disk.close().unwrap();
        judge(&paths, &expected);
    }
}

const CHAINS: [(u64, u32); 3] =
    [(40 * MIB, 2 << 20), (17 * MIB + 512, 512 << 10), (32 * MIB, 8 << 20)];

#[test]
fn seven_zip_reads_our_chains() {
    if !has("7zz") {
        return;
    }
    for (size, block_size) in CHAINS {
        for base in [fixed(size), dynamic(size, block_size)] {
            each_depth(size, &base, block_size, 1, |paths, expected| {
                assert_eq!(hash_by_7zip(&paths[0]), expected, "{} layers", paths.len());
            });
        }
    }
}

#[test]
fn libvhdi_reads_our_chains() {
    if !has_pyvhdi() {
        return;
    }
    // It takes eight sectors for present when one of their eight bits is set, and in blocks that are smaller than the usual it
    // misses the last sectors: 20210425 and 20260901 do, 7-Zip does not.
    for size in [40 * MIB, 17 * MIB + 512] {
        for base in [fixed(size), dynamic(size, 2 << 20)] {
            each_depth(size, &base, 2 << 20, 4096, |paths, expected| {
                assert_eq!(hash_by_libvhdi(paths), expected, "{} layers of {size}", paths.len());
            });
        }
    }
}

#[test]
fn others_read_what_was_resized_and_compacted() {
    let (qemu, seven_zip, libvhdi) = (has("qemu-img"), has("7zz"), has_pyvhdi());
    let agree = |path: &Path| {
        let paths = [path.to_owned()];
        let disk = open(&paths, Access::ReadOnly);
        let (expected, size) = (hash_of_disk(&disk), disk.geometry().virtual_size);
        if qemu {
            let info = run("qemu-img", &["info", "-f", "vpc", text(path)]);
            assert!(String::from_utf8(info.stdout).unwrap().contains(&format!("({size} bytes)")));
            assert_eq!(hash_by_qemu(path), expected);
        }
        if seven_zip {
            run("7zz", &["t", "-tvhd", text(path)]);
            assert_eq!(hash_by_7zip(path), expected);
        }
        if libvhdi {
            assert_eq!(hash_by_libvhdi(&paths), expected);
        }
    };
    for options in [fixed(5 * MIB), dynamic(5 * MIB, 512 << 10)] {
        let folder = folder();
        let path = folder.path().join("base.vhd");
        vhd::create(&path, &options).unwrap();
        let paths = [path.clone()];
        // The second size needs a table of one more sector, the third one less.
        for (seed, size) in [5 * MIB, 66 * MIB + 512, 7 * MIB + 1024].into_iter().enumerate() {
            resize(&paths, size, &ResizeOptions { allow_loss: true }, &()).unwrap();
            agree(&path);
            let disk = open(&paths, Access::ReadWrite);
            scribble(&disk, seed as u64);
            disk.close().unwrap();
            compact(&path, &CompactOptions::default(), &()).unwrap();
            agree(&path);
        }
    }
}

#[test]
fn libvhdi_sees_the_names_and_ids_we_wrote() {
    if !has("vhdiinfo") {
        return;
    }
    let folder = folder();
    let (base, child) = (folder.path().join("base.vhd"), folder.path().join("child.vhd"));
    vhd::create(&base, &dynamic(64 * MIB, 2 << 20)).unwrap();
    vhd::create_child(&child, &base, r".\base.vhd", &blocks_of(2 << 20)).unwrap();
    set_parent_path(&child, r"..\images\base_日本.vhd").unwrap();
    let output = String::from_utf8(run("vhdiinfo", &[text(&child)]).stdout).unwrap();
    let (child, base) = (vhd::info(&child).unwrap(), vhd::info(&base).unwrap());
    let field = |name: &str| {
        let line = output.lines().find(|line| line.trim_start().starts_with(name));
        line.and_then(|line| line.split_once(": ")).map(|(_, value)| value.trim().to_owned())
    };
    assert_eq!(field("Identifier"), Some(child.unique_id.to_string()));
    assert_eq!(field("Parent identifier"), Some(base.unique_id.to_string()));
    assert_eq!(field("Parent filename"), Some("base_日本.vhd".to_owned()));
    assert_eq!(field("Disk type"), Some("Differential".to_owned()));
}

#[test]
fn qemu_writes_to_our_disks_and_we_to_qemu_s() {
    if !has("qemu-io") || !has("qemu-img") {
        return;
    }
    for subformat in ["fixed", "dynamic"] {
        for ours in [true, false] {
            let folder = folder();
            let path = folder.path().join("base.vhd");
            let options = format!("subformat={subformat},force_size=on");
            match (ours, subformat) {
                (true, "fixed") => vhd::create(&path, &fixed(200 * MIB)).unwrap(),
                (true, _) => vhd::create(&path, &dynamic(200 * MIB, 2 << 20)).unwrap(),
                (false, _) => {
                    let arguments = ["create", "-f", "vpc", "-o", &options, text(&path), "200M"];
                    run("qemu-img", &arguments);
                }
            }
            let commands = ["write -P 7 1M 3M", "write -P 9 150M 64k"];
            run("qemu-io", &["-f", "vpc", "-c", commands[0], "-c", commands[1], text(&path)]);
            let disk = open(std::slice::from_ref(&path), Access::ReadWrite);
            let mut bytes = vec![0; 3 << 20];
            disk.read_at(MIB, &mut bytes).unwrap();
            assert!(bytes.iter().all(|&b| b == 7));
            disk.read_at(150 * MIB, &mut bytes[..65536]).unwrap();
            assert!(bytes[..65536].iter().all(|&b| b == 9));
            scribble(&disk, 5);
            let expected = hash_of_disk(&disk);
            disk.close().unwrap();
            assert_eq!(hash_by_qemu(&path), expected);

            // Once more by QEMU, so that it allocates behind our blocks.
            run("qemu-io", &["-f", "vpc", "-c", "write -P 5 100M 2M", text(&path)]);
            let disk = open(std::slice::from_ref(&path), Access::ReadWrite);
            disk.read_at(100 * MIB, &mut bytes[..2 << 20]).unwrap();
            assert!(bytes[..2 << 20].iter().all(|&b| b == 5));
            scribble(&disk, 6);
            let expected = hash_of_disk(&disk);
            disk.close().unwrap();
            assert_eq!(hash_by_qemu(&path), expected);
        }
    }
}

#[test]
fn the_size_qemu_sees_in_a_file_of_its_own_is_told_where_it_is_another() {
    if !has("qemu-img") {
        return;
    }
    let folder = folder();
    let path = folder.path().join("qemu.vhd");
    run("qemu-img", &["create", "-f", "vpc", "-o", "subformat=dynamic", text(&path), "100M"]);
    let info = vhd::info(&path).unwrap();
    assert_eq!((info.creator.as_str(), info.chs_size), ("qemu", None), "QEMU rounds the size");
    let ours = Chain::open(&[path], Access::ReadOnly).unwrap().geometry().virtual_size;
    assert_eq!(ours, info.chs.size());
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

#[test]
fn a_dynamic_disk_of_qemu_reads_as_listed() {
    let folder = folder();
    let Some(path) = sample("dfvfs-ext2.vhd.gz", folder.path()) else { return };
    let disk = open(std::slice::from_ref(&path), Access::ReadWrite);
    let listed = "870be7ae16c1fa8faab05c6eb9205dc9a7ae35c5f552c5cf8a267c0bc6a5cb99";
    assert_eq!(hash_of_disk(&disk), listed);
    scribble(&disk, 1);
    let expected = hash_of_disk(&disk);
    disk.close().unwrap();
    if has("qemu-img") {
        assert_eq!(hash_by_qemu(&path), expected);
    }
}

#[test]
fn a_dynamic_disk_of_hyper_v_is_empty_and_can_be_written_to() {
    let folder = folder();
    let Some(path) = sample("hyperv2012r2-dynamic.vhd.bz2", folder.path()) else { return };
    let info = vhd::info(&path).unwrap();
    assert_eq!((info.kind, info.creator.as_str(), info.chs_size), (Kind::Dynamic, "win ", None));
    let disk = open(std::slice::from_ref(&path), Access::ReadWrite);
    let size = disk.geometry().virtual_size;
    assert_eq!(size, 136_365_211_648);
    assert_eq!(disk.extents(0, size, 2).unwrap().len(), 1);
    for at in [0, 60 << 30, size - MIB] {
        disk.write_at(at, &vec![at as u8 | 1; MIB as usize]).unwrap();
    }
    disk.close().unwrap();
    if has("qemu-io") {
        for (at, value) in [(0, 1), (60u64 << 30, 1), (size - MIB, 1)] {
            let command = format!("read -P {value} {at} 1M");
            run("qemu-io", &["-f", "vpc", "-r", "-c", &command, text(&path)]);
        }
    }
}

#[test]
fn disks_with_wrong_checksums_are_refused_and_read_when_asked_to() {
    let folder = folder();
    let names = ["dfvfs-image-differential.vhd.gz", "dfvfs-image.vhd.gz"];
    let paths: Vec<PathBuf> = names.iter().filter_map(|name| sample(name, folder.path())).collect();
    let [child, base] = &paths[..] else { return };
    for paths in [std::slice::from_ref(base), &paths] {
        let refused = Chain::open(paths, Access::ReadOnly).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        let disk = Chain::open_ignoring_checksums(paths).unwrap();
        let listed = "c6db12a7db548e193c29420c1b4533e4708b20c5033db5cc29ef075d48316d25";
        assert_eq!(hash_of_disk(&disk), listed);
    }
    assert!(vhd::info(child).is_err());
}
