//! Programs by other people that judge our files.

use crate::programs::run;
use ireko_disk::{Access, Chain, Disk};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PIECE: usize = 1 << 20;

/// Reads a chain (leaf first) by our engine and by 7-Zip, which finds parents by relative path,
/// and compares every byte. The bytes are left in `raw`, a sparse file, where one is named.
#[track_caller]
pub fn seven_zip_reads_the_same(chain: &[PathBuf], raw: Option<&Path>) {
    let leaf = &chain[0];
    let ours = Chain::open(chain, Access::ReadOnly).expect("open the chain");
    let mut child = Command::new("7zz")
        .args(["e", "-tvhdx", "-so"])
        .arg(leaf)
        .stdout(Stdio::piped())
        .spawn()
        .expect("run 7zz");
    let mut theirs = child.stdout.take().expect("its output");
    let mut raw = raw.map(|path| File::create(path).expect("create the raw file"));
    let size = ours.geometry().virtual_size;
    let (mut expected, mut seen, zeros) = (vec![0; PIECE], vec![0; PIECE], vec![0; PIECE]);
    let mut offset = 0;
    while offset < size {
        let count = PIECE.min((size - offset) as usize);
        theirs.read_exact(&mut seen[..count]).expect("7zz gives the whole disk");
        ours.read_at(offset, &mut expected[..count]).expect("read the chain");
        assert!(
            seen[..count] == expected[..count],
            "{} differs in the MiB at {offset:#x}",
            leaf.display()
        );
        if let Some(raw) = &mut raw
            && seen[..count] != zeros[..count]
        {
            raw.seek(SeekFrom::Start(offset)).expect("seek");
            raw.write_all(&seen[..count]).expect("write the raw file");
        }
        offset += count as u64;
    }
    assert_eq!(theirs.read(&mut seen).expect("read"), 0, "7zz sees a longer disk");
    if let Some(raw) = raw {
        raw.set_len(size).expect("set the raw file's length");
    }
    assert!(child.wait().expect("wait for 7zz").success(), "7zz refuses {}", leaf.display());
}

/// A file's sha256.
#[track_caller]
pub fn sha256(path: &Path) -> String {
    let mut file = File::open(path).expect("open");
    let mut hash = Sha256::new();
    let mut buffer = vec![0; PIECE];
    loop {
        match file.read(&mut buffer).expect("read") {
            0 => break hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// `qemu-img info` and `check` of a file that has no parent.
#[track_caller]
pub fn qemu_img_accepts(file: &Path) {
    for verb in ["info", "check"] {
        run(Command::new("qemu-img").args([verb, "-f", "vhdx"]).arg(file)).ok();
    }
}

/// `e2fsck -fn` of a raw disk.
#[track_caller]
pub fn e2fsck_accepts(raw: &Path) {
    run(Command::new("e2fsck").arg("-fn").arg(raw)).ok();
}
