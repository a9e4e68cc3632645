//! Programs and files that are not ours, and hashes to compare by.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ireko_disk::Disk;
use ireko_testkit::Image;
use ireko_testkit::random::Random;
use sha2::{Digest, Sha256};

pub const MIB: u64 = 1 << 20;

/// Returns whether a program is there; says what is skipped if not.
pub fn has(program: &str) -> bool {
    let found =
        Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        println!("skipped: needs {program}");
    }
    found.is_ok()
}

#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = [&output.stdout[..output.stdout.len().min(2000)], &output.stderr].concat();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&text));
    output
}

pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn hash_of_reader(mut reader: impl Read) -> String {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match reader.read(&mut buffer).unwrap() {
            0 => return hex(&hash.finalize()),
            count => hash.update(&buffer[..count]),
        }
    }
}

pub fn hash_of_disk(disk: &dyn Disk) -> String {
    hash_of_range(disk, 0..disk.geometry().virtual_size)
}

pub fn hash_of_range(disk: &dyn Disk, range: Range<u64>) -> String {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    let mut at = range.start;
    while at < range.end {
        let step = (range.end - at).min(MIB) as usize;
        disk.read_at(at, &mut buffer[..step]).unwrap();
        hash.update(&buffer[..step]);
        at += step as u64;
    }
    hex(&hash.finalize())
}

/// Writes here and there, also across blocks and in parts of sectors.
pub fn scribble(disk: &dyn Disk, seed: u64) {
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

/// Whether there is time for disks of several GiB.
pub fn soaking() -> bool {
    std::env::var_os("IREKO_SOAK").is_some()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Writes a sparse file.
pub fn save(image: &Image, path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(image.length()).unwrap();
    let mut page = [0; 4096];
    for at in image.pages() {
        let length = (image.length() - at).min(4096) as usize;
        image.read(at, &mut page[..length]).unwrap();
        file.write_all_at(&page[..length], at).unwrap();
    }
}

/// A disk that others made, and the sha256 of the virtual disk.
#[derive(Clone, Copy)]
pub struct Sample {
    pub name: &'static str,
    pub hash: &'static str,
}

/// A dynamic disk of Windows.
pub const OF_HYPER_V: Sample = Sample {
    name: "iotest-dynamic-1G.vhdx.bz2",
    hash: "d3d112d8dab7fd360609f7d5a7b769904b7a2a7d7b6b8c535f65a23293c05478",
};
/// Its two headers are identical.
pub const OF_DISK2VHD: Sample = Sample {
    name: "test-disk2vhd.vhdx.bz2",
    hash: "96d964042be9b58dda1725567abfb0cf9fd8380e2118754afa979c2ad445938a",
};
/// Its log has to be replayed.
pub const DIRTY: Sample = Sample {
    name: "vhdx-log-replay.vhdx.gz",
    hash: "3ba3b309425b7ff5e8e0199edceed95226250f880c53b24e8eae93865f3fad5e",
};
/// 10 GiB, nearly empty.
pub const SWAP: Sample = Sample {
    name: "swap.vhdx.gz",
    hash: "60dd30b4c74361427d1089510cabb36e2eeda0cc4747f467ea43173acd358c49",
};

/// Unpacks a sample into `folder`.
pub fn sample(Sample { name, .. }: Sample, folder: &Path) -> Option<PathBuf> {
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
