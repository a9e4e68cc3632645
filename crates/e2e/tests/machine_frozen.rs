//! A machine whose agent is ended or stopped at the worst moment, and one whose kernel hangs.

use ireko_e2e::World;
use ireko_e2e::agent_line::AgentLine;
use ireko_e2e::machine::{PATIENCE, await_line, debian, log_in};
use ireko_e2e::programs::{await_death, kill};
use ireko_e2e::slots::Vms;
use ireko_protocol::agent::{ExitStatus, Reply, RequestBody};
use std::process::Stdio;
use std::thread;

/// Its agent is ended, or stopped, while its file systems are held still: they go on all the same. What is
/// written stays blocked where they do not, and the test with it.
fn nobody_thaws(world: &World) {
    let mut line = AgentLine::take(world, "box");
    let first = line.hail_another(None, PATIENCE);
    let killed = line.script("read go; kill -9 $PPID", PATIENCE);
    assert_eq!(line.ask(RequestBody::Freeze, PATIENCE), Reply::Done);
    line.say(killed, "go\n");
    // The system has started it again.
    line.hail_another(Some(&first), PATIENCE);
    let writes = line.script("read go; echo there > /root/mark; sync; cat /root/mark", PATIENCE);
    line.say(writes, "go\n");
    assert_eq!(line.await_exit(writes, PATIENCE), ExitStatus::Code(0));
    assert_eq!(line.heard, b"there\n");

    let script = "read go; kill -STOP $PPID; echo more > /root/mark; kill -CONT $PPID";
    let stopped = line.script(script, PATIENCE);
    assert_eq!(line.ask(RequestBody::Freeze, PATIENCE), Reply::Done);
    line.say(stopped, "go\n");
    assert_eq!(line.await_exit(stopped, PATIENCE), ExitStatus::Code(0));
    let thawed = line.ask(RequestBody::Thaw, PATIENCE);
    assert_eq!(thawed, Reply::Thawed { was_frozen: false }, "somebody else thawed them");
}

/// Ireko's agent is there and does nothing: the other one is asked.
fn our_agent_stands_still(world: &World) {
    let mut stopper = world.ireko(&["exec", "box", "sh", "-c", "kill -STOP $PPID"]);
    let mut stopper = stopper.stdout(Stdio::null()).spawn().expect("run ireko exec");
    let mut console = log_in(world, "box");
    console
        .type_keys("while ! grep -q '^State:.T' /proc/$(pidof ireko-agent)/status; do :; done\r");
    console.type_keys("echo sto''pped\r");
    console.expect("stopped");
    let said = world.run(&["commit", "box", "by-the-other"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "the other agent held it still");
    console.type_keys("kill -CONT $(pidof ireko-agent)\r");
    assert!(stopper.wait().expect("it ends").success());
    assert_eq!(world.ok(&["exec", "box", "echo", "back"]), "back");

    // From here on nothing in it runs but this.
    console.type_keys("echo -1 > /proc/sys/kernel/sched_rt_runtime_us\r");
    console.type_keys("chrt -f 99 sh -c 'echo hu\"\"ng > /dev/ttyS0; while :; do :; done'\r");
    console.expect("hung");
}

#[test]
fn a_machine_that_hangs_keeps_nobody_waiting_and_its_file_systems_are_not_left_frozen() {
    let Some(disk) = debian("bios") else { return };
    let world = World::new("debian that hangs", Vms::One);
    world.ok(&["image", "import", disk.to_str().expect("a path"), "debian-server"]);
    world.ok(&["image", "prepare", "debian-server", "prepared"]);
    world.ok(&["run", "-d", "--name", "box", "--hostname", "debian", "prepared"]);
    nobody_thaws(&world);
    await_line(&world, "box", "login:");
    our_agent_stands_still(&world);

    let own = world.inspect("box", "/NetworkSettings/IPAddress");
    thread::scope(|scope| {
        scope.spawn(|| {
            world.run(&["exec", "box", "true"]).fails_with(126, "did not answer within 60 s");
        });
        scope.spawn(|| assert_eq!(world.ok(&["ip", "box"]), own, "what its network keeps for it"));
        scope.spawn(|| {
            let said = world.run(&["commit", "box", "cut"]);
            assert!(said.stderr.contains("as after a power cut"), "{said:?}");
        });
        scope.spawn(|| {
            let copied = world.run(&["cp", "box:/etc/hostname", "-"]);
            copied.fails_with(1, "did not answer within 60 s");
        });
    });
    assert_eq!(world.inspect("box", "/State/Running"), true);

    // Nobody in it is asked while it is paused, and nobody waited for.
    world.ok(&["pause", "box"]);
    assert_eq!(world.ok(&["ip", "box"]), own);
    let said = world.run(&["commit", "box", "cut"]);
    assert!(said.stderr.contains("as after a power cut"), "{said:?}");
    world.run(&["cp", "box:/etc/hostname", "-"]).fails_with(1, "is paused");
    world.run(&["exec", "box", "true"]).fails_with(1, "is paused");

    // A new daemon finds it so.
    let daemon = world.process("daemon");
    kill(daemon);
    await_death(daemon);
    world.ok(&["stop", "-t", "1", "box"]);
    assert_eq!(world.inspect("box", "/State/ExitCode"), 137);
    // What it had written is there: its disk is looked at by another system.
    let mark = world.ok(&["cp", "box:/root/mark", "-"]);
    assert!(mark.contains("more"), "{mark:?}");
}
