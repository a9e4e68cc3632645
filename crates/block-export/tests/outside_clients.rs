//! Clients that we did not write: libnbd's tools and QEMU's. A test whose tool is not installed
//! says so and passes.

mod client;

use client::*;
use ireko_block_export::Export;
use ireko_disk::Disk;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

const SIZE: u64 = 256 * BLOCK;

/// Runs a tool; `None`, having said so, where it is not installed.
fn run(tool: &str, arguments: &[&dyn AsRef<OsStr>]) -> Option<Output> {
    let output = Command::new(tool).args(arguments.iter().map(|it| it.as_ref())).output();
    match output {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: {tool} is not installed");
            None
        }
        Err(error) => panic!("{tool}: {error}"),
    }
}

#[track_caller]
fn stdout_of(output: Output) -> String {
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaints}");
    String::from_utf8(output.stdout).unwrap()
}

fn uri(served: &Served) -> String {
    format!("nbd+unix:///root?socket={}", served.socket.display())
}

/// A disk whose every fourth block holds numbers, the last one half.
fn patterned() -> std::sync::Arc<MemoryDisk> {
    let disk = MemoryDisk::new(SIZE + BLOCK / 2);
    let mut numbers = Numbers(3);
    for block in (0..=SIZE / BLOCK).step_by(4) {
        let length = BLOCK.min(SIZE + BLOCK / 2 - block * BLOCK) as usize;
        disk.write_at(block * BLOCK, &numbers.bytes(length)).unwrap();
    }
    disk
}

#[test]
fn nbdinfo_sees_what_is_offered_and_maps_the_extents() {
    let served = Served::new(export(patterned()));
    let Some(output) = run("nbdinfo", &[&"--json", &uri(&served)]) else { return };
    let info: serde_json::Value = serde_json::from_str(&stdout_of(output)).unwrap();
    assert_eq!((&info["protocol"], &info["structured"]), (&"newstyle-fixed".into(), &true.into()));
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], SIZE + BLOCK / 2);
    assert_eq!(export["block_size_maximum"], 32 << 20);
    assert_eq!(export["contexts"][0], "base:allocation");
    for can in [
        "can_multi_conn",
        "can_fua",
        "can_zero",
        "can_fast_zero",
        "can_df",
        "can_cache",
        "can_trim",
    ] {
        assert_eq!(export[can], true, "{can}");
    }
    let output = run("nbdinfo", &[&"--json", &"--map", &uri(&served)]).unwrap();
    let map: serde_json::Value = serde_json::from_str(&stdout_of(output)).unwrap();
    let extents = map.as_array().unwrap();
    assert_eq!(extents.len() as u64, 2 * (SIZE / BLOCK / 4) + 1);
    for (index, extent) in extents.iter().enumerate() {
        assert_eq!(extent["type"], if index % 2 == 0 { 0 } else { 3 });
    }
    let list = format!("nbd+unix://?socket={}", served.socket.display());
    let listed = stdout_of(run("nbdinfo", &[&"--list", &list]).unwrap());
    assert!(listed.contains("a test's disk"), "{listed}");
}

#[test]
fn nbdcopy_copies_out_and_in_over_several_connections() {
    let (source, target) = (patterned(), MemoryDisk::new(SIZE + BLOCK / 2));
    let (from, to) = (Served::new(export(source.clone())), Served::new(export(target.clone())));
    let Some(output) = run("nbdcopy", &[&"--connections=4", &uri(&from), &uri(&to)]) else {
        return;
    };
    stdout_of(output);
    assert!(source.bytes() == target.bytes());
    let output = run("nbdcopy", &[&"--flush", &uri(&from), &"null:"]).unwrap();
    stdout_of(output);
}

#[test]
fn qemu_img_converts_out_and_in_and_sees_equal_bytes() {
    let source = patterned();
    let served = Served::new(export(source.clone()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy.raw");
    let raw: &[&dyn AsRef<OsStr>] =
        &[&"convert", &"-f", &"raw", &"-O", &"raw", &uri(&served), &file];
    let Some(output) = run("qemu-img", raw) else { return };
    stdout_of(output);
    assert!(std::fs::read(&file).unwrap() == source.bytes());

    let target = MemoryDisk::new(SIZE + BLOCK / 2);
    let back = Served::new(export(target.clone()));
    let arguments: &[&dyn AsRef<OsStr>] =
        &[&"convert", &"-n", &"-f", &"raw", &"-O", &"raw", &file, &uri(&back)];
    stdout_of(run("qemu-img", arguments).unwrap());
    assert!(target.bytes() == source.bytes());
    let compared = run("qemu-img", &[&"compare", &uri(&served), &uri(&back)]).unwrap();
    assert!(stdout_of(compared).contains("identical"));
}

#[test]
fn qemu_io_writes_zeroes_discards_and_flushes() {
    let disk = patterned();
    let served = Served::new(export(disk.clone()));
    let Some(output) = qemu_io(
        &uri(&served),
        &[],
        &[
            "write -P 0x5a 1M 3M",
            "write -f -P 0x11 512 512",
            "write -z 1M 64k",
            "write -z -u 1088k 128k",
            "discard 2M 1M",
            "flush",
            "read -P 0 1M 64k",
            "read -P 0 1088k 128k",
            "read -P 0x5a 1216k 832k",
            "read -P 0 2M 1M",
            "read -P 0x5a 3M 1M",
            "read -P 0x11 512 512",
            "aio_write -P 1 8M 64k",
            "aio_write -P 2 9M 64k",
            "aio_flush",
            "read -P 2 9M 64k",
        ],
    ) else {
        return;
    };
    let said = stdout_of(output);
    assert!(!said.contains("failed") && !said.contains("rror"), "{said}");
    use ireko_disk::ExtentKind::{Data, Zero};
    // Zeros that may not become a hole keep their block; those that may do not.
    assert_eq!(disk.kinds()[16..20], [Data, Zero, Zero, Data]);
}

#[test]
fn qemu_cannot_write_to_a_read_only_export() {
    let served = Served::new(Export { read_only: true, ..export(patterned()) });
    let Some(output) = qemu_io(&uri(&served), &[], &["write 0 512"]) else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("Permission denied"), "{said}");
    let output = qemu_io(&uri(&served), &["-r"], &["read 0 64k"]).unwrap();
    assert!(stdout_of(output).contains("read 65536/65536"));
}

fn qemu_io(uri: &str, options: &[&str], commands: &[&str]) -> Option<Output> {
    let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"-f", &"raw"];
    options.iter().for_each(|option| arguments.push(option));
    for command in commands {
        arguments.push(&"-c");
        arguments.push(command);
    }
    let target = Path::new(uri);
    arguments.push(&target);
    run("qemu-io", &arguments)
}
