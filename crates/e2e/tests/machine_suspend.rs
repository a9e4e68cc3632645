//! Machines that are suspended: they go on once, as they were, or not at all.

use ireko_e2e::World;
use ireko_e2e::machine::{PATIENCE, TINY, await_line, import_boot_sector, leave, sit_down};
use ireko_e2e::programs::{await_death, kill, kill_if_there, run};
use ireko_e2e::slots::Vms;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

#[test]
fn a_suspended_machine_goes_on_once_and_only_as_it_was() {
    let world = World::new("machine suspended", Vms::One);
    import_boot_sector(&world, TINY, "tiny");
    world.ok(&["create", "--name", "app", "base", "true"]);
    world.run(&["suspend", "app"]).fails_with(1, "not a whole operating system");
    world.ok(&["run", "-d", "--rm", "--name", "brief", "-m", "64m", "tiny"]);
    world.run(&["suspend", "brief"]).fails_with(1, "is removed at its end");
    world.ok(&["kill", "brief"]);

    world.ok(&["run", "-d", "--name", "box", "--restart", "always", "-m", "64m", "tiny"]);
    await_line(&world, "box", "^ready");
    let folder = world.container_dir("box");
    let saved = folder.join("suspended");
    world.ok(&["suspend", "box"]);
    assert_eq!(world.inspect("box", "/State/Status"), "exited", "no policy starts it");
    assert_eq!(world.inspect("box", "/State/Suspended"), true);
    assert_eq!(world.ok(&["wait", "box"]), "0");
    world.run(&["suspend", "box"]).fails_with(1, "is not running");
    world.run(&["commit", "box", "x"]).fails_with(1, "is suspended");
    assert!(world.ok(&["container", "ls", "-a"]).contains("Suspended"));

    // A new daemon finds it so, and it goes on: it does not say that it is ready once more.
    let daemon = world.process("daemon");
    kill(daemon);
    await_death(daemon);
    world.ok(&["start", "box"]);
    assert_eq!(world.inspect("box", "/State/Origin"), "suspended");
    assert!(!saved.join("vm.json").exists(), "it goes on once");
    let mut console = sit_down(&world, "box");
    console.type_keys("still");
    console.expect("still");
    leave(console);
    assert_eq!(world.ok(&["logs", "box"]).matches("ready").count(), 1, "it did not boot again");

    // What was saved is not used where it is damaged, nor where the disk is another since.
    world.ok(&["suspend", "box"]);
    let state = fs::File::options().read(true).write(true).open(saved.join("state")).expect("open");
    let mut byte = [0];
    state.read_exact_at(&mut byte, 4096).expect("read");
    state.write_all_at(&[!byte[0]], 4096).expect("damage it");
    world.run(&["start", "box"]).fails_with(1, "is not as it was saved");
    assert_eq!(world.inspect("box", "/State/Suspended"), true);
    state.write_all_at(&byte, 4096).expect("mend it");
    let disk = fs::read_dir(&folder)
        .expect("its folder")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "vhdx"))
        .expect("its disk");
    world.ok(&["start", "box"]);
    world.ok(&["suspend", "box"]);
    world.ok(&["vhd", "compact", disk.to_str().expect("a path")]);
    world.run(&["start", "box"]).fails_with(1, "its disks were written to");
    world.run(&["start", "box"]).fails_with(1, "ireko suspend --drop");

    // Dropped, it boots.
    world.ok(&["suspend", "--drop", "box"]);
    assert!(!saved.exists());
    world.run(&["suspend", "--drop", "box"]).fails_with(1, "is not suspended");
    world.ok(&["start", "box"]);
    await_line(&world, "box", "^ready");

    // A shim that is killed leaves no half of it.
    world.ok(&["update", "--restart", "no", "box"]);
    let record = fs::read_to_string(folder.join("shim.json")).expect("its shim's record");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    kill(u32::try_from(record["pid"].as_u64().expect("a pid")).expect("a pid"));
    world.run(&["wait", "box"]);
    assert_eq!(world.inspect("box", "/State/Suspended"), false);
    world.ok(&["rm", "-f", "box"]);

    world.run(&["run", "--nested", "base", "true"]).fails_with(125, "--nested");
    let nested = world.run(&["run", "-d", "--nested", "-m", "64m", "tiny"]);
    let reason = "no virtual machines can run in this one";
    assert!(nested.code == 0 || nested.stderr.contains(reason), "{nested:?}");
}

