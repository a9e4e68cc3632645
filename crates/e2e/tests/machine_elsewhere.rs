//! Systems from elsewhere, and to elsewhere: one that nobody prepared for Ireko, and machines that other
//! programs start.

use ireko_e2e::World;
use ireko_e2e::machine::{PATIENCE, TINY, await_line, import_boot_sector};
use ireko_e2e::slots::Vms;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Of the package memtest86+: a system of its own, on a disk with nothing but UEFI's loader.
const MEMTEST: &str = "/usr/lib/memtest86+/memtest86+x64.iso";

/// Waits until most of a machine's screen is blue, as that system's is.
#[track_caller]
fn await_blue(world: &World, container: &str) {
    let file = world.root().join("screen.png");
    let deadline = Instant::now() + PATIENCE;
    loop {
        world.ok(&["screenshot", container, file.to_str().expect("a path")]);
        let decoder = png::Decoder::new(BufReader::new(std::fs::File::open(&file).expect("open")));
        let mut reader = decoder.read_info().expect("a picture");
        let mut bytes = vec![0; reader.output_buffer_size().expect("its size")];
        let info = reader.next_frame(&mut bytes).expect("its pixels");
        assert_eq!(info.color_type, png::ColorType::Rgb);
        let pixels: Vec<_> = bytes.chunks_exact(3).collect();
        let blue = pixels.iter().filter(|pixel| pixel[2] > 100 && pixel[0] < 60 && pixel[1] < 60);
        if blue.count() * 2 > pixels.len() {
            return;
        }
        assert!(Instant::now() < deadline, "the screen never became blue");
        thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_system_that_nobody_prepared_boots_is_stopped_committed_and_made_again() {
    if !Path::new(MEMTEST).exists() || !Path::new("/usr/share/OVMF").exists() {
        return eprintln!("skipped: no {MEMTEST}, or no UEFI firmware (packages memtest86+, ovmf)");
    }
    let world = World::new("foreign system", Vms::One);
    world.ok(&["image", "import", "--format", "raw", MEMTEST, "memtest"]);
    world.ok(&["run", "-d", "--name", "one", "--firmware", "uefi", "memtest"]);
    assert_eq!(world.inspect("one", "/HostConfig/Annotations/ireko.hardware"), "compatible");
    await_blue(&world, "one");
    world.ok(&["stop", "-t", "1", "one"]);
    assert_eq!(world.inspect("one", "/State/ExitCode"), 137, "it has no ear for a power button");
    world.ok(&["commit", "one", "memtest2"]);
    world.ok(&["rm", "one"]);
    world.ok(&["run", "-d", "--name", "two", "memtest2"]);
    assert_eq!(world.inspect("two", "/HostConfig/Annotations/ireko.firmware"), "uefi");
    await_blue(&world, "two");
    world.ok(&["kill", "two"]);
}

#[test]
fn a_machine_leaves_with_what_starts_it_elsewhere() {
    let world = World::new("machine leaves", Vms::One);
    import_boot_sector(&world, TINY, "tiny");
    let outside = tempfile::tempdir().expect("a folder outside the store");
    let file = |name: &str| outside.path().join(name).to_str().expect("a path").to_owned();
    let export = |image: &str, to: &str, with: &str| {
        world.run(&["image", "export", image, &file(to), "--with", with])
    };
    export("tiny", "box.vhdx", "libvirt").fails_with(1, "export as qcow2");
    assert!(!Path::new(&file("box.vhdx")).exists(), "nothing was written");
    let written = export("tiny", "it's.qcow2", "qemu,libvirt").ok();
    assert_eq!(written.lines().count(), 3, "{written}");
    export("tiny", "it's.vhdx", "qemu").fails_with(1, "is there already");
    assert!(std::fs::read_to_string(file("it's.xml")).expect("read it").contains("<domain "));

    let mut qemu = Command::new("sh");
    // What this BIOS shows is to be read here.
    qemu.env("ACCEL", "tcg").args([
        &file("it's.sh"),
        "-display",
        "none",
        "-machine",
        "graphics=off",
    ]);
    let mut qemu = qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run sh");
    let serial = BufReader::new(qemu.stdout.take().expect("its output"));
    let is_up = serial
        .split(b'\n')
        .map_while(Result::ok)
        .any(|line| String::from_utf8_lossy(&line).contains("ready"));
    qemu.kill().expect("end it");
    qemu.wait().expect("see it end");
    assert!(is_up, "the disk boots without us");

    // A container leaves as it is now, and nothing stays behind.
    world.ok(&["run", "-d", "--name", "box", "-m", "64m", "tiny"]);
    await_line(&world, "box", "^ready");
    let images = world.ok(&["images", "-q"]);
    export("box", "box.vhdx", "hyperv").ok();
    assert_eq!(world.ok(&["images", "-q"]), images);
    assert_eq!(world.inspect("box", "/State/Running"), true);
    let script = std::fs::read_to_string(file("box.ps1")).expect("read it");
    assert!(script.contains("-Generation 1 -MemoryStartupBytes 64MB"), "{script}");
    export("base", "base.qcow2", "qemu").fails_with(1, "");
}
