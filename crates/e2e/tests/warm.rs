//! Starting from a template: what is the same as in a cold start, and what must not be.

use ireko_e2e::slots::Vms;
use ireko_e2e::{World, run};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// All that a container may not share with another, a line each.
const IDENTITY: &str = "head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/boot_id; \
                        hostname; cat /sys/class/net/eth0/address; ip -4 -o addr show eth0 | \
                        awk '{print $4}'";

/// What the clock shows, to the microsecond.
const CLOCK: &str = "adjtimex | awk '/tv_sec/ { s = $2 } /tv_usec/ { printf \"%d.%06d\", s, $2 }'";

/// By how much a guest's clock may differ from the host's, in seconds.
const CLOCK_ERROR: f64 = 0.2;

/// A world with templates of its own; what else is in the cache is everybody's.
struct Templates {
    world: World,
    cache: tempfile::TempDir,
}

impl Templates {
    fn new(name: &str, vms: Vms) -> Self {
        Self::with_programs(name, vms, None)
    }

    /// The same where programs are looked for in this folder first.
    fn with_programs(name: &str, vms: Vms, programs: Option<&Path>) -> Self {
        let world = World::new(name, vms);
        let shared =
            std::env::var_os("IREKO_CACHE").map_or("/var/cache/ireko".into(), PathBuf::from);
        let cache = tempfile::tempdir().expect("a folder");
        for part in fs::read_dir(&shared).expect("a cache").flatten() {
            if part.file_name() != "templates" {
                symlink(part.path(), cache.path().join(part.file_name())).expect("a link");
            }
        }
        // The first command starts the daemon, which keeps the cache that it was given.
        let mut first = world.ireko(&["version"]);
        if let Some(folder) = programs {
            let path = std::env::var("PATH").expect("a PATH");
            first.env("PATH", format!("{}:{path}", folder.display()));
        }
        run(first.env("IREKO_CACHE", cache.path())).ok();
        Self { world, cache }
    }

    fn hi(&self, start: &str) -> String {
        self.world.ok(&["run", "--rm", "--start", start, "base", "echo", "hi"])
    }

    /// The folders of the templates.
    fn all(&self) -> BTreeSet<PathBuf> {
        let Ok(entries) = fs::read_dir(self.cache.path().join("templates")) else {
            return BTreeSet::new();
        };
        let folders = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
        folders.collect()
    }

    #[track_caller]
    fn the_one(&self) -> PathBuf {
        let all = self.all();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().expect("one")
    }
}

