//! Killed daemons and shims.

use ireko_e2e::World;
use ireko_e2e::programs::{await_death, kill};
use ireko_e2e::slots::Vms;
use std::fs;
use std::time::{Duration, Instant};

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
fn a_daemon_that_is_not_gone_yet_is_waited_for() {
    let world = World::new("daemon about to end", Vms::None);
    world.ok(&["ps"]);
    world.ok(&["daemon", "stop"]);
    // As a daemon does whose last work takes long: it listens no more, and has the lock.
    let ending = fs::File::open(world.root().join("lock")).expect("the root's lock");
    rustix::fs::flock(&ending, rustix::fs::FlockOperation::LockExclusive).expect("lock the root");
    let mut client = world.ireko(&["ps", "-q"]).spawn().expect("run ireko");
    while world.processes("daemon").is_empty() {
        std::thread::yield_now();
    }
    drop(ending);
    assert!(client.wait().expect("wait for ireko").success());
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

#[test]
fn a_commit_whose_daemon_is_killed_is_made_or_not_made() {
    let world = World::new("daemon killed in a commit", Vms::One);
    world.ok(&["run", "-d", "--name", "web", "base", "sleep", "1000"]);
    for round in 0..3 {
        let file = format!("/kept{round}");
        world.ok(&["exec", "web", "sh", "-c", &format!("echo {round} > {file}; sync")]);
        let daemon = world.process("daemon");
        let name = format!("half{round}");
        let mut commit = world.ireko(&["commit", "web", &name]).spawn().expect("run ireko");
        await_journal_entry(&world);
        kill(daemon);
        await_death(daemon);
        commit.wait().expect("wait for ireko");

        // The container goes on, whatever became of the commit, and the next one takes it up.
        assert_eq!(world.ok(&["exec", "web", "cat", &file]), round.to_string());
        let whole = format!("whole{round}");
        world.ok(&["commit", "web", &whole]);
        assert!(world.ok(&["images"]).contains(&whole));
    }
    world.ok(&["rm", "-f", "web"]);
    let seen = world.ok(&["run", "--rm", "whole2", "sh", "-c", "cat /kept0 /kept1 /kept2"]);
    assert_eq!(seen, "0\n1\n2");
    assert_eq!(journal(&world), 0, "no commit is left half done");
}

/// The moment to kill: a commit is under way from its journal entry on.
fn await_journal_entry(world: &World) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while journal(world) == 0 {
        assert!(Instant::now() < deadline, "the commit never began");
        std::thread::yield_now();
    }
}

/// How many verbs are under way: a folder each, beside the store's reserve.
fn journal(world: &World) -> usize {
    let entries = fs::read_dir(world.root().join("journal")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_dir()).count()
}
