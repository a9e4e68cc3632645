//! What people get wrong, and what machines lack: one clear message, docker's exit status, and the
//! store as it was.

use ireko_e2e::World;
use ireko_e2e::slots::Vms;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Every file of the store with its size: what must not change.
fn store(world: &World) -> BTreeMap<String, u64> {
    let mut files = BTreeMap::new();
    for folder in ["images", "containers", "journal"] {
        collect(&world.root().join(folder), &mut files);
    }
    files
}

fn collect(folder: &Path, files: &mut BTreeMap<String, u64>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.insert(path.display().to_string(), entry.metadata().map_or(0, |data| data.len()));
        }
    }
}

#[test]
fn mistakes_get_one_clear_message_and_change_nothing() {
    let world = World::new("mistakes", Vms::One);
    world.ok(&["create", "--name", "taken", "base", "true"]);
    let before = store(&world);
    let fails = |args: &[&str], code, said| world.run(args).fails_with(code, said);

    fails(&["run", "nonesuch"], 125, "No such image: nonesuch:latest");
    fails(&["run", "--name", "taken", "base", "true"], 125, "is already in use by container");
    fails(&["run", "--no-such-flag", "base"], 125, "--no-such-flag");
    fails(&["run", "--network", "none", "-p", "80:80", "base", "true"], 125, "network");
    fails(&["run", "-v", "/tmp:/mnt", "base", "true"], 125, "volume");
    fails(&["run", "--network", "host", "base", "true"], 125, "network");
    fails(&["run", "-m", "lots", "base", "true"], 125, "lots");
    fails(&["exec", "taken", "true"], 1, "is not running");
    fails(&["rm", "nobody"], 1, "No such container: nobody");
    fails(&["rmi", "base"], 1, "is using its referenced image");
    fails(&["commit", "taken", "(("], 1, "invalid reference");
    assert_eq!(store(&world), before);

    fails(&["run", "--rm", "base", "nonesuch"], 127, "executable file not found in $PATH");
    fails(&["run", "--rm", "base", "/etc/passwd"], 126, "permission denied");
    assert_eq!(store(&world), before);
}

#[test]
fn archives_that_are_none_or_lead_outside_are_refused() {
    let world = World::new("bad archives", Vms::One);
    world.ok(&["create", "--name", "any", "base", "true"]);
    let before = store(&world);
    let bad = world.root().join("bad.tar");
    let import = |content: &[u8]| {
        fs::write(&bad, content).expect("write an archive");
        let ran = world.run(&["import", bad.to_str().expect("a path"), "bad"]);
        assert_ne!(ran.code, 0, "{ran:#?}");
        assert!(ran.stderr.lines().count() <= 3, "{ran:#?}");
        assert_eq!(store(&world), before);
        ran.stderr
    };
    assert!(import(b"this is no archive").contains("archive"));
    assert!(import(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]).contains("archive"));
    assert!(import(&escaping_archive()).contains(".."));
}

/// One entry, `../escaped`, written by hand: libraries refuse to make it.
fn escaping_archive() -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..10].copy_from_slice(b"../escaped");
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(b"00000000000\0");
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.resize(512 * 3, 0);
    archive
}

#[test]
fn damaged_disks_are_named_and_left_alone() {
    let world = World::new("damaged disks", Vms::One);
    world.ok(&["create", "--name", "cut", "base", "true"]);
    world.ok(&["create", "--name", "torn", "base", "true"]);
    world.ok(&["create", "--name", "alien", "base", "true"]);
    let disk = |name: &str| {
        let files = fs::read_dir(world.container_dir(name)).expect("a container's folder");
        files
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|end| end == "vhdx"))
            .expect("a disk")
    };
    let cut = disk("cut");
    fs::File::options().write(true).open(&cut).expect("open").set_len(70_000).expect("truncate");
    let torn = disk("torn");
    let mut bytes = fs::read(&torn).expect("read");
    bytes[192 * 1024..320 * 1024].fill(0xaa);
    fs::write(&torn, &bytes).expect("write");
    // A parent whose data changed: the child records the parent's data write GUID.
    let alien = disk("alien");
    let mut bytes = fs::read(&alien).expect("read");
    let key: Vec<u8> = "{".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let at = bytes.windows(2).rposition(|two| two == key).expect("a linkage");
    bytes[at + 2] = if bytes[at + 2] == b'0' { b'1' } else { b'0' };
    fs::write(&alien, &bytes).expect("write");

    for (name, said) in [("cut", "truncated"), ("torn", "region table"), ("alien", "parent")] {
        let ran = world.run(&["start", name]);
        assert_ne!(ran.code, 0, "{ran:#?}");
        assert!(ran.stderr.contains(said), "{said:?} in {ran:#?}");
    }
    assert_eq!(world.ok(&["run", "--rm", "base", "echo", "fine"]), "fine");
}

#[test]
fn a_machine_without_qemu_or_kernel_says_so_with_the_cure() {
    let world = World::new("no qemu, no kernel", Vms::One);
    world.ok(&["create", "--name", "any", "base", "true"]);
    world.ok(&["daemon", "stop"]);
    let mut start = world.ireko(&["start", "any"]);
    start.env("PATH", "/nonexistent");
    ireko_e2e::run(&mut start).fails_with(1, "apt");

    world.ok(&["daemon", "stop"]);
    let empty = world.root().join("empty-cache");
    let mut start = world.ireko(&["--cache", empty.to_str().expect("a path"), "start", "any"]);
    ireko_e2e::run(start.env_remove("IREKO_CACHE")).fails_with(1, "ireko setup");
}

#[test]
fn a_full_disk_is_said_to_be_full_and_the_store_stays() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting a small tmpfs needs root");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mount = |args: &[&str]| {
        ireko_e2e::run(std::process::Command::new(args[0]).args(&args[1..]).arg(folder.path())).ok()
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs"]);
    {
        let world = World::at("full disk", folder.path(), Vms::One);
        world.ok(&["create", "--name", "any", "base", "true"]);
        let filler = folder.path().join("filler");
        // Whatever fits: the error of the last write is the point.
        let _ = fs::write(&filler, vec![1; 48 << 20]);
        let before = store(&world);
        let ran = world.run(&["create", "base", "true"]);
        ran.fails_with(1, "No space left");
        assert_eq!(store(&world), before);
        fs::remove_file(&filler).expect("remove the filler");
        assert_eq!(world.ok(&["run", "--rm", "base", "echo", "room"]), "room");
    }
    // Lazily: a process that was told to end may hold it a moment longer.
    mount(&["umount", "-l"]);
}