/// When a template was made; the number of a file's inode may be that of one before it.
fn made(folder: &Path) -> serde_json::Value {
    let text = fs::read_to_string(folder.join("template.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    record["created"].clone()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

fn precisely_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs_f64()
}

#[test]
fn a_container_is_the_same_however_it_is_started() {
    let world = World::new("every way to start", Vms::One);
    let script = "hostname; nproc; cat /sys/fs/cgroup/memory.max; cat /etc/resolv.conf; \
                  ip route | head -1; echo $0; cat; exit 7";
    for (start, origin) in [("cold", "cold"), ("template", "template"), ("auto", "template")] {
        let options =
            ["run", "-i", "--name", start, "-h", "nest", "-m", "300m", "--cpus", "2", "--start"];
        let words = [&options[..], &[start, "base", "sh", "-c", script]].concat();
        let ran = run(&mut world.ireko(&words));
        assert_eq!(ran.code, 7, "{ran:#?}");
        let lines: Vec<_> = ran.stdout.lines().collect();
        let limit = (300 << 20).to_string();
        assert_eq!(lines[..3], ["nest", "2", &limit], "{start}");
        assert!(ran.stdout.contains("default via 172."), "{ran:#?}");
        assert_eq!(world.inspect(start, "/State/Origin"), origin);
        world.ok(&["rm", start]);
    }
    world
        .run(&["run", "--rm", "--start", "template", "-m", "5g", "base", "true"])
        .fails_with(125, "templates have powers of two from 128 to 4096 MiB");
    world
        .run(&["run", "--start", "hot", "base"])
        .fails_with(125, "use auto, pool, template or cold");
    assert_eq!(world.ok(&["run", "--rm", "-m", "5g", "base", "echo", "large"]), "large");
}

#[test]
fn clones_of_one_template_are_strangers_to_each_other() {
    let world = World::new("strangers", Vms::Two);
    let mut seen = BTreeSet::new();
    let started: Vec<_> = (0..2)
        .map(|number| {
            let name = format!("clone{number}");
            world.ok(&[
                "run", "-d", "--start", "template", "--name", &name, "base", "sleep", "9999",
            ]);
            name
        })
        .collect();
    for name in &started {
        let before = precisely_now() - CLOCK_ERROR;
        let clock: f64 = world.ok(&["exec", name, "sh", "-c", CLOCK]).parse().expect("seconds");
        assert!((before..precisely_now() + CLOCK_ERROR).contains(&clock), "{before} {clock}");
        let said = world.ok(&["exec", name, "sh", "-c", IDENTITY]);
        assert_eq!(said.lines().count(), 5, "{said}");
        for line in said.lines() {
            assert!(seen.insert(line.to_owned()), "both have {line}");
        }
        let mac = world.inspect(name, "/NetworkSettings/MacAddress");
        assert!(said.contains(mac.as_str().expect("a MAC address")), "{said}");
    }
    // A clock that goes wrong is put right.
    world.ok(&["exec", &started[0], "date", "-s", "@86400"]);
    let clock =
        || -> u64 { world.ok(&["exec", &started[0], "date", "+%s"]).parse().expect("seconds") };
    let deadline = Instant::now() + Duration::from_secs(180);
    while clock() < now() - 5 {
        assert!(Instant::now() < deadline, "it shows {}", clock());
        std::thread::sleep(Duration::from_secs(1));
    }

    // They can talk: the switch knows them by their own addresses.
    let peer = world.ok(&["ip", &started[1]]);
    world.ok(&["exec", &started[0], "ping", "-c", "1", "-W", "30", &peer]);

    // What a clone has used and given up is not taken out of the memory that it shares: no balloon is there
    // to do so.
    let script = "dd if=/dev/zero of=/dev/shm/fill bs=1M count=200 && rm /dev/shm/fill; \
                  ! grep -l 0x0005 /sys/bus/virtio/devices/*/device";
    world.ok(&["exec", &started[0], "sh", "-c", script]);
    world.ok(&["template", "verify"]);

    // Eighteen more, without the addresses, which go round.
    world.ok(&[&["rm", "-f"][..], &[&started[0], &started[1]]].concat());
    for _ in started.len()..20 {
        let words = ["run", "--rm", "--start", "template", "base", "sh", "-c", IDENTITY];
        for line in world.ok(&words).lines().take(4) {
            assert!(seen.insert(line.to_owned()), "two have {line}");
        }
    }
}

#[test]
fn a_template_that_is_not_as_it_was_made_is_made_anew() {
    let templates = Templates::new("templates", Vms::One);
    assert_eq!(templates.hi("cold"), "hi");
    assert!(templates.all().is_empty(), "a cold start needs none");
    assert_eq!(templates.hi("template"), "hi");
    let folder = templates.the_one();
    let first = made(&folder);
    assert_eq!(templates.hi("template"), "hi");
    assert_eq!(made(&folder), first, "it is made once");

    // One byte of the kernel.
    let ram = File::options().write(true).open(folder.join("ram")).expect("the memory");
    ram.write_all_at(b"x", 20 << 20).expect("a byte");
    drop(ram);
    assert_eq!(templates.hi("template"), "hi");
    let second = made(&folder);
    assert_ne!(second, first);

    // A state that is none: QEMU refuses it, and so does whoever insists on a template.
    fs::write(folder.join("state"), b"nothing").expect("a file");
    assert_eq!(templates.hi("auto"), "hi");
    assert_ne!(made(&folder), second);

    // What people see of it, and take away.
    let ireko = |words: &[&str]| {
        run(templates.world.ireko(words).env("IREKO_CACHE", templates.cache.path())).ok()
    };
    let listed: serde_json::Value =
        serde_json::from_str(&ireko(&["template", "ls", "--json"])).expect("JSON");
    let key = listed[0]["key"].as_str().expect("a key").to_owned();
    assert_eq!((&listed[0]["memory_mib"], &listed[0]["in_use"]), (&512.into(), &false.into()));
    assert!(ireko(&["template", "ls"]).contains(&key));
    ireko(&["template", "verify"]);
    templates.the_one();
    assert_eq!(ireko(&["template", "rm", &key]).trim(), key);
    assert!(templates.all().is_empty());
    assert_eq!(templates.hi("template"), "hi");
    templates.the_one();

    // What a maker left that was killed.
    let left = folder
        .with_file_name(format!(".new-{}", folder.file_name().expect("a name").to_string_lossy()));
    fs::rename(&folder, &left).expect("a half-made template");
    fs::remove_file(left.join("template.json")).expect("its record");
    assert_eq!(templates.hi("template"), "hi");
    templates.the_one();
}

/// Whether a template in the making has content in this file.
fn in_the_making(templates: &Path, name: &str) -> bool {
    let entries = fs::read_dir(templates).into_iter().flatten().flatten();
    let mut found = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(".new-"))
        .filter_map(|entry| fs::metadata(entry.path().join(name)).ok());
    found.any(|meta| meta.blocks() > 0)
}

#[test]
fn a_template_whose_maker_is_killed_is_not_there_and_the_next_one_is_whole() {
    let templates = Templates::new("killed makers", Vms::One);
    let folder = templates.cache.path().join("templates");
    // While its kernel boots, and while it is saved.
    for file in ["ram", "state"] {
        let words = ["run", "--name", "box", "--start", "template", "base", "true"];
        let mut command = templates.world.ireko(&words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut started = command.spawn().expect("ireko runs");
        let deadline = Instant::now() + Duration::from_secs(120);
        while !in_the_making(&folder, file) {
            assert!(Instant::now() < deadline, "no {file} comes");
            std::thread::sleep(Duration::from_millis(1));
        }
        let shim = templates.world.process("shim");
        run(Command::new("kill").args(["-9", &shim.to_string()])).ok();
        let ended = started.wait().expect("an end");
        assert!(!ended.success(), "{file}: whoever waits for it is told");
        templates.world.ok(&["rm", "-f", "box"]);
        let made = templates.all().iter().any(|folder| folder.join("template.json").exists());
        assert!(!made, "{file}: nothing is published");
    }
    assert_eq!(templates.hi("template"), "hi");
    templates.the_one();
}

/// A file system in memory with less room than a guest takes; it goes with this value.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Option<Self> {
        let words = ["-t", "tmpfs", "-o", "size=24m", "tmpfs"];
        let mounted = run(Command::new("mount").args(words).arg(at));
        (mounted.code == 0).then(|| Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a process that was told to end may hold it a moment longer.
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn where_the_disk_is_full_no_template_is_made_and_a_container_starts_cold() {
    let templates = Templates::new("no room for templates", Vms::One);
    let folder = templates.cache.path().join("templates");
    fs::create_dir(&folder).expect("a folder");
    let Some(_room) = Small::mount(&folder) else {
        return eprintln!("skipped: mounting a tmpfs needs root");
    };
    templates.world.ok(&["run", "--name", "box", "base", "true"]);
    assert_eq!(templates.world.inspect("box", "/State/Origin"), "cold");
    assert!(templates.all().is_empty(), "nothing is left of it");
}

#[test]
fn where_no_template_can_be_made_a_container_starts_cold() {
    let templates = Templates::new("no templates", Vms::One);
    let folder = templates.cache.path().join("templates");
    fs::write(&folder, b"a file where the folder should be").expect("a file");
    let start =
        |start: &str| ["run", "--name", "box", "--start", start, "base", "true"].map(str::to_owned);
    let run = |words: &[String]| {
        templates.world.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    run(&start("auto")).ok();
    assert_eq!(templates.world.inspect("box", "/State/Origin"), "cold");
    templates.world.ok(&["rm", "box"]);
    let refused = run(&start("template"));
    assert!(refused.code == 128 || refused.code == 125, "{refused:#?}");
    assert!(refused.stderr.contains("cannot use a template"), "{refused:#?}");
}

/// A QEMU that crashes as it goes on from a template, as long as there are tickets for it in its folder.
const CRASHING: &str = r#"#!/bin/sh
here=$(dirname "$0")
case "$*" in
*"-incoming defer"*)
    for ticket in "$here"/ticket*; do
        [ -e "$ticket" ] && rm "$ticket" && kill -SEGV $$
    done ;;
esac
PATH=${PATH#*:} exec qemu-system-x86_64 "$@"
"#;

#[test]
fn a_qemu_that_crashes_on_the_way_is_launched_again_and_given_up_in_the_end() {
    let programs = tempfile::tempdir().expect("a folder");
    let qemu = programs.path().join("qemu-system-x86_64");
    fs::write(&qemu, CRASHING).expect("a program");
    fs::set_permissions(&qemu, fs::Permissions::from_mode(0o755)).expect("an executable");
    let templates = Templates::with_programs("crashing QEMU", Vms::One, Some(programs.path()));
    let tickets = |count: usize| {
        for number in 0..count {
            fs::write(programs.path().join(format!("ticket{number}")), b"").expect("a ticket");
        }
    };
    tickets(2);
    assert_eq!(templates.hi("template"), "hi");
    templates.the_one();
    assert!(!programs.path().join("ticket1").exists(), "it crashed twice");

    tickets(10);
    templates.world.ok(&["run", "--name", "box", "base", "true"]);
    assert_eq!(templates.world.inspect("box", "/State/Origin"), "cold");
    assert!(templates.all().is_empty(), "a template that nothing comes of is put away");
}