/// It runs, and is the one that it was: it says once that it is ready.
#[track_caller]
fn goes_on(world: &World) {
    let mut console = sit_down(world, "box");
    console.type_keys("still");
    console.expect("still");
    leave(console);
    assert_eq!(world.ok(&["logs", "box"]).matches("ready").count(), 1, "it did not boot again");
}

/// Begins to suspend, and kills a process as soon as there is this of what is saved.
fn kill_when_there(world: &World, personality: &str, sign: &Path) {
    let victim = world.process(personality);
    let mut suspend = world.ireko(&["suspend", "box"]);
    let suspend = suspend.stdout(Stdio::null()).stderr(Stdio::null());
    let mut suspend = suspend.spawn().expect("run ireko suspend");
    let deadline = Instant::now() + PATIENCE;
    while !sign.exists() {
        assert!(Instant::now() < deadline, "{} is never there", sign.display());
        std::hint::spin_loop();
    }
    // A shim that is done is gone by itself.
    kill_if_there(victim);
    await_death(victim);
    // It may have been told before.
    suspend.wait().expect("it ends");
}

#[test]
fn a_suspension_is_whole_or_was_not_whoever_is_killed_meanwhile() {
    let world = World::new("machine suspended by the killed", Vms::One);
    import_boot_sector(&world, TINY, "tiny");
    world.ok(&["run", "-d", "--name", "box", "--restart", "always", "-m", "64m", "tiny"]);
    await_line(&world, "box", "^ready");
    let saved = world.container_dir("box").join("suspended");
    let record = saved.join("vm.json");

    // What a shim has begun it ends, without the daemon; the next one finds the machine suspended.
    for sign in [&saved, &saved.join("state"), &record] {
        kill_when_there(&world, "daemon", sign);
        world.ok(&["wait", "box"]);
        assert_eq!(world.inspect("box", "/State/Suspended"), true, "{}", sign.display());
        assert_eq!(world.inspect("box", "/State/Status"), "exited", "no policy starts it");
        world.ok(&["start", "box"]);
        assert_eq!(world.inspect("box", "/State/Origin"), "suspended");
        goes_on(&world);
    }

    // A shim that is killed takes its VM with it: what it had saved is all there, or of no use.
    world.ok(&["rm", "-f", "box"]);
    for what in ["", "state", "vm.json"] {
        world.ok(&["run", "-d", "--name", "box", "-m", "64m", "tiny"]);
        await_line(&world, "box", "^ready");
        let saved = world.container_dir("box").join("suspended");
        kill_when_there(&world, "shim", &saved.join(what));
        world.run(&["wait", "box"]);
        let is_whole = saved.join("vm.json").exists();
        assert_eq!(world.inspect("box", "/State/Suspended"), is_whole, "{what}");
        world.ok(&["start", "box"]);
        match is_whole {
            true => goes_on(&world),
            false => assert_eq!(world.inspect("box", "/State/Origin"), "cold"),
        }
        world.ok(&["rm", "-f", "box"]);
    }
}

#[test]
fn a_machine_that_finds_no_room_to_be_suspended_runs_on() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting a small tmpfs needs root");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mount = |args: &[&str]| {
        run(std::process::Command::new(args[0]).args(&args[1..]).arg(folder.path())).ok()
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs"]);
    {
        let world = World::at("machine suspended without room", folder.path(), Vms::One);
        import_boot_sector(&world, TINY, "tiny");
        world.ok(&["run", "-d", "--name", "box", "-m", "64m", "tiny"]);
        await_line(&world, "box", "^ready");
        let saved = world.container_dir("box").join("suspended");
        let filler = folder.path().join("filler");
        // Whatever fits.
        let _ = fs::write(&filler, vec![1; 96 << 20]);
        world.run(&["suspend", "box"]).fails_with(1, "No space left");
        assert!(!saved.exists(), "nothing is left of it");
        assert_eq!(world.inspect("box", "/State/Running"), true);
        fs::remove_file(&filler).expect("remove the filler");
        goes_on(&world);
        world.ok(&["suspend", "box"]);
        world.ok(&["start", "box"]);
        goes_on(&world);
    }
    // Lazily: a process that was told to end may hold it a moment longer.
    mount(&["umount", "-l"]);
}
