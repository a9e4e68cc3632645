//! Commit, stopped and running: what is in the image, and what it costs.

use ireko_e2e::World;
use ireko_e2e::slots::Vms;
use ireko_e2e::witness;
use std::path::PathBuf;

#[test]
fn a_stopped_container_becomes_an_image_that_others_start_from() {
    let world = World::new("commit stopped", Vms::One);
    world.ok(&[
        "run",
        "--name",
        "first",
        "base",
        "sh",
        "-c",
        "echo one > /one; rm /etc/os-release",
    ]);
    let scratch = world.container_dir("first").join("base.vhdx");
    let info = ireko_disk::vhdx::info(&scratch).expect("read the scratch disk");
    assert!(!info.dirty_log, "a container that ended leaves a clean disk");
    world.ok(&["commit", "first", "one"]);
    world.ok(&["rm", "first"]);
    assert_eq!(world.ok(&["run", "--rm", "one", "cat", "/one"]), "one");

    world.ok(&["run", "--name", "second", "one", "sh", "-c", "echo two > /two"]);
    world.ok(&["commit", "second", "two"]);
    world.ok(&["rm", "second"]);
    let seen = world.ok(&[
        "run",
        "--rm",
        "two",
        "sh",
        "-c",
        "cat /one /two; ls /etc/os-release 2>&1; true",
    ]);
    assert!(seen.starts_with("one\ntwo\n") && seen.contains("No such file"), "{seen}");

    let tree = world.ok(&["tree"]);
    let at = |name| tree.find(name).unwrap_or_else(|| panic!("{name} in\n{tree}"));
    assert!(at("base") < at("one") && at("one") < at("two"), "{tree}");

    // Every base opens in qemu-img; chains of every depth read the same by 7-Zip.
    let two = world.image_file("two");
    let chain = chain_of(&world, two);
    assert!(chain.len() >= 3, "{chain:?}");
    witness::qemu_img_accepts(chain.last().expect("a base"));
    let raw = world.root().join("two.raw");
    witness::seven_zip_reads_the_same(&chain, Some(&raw));
    witness::e2fsck_accepts(&raw);
    witness::seven_zip_reads_the_same(&chain[chain.len() - 2..], None);
}

/// Whenever it comes: before the process ends, while its VM ends, after.
#[test]
fn a_container_whose_run_is_just_ending_is_committed() {
    let world = World::new("commit at the end", Vms::One);
    for round in 0..4 {
        let (name, image) = (format!("short{round}"), format!("left{round}"));
        world.ok(&["run", "-d", "--name", &name, "base", "sh", "-c", "echo hi > /left; sync"]);
        world.ok(&["commit", &name, &image]);
        world.ok(&["wait", &name]);
        world.ok(&["commit", &name, &image]);
    }
    assert_eq!(world.ok(&["run", "--rm", "left3", "cat", "/left"]), "hi");
}

/// Nothing is written back at its end, so it must not become an image from then on.
#[test]
fn a_container_that_goes_at_its_end_is_committed_whole_or_not_at_all() {
    let world = World::new("commit with --rm", Vms::Two);
    let script = "echo hi > /left; echo written; exec sleep 1000";
    for round in 0..6 {
        let (name, image) = (format!("brief{round}"), format!("whole{round}"));
        world.ok(&["run", "-d", "--rm", "--name", &name, "base", "sh", "-c", script]);
        world.ok(&["wait", "--for", "log=written", &name]);
        let commit = |world: &World| world.run(&["commit", &name, &image]);
        let committed = match round % 2 {
            0 => {
                world.ok(&["kill", &name]);
                commit(&world)
            }
            _ => std::thread::scope(|scope| {
                let committed = scope.spawn(|| commit(&world));
                world.ok(&["kill", &name]);
                committed.join().expect("commit")
            }),
        };
        match committed.code {
            0 => assert_eq!(world.ok(&["run", "--rm", &image, "cat", "/left"]), "hi"),
            _ => committed.fails_with(1, "No such container"),
        }
    }
}

#[test]
fn a_running_container_is_committed_under_a_write_load_and_goes_on() {
    let world = World::new("commit running", Vms::Two);
    let load = "mkdir /load; i=0; while :; do i=$((i+1)); echo $i > /load/$i; \
                [ $((i % 50)) = 0 ] && sync; done";
    world.ok(&["run", "-d", "--name", "busy", "base", "sh", "-c", load]);
    world.ok(&["exec", "busy", "sh", "-c", "echo kept > /kept; sync"]);
    let before = world.ok(&["exec", "busy", "sh", "-c", "ls /load | wc -l"]);
    world.ok(&["commit", "busy", "snapshot"]);

    let file = world.image_file("snapshot");
    let hash = witness::sha256(&file);
    let write = "dd if=/dev/urandom of=/more bs=1M count=200 2>/dev/null && sync";
    world.ok(&["exec", "busy", "sh", "-c", write]);
    assert_eq!(witness::sha256(&file), hash, "a frozen layer changes no more");

    let after = world.ok(&["exec", "busy", "sh", "-c", "ls /load | wc -l"]);
    let count = |text: &str| text.trim().parse::<u64>().expect("a count");
    assert!(count(&after) > count(&before), "the load went on: {before} then {after}");
    assert_eq!(world.ok(&["run", "--rm", "snapshot", "cat", "/kept"]), "kept");
    let there =
        world.ok(&["run", "--rm", "snapshot", "sh", "-c", "ls /load | wc -l; ls /more 2>&1; true"]);
    assert!(count(there.lines().next().expect("a count")) >= count(&before), "{there}");
    assert!(there.contains("No such file"), "{there}");
    world.ok(&["rm", "-f", "busy"]);

    let raw = world.root().join("snapshot.raw");
    witness::seven_zip_reads_the_same(&chain_of(&world, file), Some(&raw));
    witness::e2fsck_accepts(&raw);
}

/// The files of an image, leaf first, as `ireko` names them.
fn chain_of(world: &World, leaf: PathBuf) -> Vec<PathBuf> {
    let mut chain = vec![leaf];
    loop {
        let info = ireko_disk::vhdx::info(&chain[chain.len() - 1]).expect("read a layer");
        match info.parent.and_then(|link| link.base_name()) {
            Some(name) => chain.push(world.root().join("images").join(name)),
            None => return chain,
        }
    }
}
