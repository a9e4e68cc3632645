//! Machines that are suspended: they go on once, as they were, or not at all.

use ireko_e2e::World;
use ireko_e2e::machine::{TINY, await_line, import_boot_sector, leave, sit_down};
use ireko_e2e::programs::{await_death, kill};
use ireko_e2e::slots::Vms;
use std::fs;
use std::os::unix::fs::FileExt;

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
}
