//! `ireko vhd` on plain files, as somebody who installed it for itself would use it. No VM, no daemon.

use ireko_e2e::programs::{self, Ran, run};
use ireko_e2e::witness;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A folder of disk files; the tool runs in it.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn vhd(&self, words: &[&str]) -> Command {
        let mut command = Command::new(programs::ireko());
        command.arg("vhd").args(words).current_dir(self.0.path());
        command
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Ran {
        run(&mut self.vhd(words))
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        self.run(words).ok()
    }

    #[track_caller]
    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(words)).expect("JSON")
    }

    /// Writes a pattern at an offset of the disk, through NBD, by QEMU's own client.
    #[track_caller]
    fn write(&self, disk: &str, pattern: u8, offset: &str, length: &str) {
        let write =
            format!("qemu-io -f raw -c 'write -P {pattern} {offset} {length}' \"$IREKO_NBD_URI\"");
        self.ok(&["serve", "-w", disk, "--", "sh", "-ec", &write]);
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("the folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    #[track_caller]
    fn hash(&self, raw: &str) -> String {
        witness::sha256(&self.path(raw))
    }
}

#[test]
fn a_chain_is_made_written_shown_and_flattened() {
    let desk = Desk::new();
    assert_eq!(
        desk.ok(&["create", "base.vhdx", "--size", "256m", "--block-size", "1m"]),
        "base.vhdx\n"
    );
    desk.write("base.vhdx", 0xA1, "1M", "3M");
    desk.ok(&["create", "child.vhdx", "--parent", "base.vhdx"]);
    desk.write("child.vhdx", 0xC2, "2M", "64k");
    desk.ok(&["create", "top.vhdx", "-p", "child.vhdx", "--block-size", "1m"]);
    desk.write("top.vhdx", 0xD3, "200M", "4k");

    let info = desk.json(&["info", "--chain", "--json", "top.vhdx"]);
    let kinds: Vec<&str> =
        info.as_array().unwrap().iter().map(|file| file["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["differencing", "differencing", "dynamic"]);
    assert_eq!(info[0]["parent"]["relative_path"], r".\child.vhdx");
    assert_eq!(info[0]["parent"]["identity"], info[1]["identity"]);
    assert_eq!(info[0]["virtual_size"], 256 << 20);
    assert!(desk.ok(&["info", "base.vhdx"]).contains("virtual size    256MiB (268435456 bytes)"));

    let map = desk.json(&["map", "--json", "top.vhdx"]);
    let find = |start: u64| {
        map.as_array()
            .unwrap()
            .iter()
            .find(|line| line["start"] == start)
            .expect("a stretch")
            .clone()
    };
    assert_eq!(find(1 << 20)["depth"], 2);
    assert_eq!((&find(2 << 20)["depth"], &find(2 << 20)["length"]), (&1.into(), &65536.into()));
    assert_eq!(find(200 << 20)["depth"], 0);
    assert!(desk.ok(&["map", "top.vhdx"]).starts_with("START"));

    desk.ok(&["flatten", "top.vhdx", "flat.vhdx"]);
    desk.ok(&["convert", "top.vhdx", "top.raw"]);
    run(Command::new("qemu-img")
        .args(["convert", "-f", "vhdx", "-O", "raw", "flat.vhdx", "flat.raw"])
        .current_dir(desk.0.path()))
    .ok();
    assert_eq!(desk.hash("flat.raw"), desk.hash("top.raw"));
    witness::qemu_img_accepts(&desk.path("flat.vhdx"));
    let chain = ["top.vhdx", "child.vhdx", "base.vhdx"].map(|name| desk.path(name));
    witness::seven_zip_reads_the_same(&chain, None);
    assert!(desk.ok(&["check", "--chain", "top.vhdx"]).contains("sound"));
}

#[test]
fn layers_are_merged_relinked_resized_and_compacted() {
    let desk = Desk::new();
    desk.ok(&["create", "base.vhdx", "-s", "128m", "--block-size", "1m"]);
    desk.write("base.vhdx", 0x11, "0", "8M");
    desk.ok(&["create", "a.vhdx", "-p", "base.vhdx"]);
    desk.write("a.vhdx", 0x22, "4M", "2M");
    desk.ok(&["create", "b.vhdx", "-p", "a.vhdx"]);
    desk.write("b.vhdx", 0x33, "5M", "64k");
    desk.ok(&["convert", "b.vhdx", "expected.raw"]);
    let expected = desk.hash("expected.raw");
    let holds = |disk: &str| {
        let _ = fs::remove_file(desk.path("now.raw"));
        desk.ok(&["convert", disk, "now.raw"]);
        assert_eq!(desk.hash("now.raw"), expected, "{disk}");
    };

    desk.ok(&["merge", "b.vhdx", "--into", "ab.vhdx"]);
    assert_eq!(desk.json(&["info", "--chain", "--json", "ab.vhdx"]).as_array().unwrap().len(), 2);
    holds("ab.vhdx");
    desk.ok(&["merge", "b.vhdx", "--into", "all.vhdx", "--all"]);
    holds("all.vhdx");
    holds("b.vhdx");
    fs::remove_file(desk.path("ab.vhdx")).unwrap();

    // Into the parent: b's bytes are a's now. Another child of base stands in the way of the next one.
    assert_eq!(desk.ok(&["merge", "b.vhdx"]), "a.vhdx\n");
    assert!(!desk.path("b.vhdx").exists());
    holds("a.vhdx");
    desk.ok(&["create", "other.vhdx", "-p", "base.vhdx"]);
    desk.run(&["merge", "a.vhdx"]).fails_with(1, "other.vhdx");

    fs::create_dir(desk.path("far")).unwrap();
    fs::rename(desk.path("base.vhdx"), desk.path("far/base.vhdx")).unwrap();
    desk.run(&["map", "a.vhdx"]).fails_with(1, "--parent-dir");
    desk.ok(&["relink", "a.vhdx", "far/base.vhdx", "--absolute-path", r"D:\far\base.vhdx"]);
    let info = desk.json(&["info", "--json", "a.vhdx"]);
    assert_eq!(info[0]["parent"]["relative_path"], r".\far\base.vhdx");
    assert_eq!(info[0]["parent"]["absolute_path"], r"D:\far\base.vhdx");
    desk.ok(&["map", "a.vhdx", "--parent-dir", "far"]);

    let before = desk.json(&["info", "--json", "all.vhdx"])[0]["file_size"].as_u64().unwrap();
    desk.write("all.vhdx", 0, "0", "8M");
    desk.ok(&["compact", "all.vhdx"]);
    let after = desk.json(&["info", "--json", "all.vhdx"])[0]["file_size"].as_u64().unwrap();
    assert!(after < before, "{after} < {before}");
    assert_eq!(desk.ok(&["resize", "all.vhdx", "+128m"]), "128MiB -> 256MiB\n");
    desk.write("all.vhdx", 0x44, "200M", "64k");
    desk.run(&["resize", "all.vhdx", "128m"]).fails_with(1, "hint: --allow-loss");
    desk.ok(&["resize", "all.vhdx", "128m", "--allow-loss"]);
    witness::qemu_img_accepts(&desk.path("all.vhdx"));
    assert!(desk.ok(&["check", "all.vhdx"]).contains("sound"));
}

#[test]
fn vhd_files_are_made_chained_and_converted() {
    let desk = Desk::new();
    // No multiple of a cylinder: QEMU would see another size if the file did not say better.
    desk.ok(&["create", "base.vhd", "-s", "67109376"]);
    desk.write("base.vhd", 0x55, "1M", "3M");
    desk.ok(&["create", "child.vhd", "-p", "base.vhd"]);
    desk.write("child.vhd", 0x66, "2M", "64k");
    let info = desk.json(&["info", "--chain", "--json", "child.vhd"]);
    assert_eq!((&info[0]["format"], &info[0]["kind"]), (&"vhd".into(), &"differencing".into()));
    assert_eq!(info[0]["parent"]["identity"], info[1]["identity"]);

    desk.ok(&["convert", "child.vhd", "child.raw"]);
    desk.ok(&["convert", "child.vhd", "new.vhdx"]);
    desk.ok(&["convert", "new.vhdx", "again.raw"]);
    assert_eq!(desk.hash("child.raw"), desk.hash("again.raw"));

    desk.ok(&["convert", "child.vhd", "azure.vhd", "--azure"]);
    let length = fs::metadata(desk.path("azure.vhd")).unwrap().len();
    assert_eq!(length, (65 << 20) + 512);
    let qemu_img =
        |words: &[&str]| run(Command::new("qemu-img").args(words).current_dir(desk.0.path())).ok();
    let seen: Value =
        serde_json::from_str(&qemu_img(&["info", "-f", "vpc", "--output=json", "azure.vhd"]))
            .expect("JSON");
    assert_eq!(seen["virtual-size"], 65 << 20);
    qemu_img(&["convert", "-f", "vpc", "-O", "raw", "azure.vhd", "azure.raw"]);
    let raw = fs::File::options().write(true).open(desk.path("azure.raw")).unwrap();
    raw.set_len(67109376).unwrap();
    assert_eq!(desk.hash("azure.raw"), desk.hash("child.raw"));
    desk.run(&["convert", "child.vhd", "x.vhdx", "--azure"]).fails_with(125, "Azure takes VHD");
}

#[test]
fn damage_is_found_told_and_repaired() {
    use std::os::unix::fs::FileExt;
    let desk = Desk::new();
    desk.ok(&["create", "disk.vhdx", "-s", "64m"]);
    desk.write("disk.vhdx", 0x77, "3M", "1M");
    desk.ok(&["convert", "disk.vhdx", "before.raw"]);
    let file = fs::File::options().write(true).open(desk.path("disk.vhdx")).unwrap();
    // The second copy of the region table, in its checksum.
    file.write_all_at(&[0xFF; 4], 256 * 1024 + 4).unwrap();
    drop(file);

    let report = desk.json(&["check", "--json", "disk.vhdx"]);
    assert_eq!(report[0]["findings"][0]["kind"], "RegionTableDamaged");
    assert!(
        desk.ok(&["check", "disk.vhdx"]).contains("--repair would write the other region table")
    );
    assert!(desk.ok(&["check", "--repair", "disk.vhdx"]).contains("repaired"));
    assert_eq!(desk.json(&["check", "--json", "disk.vhdx"])[0]["findings"], Value::Array(vec![]));
    desk.ok(&["convert", "disk.vhdx", "after.raw"]);
    assert_eq!(desk.hash("before.raw"), desk.hash("after.raw"));

    let file = fs::File::options().write(true).open(desk.path("disk.vhdx")).unwrap();
    for header in [64 * 1024, 128 * 1024] {
        file.write_all_at(&[0xFF; 4], header + 4).unwrap();
    }
    drop(file);
    let lost = desk.run(&["check", "disk.vhdx"]);
    assert_eq!(lost.code, 2, "{lost:?}");
    assert!(lost.stdout.contains("damaged"), "{lost:?}");
}

#[test]
fn any_nbd_client_reads_what_is_served() {
    let desk = Desk::new();
    desk.ok(&["create", "disk.vhdx", "-s", "64m"]);
    desk.write("disk.vhdx", 0x5A, "0", "1M");
    let mut server = desk
        .vhd(&["serve", "disk.vhdx", "--socket", "here.sock"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("run ireko");
    let mut said = BufReader::new(server.stdout.take().expect("its output"));
    let mut uri = String::new();
    said.read_line(&mut uri).expect("the URI");
    let uri = uri.trim_end();
    assert!(uri.starts_with("nbd+unix:///?socket=/") && uri.ends_with("/here.sock"), "{uri}");

    let info = run(Command::new("nbdinfo").args(["--json", uri])).ok();
    let info: Value = serde_json::from_str(&info).expect("JSON");
    assert_eq!(info["exports"][0]["export-size"], 64 << 20);
    assert_eq!(info["exports"][0]["is_read_only"], true);
    run(Command::new("nbdcopy").arg(uri).arg(desk.path("copy.raw"))).ok();
    desk.ok(&["convert", "disk.vhdx", "disk.raw"]);
    assert_eq!(desk.hash("copy.raw"), desk.hash("disk.raw"));
    let refused = run(Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 4k", uri]));
    assert_ne!(refused.code, 0, "{refused:?}");

    // While it is served nobody else may write to it.
    desk.run(&["serve", "-w", "disk.vhdx", "--", "true"]).fails_with(1, "in use");
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    assert!(server.wait().expect("its end").success());
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("the rest");
    assert_eq!(rest, "");
    assert!(!desk.path("here.sock").exists(), "the socket is removed");
}

#[test]
fn a_served_command_s_status_is_passed_on() {
    let desk = Desk::new();
    desk.ok(&["create", "disk.raw", "-s", "1m"]);
    assert_eq!(desk.run(&["serve", "disk.raw", "--", "sh", "-c", "exit 7"]).code, 7);
    desk.run(&["serve", "disk.raw", "--", "/nonesuch"]).fails_with(1, "cannot run /nonesuch");
}

#[test]
fn mistakes_get_one_clear_message_and_leave_no_file() {
    let desk = Desk::new();
    desk.ok(&["create", "base.vhdx", "-s", "64m"]);
    desk.ok(&["create", "child.vhdx", "-p", "base.vhdx"]);
    fs::write(desk.path("text"), "no disk at all").unwrap();
    let before = desk.names();
    let fails = |words: &[&str], code, said: &str| desk.run(words).fails_with(code, said);

    fails(&["info", "nonesuch.vhdx"], 1, "nonesuch.vhdx");
    fails(&["info", "text"], 1, "not a VHDX or VHD file");
    fails(&["info", "text"], 1, "hint: --format raw");
    fails(&["create", "base.vhdx", "-s", "1g"], 1, "File exists");
    fails(&["create", "x.vhdx", "-s", "1000"], 1, "multiple of its sector");
    fails(&["create", "x.vhdx"], 1, "--size");
    fails(&["create", "x.unknown", "-s", "1g"], 125, "does not tell its format");
    fails(&["create", "x.vhdx", "-s", "1g", "--block-size", "3m"], 1, "power of two");
    fails(&["create", "x.vhdx", "-p", "child.vhdx", "--fixed"], 125, "never fixed");
    fails(&["convert", "child.vhdx", "base.vhdx"], 1, "exists already");
    fails(&["convert", "child.vhdx", "/nonesuch/x.vhdx"], 1, "No such file");
    fails(&["flatten", "text", "x.vhdx"], 1, "not a VHDX or VHD file");

    fs::create_dir(desk.path("away")).unwrap();
    fs::rename(desk.path("base.vhdx"), desk.path("away/base.vhdx")).unwrap();
    fails(&["map", "child.vhdx"], 1, "hint: --parent-dir");
    desk.ok(&["map", "child.vhdx", "--parent-dir", "away"]);
    // Another version of the parent is another parent.
    desk.write("away/base.vhdx", 1, "0", "4k");
    fails(&["map", "child.vhdx", "--parent-dir", "away"], 1, "another version");

    fs::rename(desk.path("away/base.vhdx"), desk.path("base.vhdx")).unwrap();
    fs::remove_dir(desk.path("away")).unwrap();
    assert_eq!(desk.names(), before);
}

#[test]
fn an_interrupted_conversion_leaves_no_file() {
    let desk = Desk::new();
    desk.ok(&["create", "disk.raw", "-s", "8g"]);
    // Data, so that there is something to do for longer than a signal takes.
    let fill = "qemu-io -f raw -c 'write -P 1 0 1G' \"$IREKO_NBD_URI\"";
    desk.ok(&["serve", "-w", "disk.raw", "--", "sh", "-ec", fill]);
    let mut converting = desk
        .vhd(&["convert", "disk.raw", "disk.vhdx"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("run ireko");
    await_file(&desk.path("disk.vhdx.part"), &mut converting);
    let pid = rustix::process::Pid::from_child(&converting);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
    let status = converting.wait().expect("its end");
    let said = programs::read_all(converting.stderr.take().expect("its messages"));
    assert_eq!(status.code(), Some(130), "{said}");
    assert_eq!(desk.names(), ["disk.raw"], "{said}");
}

/// Waits until a file is there; the program that makes it has not ended before.
fn await_file(path: &Path, program: &mut std::process::Child) {
    while !path.exists() {
        assert!(
            program.try_wait().expect("its state").is_none(),
            "{} was never there",
            path.display()
        );
        std::thread::yield_now();
    }
}
