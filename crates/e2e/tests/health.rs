//! Health checks and restart policies, and what `update` changes.

use ireko_e2e::World;
use ireko_e2e::docker::{self, docker};
use ireko_e2e::slots::Vms;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Fails while the file is missing, and says so.
const CHECK: &str = "cat /well || { echo not yet; exit 1; }";

/// The first so many events of a kind that this daemon tells of, past ones too.
#[track_caller]
fn events(client: &Path, world: &World, kind: &str, count: usize) -> Vec<String> {
    let filter = format!("event={kind}");
    let told = docker(
        client,
        world,
        &["events", "--since", "1", "--filter", &filter, "--format", "{{.Action}}"],
    );
    let mut bounded = Command::new("timeout");
    bounded.arg("200").arg(told.get_program()).args(told.get_args());
    let mut child = bounded.stdout(Stdio::piped()).spawn().expect("docker events");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let lines: Vec<_> = lines.take(count).map(|line| line.expect("a line")).collect();
    child.kill().expect("end docker events");
    child.wait().expect("its end");
    assert_eq!(lines.len(), count, "{kind}: {lines:?}");
    lines
}

#[test]
fn a_containers_health_is_what_its_check_says_under_every_daemon() {
    let world = World::new("health", Vms::One);
    let client = docker::client();
    // Starts the daemon.
    world.ok(&["ps"]);
    let with_check = [
        "run",
        "-d",
        "--name",
        "web",
        "--health-cmd",
        CHECK,
        "--health-interval",
        "300ms",
        "--health-retries",
        "2",
        "--health-timeout",
        "60s",
        "base",
        "sleep",
        "1000",
    ];
    docker::ok(&client, &world, &with_check);
    let unhealthy = world.run(&["wait", "--for", "healthy", "--timeout", "120", "web"]);
    assert!(unhealthy.code != 0 && unhealthy.stderr.contains("not yet"), "{}", unhealthy.stderr);
    assert!(world.ok(&["ps"]).contains("(unhealthy)"));
    let first = world.inspect("web", "/State/Health/Log/0");
    assert!(first["ExitCode"] == 1 && first["Output"].as_str().is_some(), "{first}");

    world.ok(&["exec", "web", "touch", "/well"]);
    events(&client, &world, "health_status: healthy", 1);
    assert_eq!(world.ok(&["wait", "--for", "healthy", "web"]), "web");
    let healthy = docker::ok(&client, &world, &["ps", "-q", "--filter", "health=healthy"]);
    assert_eq!(healthy.lines().count(), 1);

    // A new daemon knows it, and goes on checking.
    world.ok(&["daemon", "stop"]);
    assert!(world.ok(&["ps"]).contains("(healthy)"));
    world.ok(&["exec", "web", "rm", "/well"]);
    events(&client, &world, "health_status: unhealthy", 1);
    let checks = world.inspect("web", "/State/Health/Log");
    assert!(checks.as_array().is_some_and(|checks| (1..=5).contains(&checks.len())), "{checks}");

    // A check that takes too long is a failure, and does not run on.
    let late = ["--health-cmd", "exec sleep 777", "--health-timeout", "1s"];
    let rest = ["--health-interval", "100ms", "--health-retries", "1", "base", "sleep", "1000"];
    world.ok(&["rm", "-f", "web"]);
    world.ok(&[&["run", "-d", "--name", "late"], &late[..], &rest].concat());
    let ran = world.run(&["wait", "--for", "healthy", "--timeout", "120", "late"]);
    assert!(ran.stderr.contains("Health check exceeded timeout"), "{}", ran.stderr);

    world.ok(&["create", "--name", "none", "base"]);
    let none = world.run(&["wait", "--for", "healthy", "none"]);
    assert!(none.code != 0, "{}", none.stderr);
}

#[test]
fn restart_policies_are_kept_and_can_be_changed() {
    let world = World::new("restart", Vms::One);
    let client = docker::client();
    // Starts the daemon.
    world.ok(&["ps"]);
    let again = ["run", "-d", "--name", "web", "--restart", "on-failure:1", "base"];
    docker::ok(&client, &world, &[&again[..], &["sh", "-c", "exit 3"]].concat());
    events(&client, &world, "die", 2);
    assert_eq!(world.inspect("web", "/State/Status"), "exited");
    assert_eq!(world.inspect("web", "/RestartCount"), 1);

    let update = ["update", "--restart", "unless-stopped", "-m", "256m", "web"];
    assert_eq!(docker::ok(&client, &world, &update), "web");
    assert_eq!(world.inspect("web", "/HostConfig/RestartPolicy/Name"), "unless-stopped");
    assert_eq!(world.inspect("web", "/HostConfig/Memory"), 256 << 20);
    let warned = docker::ok(&client, &world, &["update", "--cpu-shares", "5", "web"]);
    assert!(warned.contains("CpuShares has no effect"), "{warned}");
    world.ok(&["rm", "web"]);

    // One that its user stopped stays so under a new daemon.
    world.ok(&["run", "-d", "--name", "db", "base", "sleep", "1000"]);
    world.ok(&["update", "--restart", "unless-stopped", "db"]);
    world.ok(&["update", "-m", "256m", "db"]);
    let limit = world.ok(&["exec", "db", "cat", "/sys/fs/cgroup/memory.max"]);
    assert_eq!(limit, (256 << 20).to_string());
    let fixed = world.run(&["update", "-m", "4g", "db"]);
    assert!(fixed.code != 0 && fixed.stderr.contains("Cannot update container"), "{fixed:?}");
    world.ok(&["stop", "-t", "0", "db"]);
    world.ok(&["daemon", "stop"]);
    assert_eq!(world.ok(&["ps", "-q"]), "");
    let pruned = docker::ok(&client, &world, &["system", "prune", "-f"]);
    assert!(pruned.contains("Total reclaimed space"), "{pruned}");
    assert_eq!(world.ok(&["ps", "-aq"]), "");
}
