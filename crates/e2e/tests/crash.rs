//! Killed daemons and shims.

use ireko_e2e::World;
use ireko_e2e::programs::{await_death, kill};
use ireko_e2e::slots::Vms;

#[test]
fn a_container_outlives_the_daemon() {
    let world = World::new("daemon killed", Vms::One);
    let script = "echo before; while [ ! -e /go ]; do sleep 1; done; echo after; exit 3";
    world.ok(&["run", "-d", "--name", "web", "base", "sh", "-c", script]);
    let daemon = world.process("daemon");
    kill(daemon);
    await_death(daemon);

    assert!(world.ok(&["ps"]).contains("web"), "shown running by the next daemon");
    assert_ne!(world.process("daemon"), daemon);
    assert_eq!(world.ok(&["exec", "web", "echo", "still here"]), "still here");

    // It may even end while no daemon is there to see it.
    world.ok(&["exec", "web", "touch", "/go"]);
    assert_eq!(world.ok(&["wait", "web"]), "3");
    assert_eq!(world.ok(&["logs", "web"]), "before\nafter");
}

#[test]
fn an_end_that_no_daemon_saw_is_made_up_for() {
    let world = World::new("daemon away at the end", Vms::One);
    world.ok(&["run", "-d", "--rm", "--name", "gone", "base", "sleep", "1000"]);
    world.ok(&["exec", "gone", "true"]);
    let shim = world.process("shim");
    let daemon = world.process("daemon");
    kill(daemon);
    await_death(daemon);
    kill(shim);
    await_death(shim);
    assert_eq!(world.ok(&["ps", "-aq"]), "", "--rm is made up for");
}

#[test]
fn a_killed_shim_loses_nothing_that_was_synced() {
    let world = World::new("shim killed", Vms::One);
    world.ok(&["run", "-d", "--name", "db", "base", "sleep", "1000"]);
    let write = "dd if=/dev/urandom of=/data bs=1M count=20 2>/dev/null; sync; sha256sum /data";
    let hash = world.ok(&["exec", "db", "sh", "-c", write]);
    let shim = world.process("shim");
    kill(shim);
    await_death(shim);

    world.run(&["wait", "db"]);
    assert_eq!(world.inspect("db", "/State/Status"), "exited");
    let reason = world.inspect("db", "/State/Error");
    assert!(reason.as_str().is_some_and(|text| text.contains("shim")), "{reason}");

    world.ok(&["start", "db"]);
    assert_eq!(world.ok(&["exec", "db", "sha256sum", "/data"]), hash);
}
