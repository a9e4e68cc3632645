//! `run` as a person does it: by `ireko`, and by the real docker clients.

use ireko_e2e::docker::{self, docker};
use ireko_e2e::programs::run_with_input;
use ireko_e2e::slots::Vms;
use ireko_e2e::terminal::Terminal;
use ireko_e2e::{World, run};
use std::process::Command;

/// The same four runs, whoever sends them.
#[track_caller]
fn four_runs(command: impl Fn(&[&str]) -> Command) {
    let said = run(&mut command(&["run", "--rm", "base", "echo", "hi"])).ok();
    assert_eq!(said, "hi\n");

    run(&mut command(&["run", "--rm", "base", "sh", "-c", "exit 42"])).fails_with(42, "");

    let counted =
        run_with_input(&mut command(&["run", "-i", "--rm", "base", "wc", "-c"]), b"abc\n").ok();
    assert_eq!(counted.trim(), "4");

    let mut terminal = Terminal::open(&command(&["run", "-it", "--rm", "base", "sh"]));
    terminal.expect("# ");
    terminal.type_keys("tty; stty size; echo $((6*7))\r");
    terminal.expect("/dev/pts/");
    terminal.expect("24 80");
    terminal.expect("42");
    terminal.resize(33, 99);
    // The shell learns of the new size by a signal on its way; ask until it knows.
    terminal.type_keys("until stty size | grep '33 99'; do :; done\r");
    terminal.expect("33 99\r\n");
    // Typed once the shell has left its line editor, which takes keys raw; and the interrupt once
    // `cat` reads: before, the shell would take it itself.
    terminal.type_keys("echo rea''dy; cat\r");
    terminal.expect("ready\r\n");
    terminal.type_keys("echoed\r");
    terminal.expect("echoed\r\nechoed");
    terminal.type_keys("\u{3}");
    terminal.expect("# ");
    terminal.type_keys("exit 7\r");
    assert_eq!(terminal.exit_code(), 7);
}

#[test]
fn ireko_runs_commands_in_vms() {
    let world = World::new("ireko run", Vms::One);
    four_runs(|args| world.ireko(args));
    assert_eq!(world.ok(&["ps", "-aq"]), "", "--rm leaves nothing");
}

#[test]
fn docker_clients_run_commands_in_vms() {
    let clients = docker::clients();
    assert!(!clients.is_empty(), "no docker client: `make fixtures` gets Debian's");
    for (client, version) in clients {
        let world = World::new(&version, Vms::One);
        // The daemon is ours to start: docker knows nothing of it.
        world.ok(&["version"]);
        four_runs(|args| docker(&client, &world, args));
    }
}

#[test]
fn the_docker_client_sees_the_whole_life_of_a_container() {
    for (client, version) in docker::clients() {
        let world = World::new(&format!("life by {version}"), Vms::One);
        world.ok(&["version"]);
        let ok = |args: &[&str]| docker::ok(&client, &world, args);
        assert!(ok(&["version"]).contains("Server"));
        assert!(ok(&["info"]).contains("Containers: 0"));

        let id = ok(&[
            "run",
            "-d",
            "--name",
            "web",
            "base",
            "sh",
            "-c",
            "echo up; echo err >&2; exec sleep 1000",
        ]);
        assert_eq!(id.len(), 64);
        assert!(ok(&["ps"]).contains("web"));
        assert_eq!(ok(&["exec", "web", "sh", "-c", "echo $((40+2))"]), "42");
        run(&mut docker(&client, &world, &["exec", "web", "sh", "-c", "exit 5"])).fails_with(5, "");
        run(&mut docker(&client, &world, &["exec", "web", "nonesuch"])).fails_with(127, "");
        let elsewhere = ["exec", "-w", "/nope", "web", "true"];
        run(&mut docker(&client, &world, &elsewhere)).fails_with(127, "");
        run(&mut docker(&client, &world, &["exec", "web", "ls", "/nope"])).fails_with(1, "No such");
        let logs = run(&mut docker(&client, &world, &["logs", "web"]));
        assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("up\n", "err\n"));
        assert!(ok(&["inspect", "web"]).contains("\"Running\": true"));

        ok(&["commit", "web", "webimage:v1"]);
        assert!(ok(&["images"]).contains("webimage"));
        ok(&["tag", "webimage:v1", "other:v2"]);
        assert!(!ok(&["images", "other"]).contains("webimage"), "only what was asked for");
        ok(&["rmi", "other:v2"]);
        ok(&["stop", "-t", "1", "web"]);
        assert_eq!(ok(&["inspect", "-f", "{{.State.ExitCode}}", "web"]), "137");
        ok(&["rm", "web"]);
        ok(&["rmi", "webimage:v1"]);
        assert!(!ok(&["images"]).contains("webimage"));
        run(&mut docker(&client, &world, &["inspect", "web"])).fails_with(1, "No such object");
    }
}

#[test]
fn a_container_knows_its_name_environment_user_and_size() {
    let world = World::new("options of run", Vms::One);
    let script =
        "hostname; echo $GREETING; id -u; pwd; nproc; grep -c ' / ext4 ' /proc/mounts; echo $$";
    let said = world.ok(&[
        "run",
        "--rm",
        "-h",
        "nest",
        "-e",
        "GREETING=konnichiwa",
        "-u",
        "1000:1000",
        "-w",
        "/tmp/deep",
        "--cpus",
        "2",
        "-m",
        "256m",
        "base",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        ["nest", "konnichiwa", "1000", "/tmp/deep", "2", "1", "1"]
    );
    let memory =
        world.ok(&["run", "--rm", "-m", "256m", "base", "sh", "-c", "grep MemTotal /proc/meminfo"]);
    let kib: u64 = memory.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    assert!((150 * 1024..=256 * 1024).contains(&kib), "{memory}");
}
