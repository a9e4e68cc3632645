//! Disks in files and in storage that loses power, filled at random.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use ireko_disk::check::{Severity, check_storage};
use ireko_disk::{Access, Chain, Disk, Storage};
use ireko_testkit::random::Random;
use ireko_testkit::{CrashStorage, Image};

pub const MIB: u64 = 1 << 20;

/// A folder in memory where there is such a place: the tests are not about the host's disk.
pub fn folder() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let folder = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    folder.unwrap()
}

pub fn open(paths: &[PathBuf]) -> Chain {
    Chain::open(paths, Access::ReadWrite).unwrap()
}

/// Opens images, leaf first; they stay as they are.
#[track_caller]
pub fn over(images: &[Image], access: Access) -> Chain {
    let storages = images.iter().map(|image| Arc::new(CrashStorage::new(image.clone())) as _);
    Chain::over(storages.collect::<Vec<Arc<dyn Storage>>>(), access).unwrap()
}

/// Everything a disk reads.
#[track_caller]
pub fn bytes(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.geometry().virtual_size as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

#[track_caller]
pub fn bytes_of(paths: &[PathBuf]) -> Vec<u8> {
    bytes(&Chain::open(paths, Access::ReadOnly).unwrap())
}

/// Writes, zeroes and discards here and there; some whole blocks of `block` bytes, some with zeros.
pub fn scribble(disk: &dyn Disk, block: u64, random: &mut Random) {
    let size = disk.geometry().virtual_size;
    for _ in 0..24 {
        let whole = random.one_in(3);
        let at = match whole {
            true => random.below(size.div_ceil(block)) * block,
            false => random.below(size),
        };
        let longest = if whole { block } else { random.below(block / 2) + 1 };
        let length = longest.min(size - at);
        match random.below(8) {
            0 => disk.write_zeroes(at, length).unwrap(),
            1 => disk.discard(at, length).unwrap(),
            2 => disk.write_at(at, &vec![0; length as usize]).unwrap(),
            _ => {
                let mut data = vec![0; length as usize];
                random.fill(&mut data);
                disk.write_at(at, &data).unwrap();
            }
        }
    }
}

/// The engine's own check of a file finds nothing worse than space that nobody owns.
#[track_caller]
pub fn is_sound(file: Arc<dyn Storage>) {
    let findings = check_storage(&file).unwrap().findings;
    let bad: Vec<_> = findings.iter().filter(|found| found.severity > Severity::Note).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

/// As [`is_sound`], of what a power cut left: the next writer puts it in order.
#[track_caller]
pub fn is_readable(image: &Image) {
    let file: Arc<dyn Storage> = Arc::new(CrashStorage::new(image.clone()));
    let findings = check_storage(&file).unwrap().findings;
    let bad: Vec<_> = findings.iter().filter(|found| found.severity > Severity::Warning).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

/// `IREKO_SOAK=n`: how many times as much is to be tried.
pub fn soak() -> u64 {
    std::env::var("IREKO_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

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
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    output
}

/// `qemu-img` finds no fault with a base, and reads `expected` from it.
#[track_caller]
pub fn qemu_reads(path: &Path, expected: &[u8]) {
    if !has("qemu-img") {
        return;
    }
    let (file, raw) = (path.to_str().unwrap(), path.with_extension("raw"));
    let info = run("qemu-img", &["info", "--output=json", "-f", "vhdx", file]).stdout;
    let size = format!("\"virtual-size\": {},", expected.len());
    assert!(String::from_utf8(info).unwrap().contains(&size), "{}: not {size}", path.display());
    run("qemu-img", &["check", "-f", "vhdx", file]);
    std::fs::write(&raw, expected).unwrap();
    run("qemu-img", &["compare", "-f", "vhdx", "-F", "raw", file, raw.to_str().unwrap()]);
    std::fs::remove_file(raw).unwrap();
}

/// `7zz` reads `expected` from a chain, whose parents lie where its files say.
#[track_caller]
pub fn seven_zip_reads(leaf: &Path, expected: &[u8]) {
    if !has("7zz") {
        return;
    }
    let output = run("7zz", &["e", "-tvhdx", "-so", leaf.to_str().unwrap()]);
    assert!(output.stdout == expected, "7zz reads something else from {}", leaf.display());
}
