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

#[test]
fn a_log_is_kept_as_far_as_it_was_asked_for_and_followed_from_file_to_file() {
    let world = World::new("logs of several files", Vms::One);
    let log = |size: &str, files: &str| {
        ["--log-opt", &format!("max-size={size}"), "--log-opt", &format!("max-file={files}")]
            .map(str::to_owned)
    };
    let numbers = |from: u32| (from..=300).map(|number| format!("{number}\n")).collect::<String>();
    let begin = |name: &str, options: &[String]| {
        let script = "until [ -e /go ]; do sleep 0.1; done; seq 300";
        let options = options.iter().map(String::as_str);
        let words = ["run", "-d", "--name", name].into_iter().chain(options);
        world.ok(&words.chain(["base", "sh", "-c", script]).collect::<Vec<_>>());
    };

    begin("all", &log("2k", "50"));
    let mut follow = world.ireko(&["logs", "-f", "all"]);
    let follow = follow.stdout(std::process::Stdio::piped()).spawn().expect("run ireko");
    world.ok(&["exec", "all", "touch", "/go"]);
    let followed = follow.wait_with_output().expect("ireko logs");
    assert_eq!(String::from_utf8_lossy(&followed.stdout), numbers(1));
    assert_eq!(world.ok(&["logs", "--tail", "40", "all"]), numbers(261).trim_end());

    begin("last", &log("2k", "2"));
    world.ok(&["exec", "last", "touch", "/go"]);
    world.ok(&["wait", "last"]);
    let kept = world.ok(&["logs", "last"]);
    let first: u32 = kept.lines().next().and_then(|line| line.parse().ok()).expect("a number");
    assert!(first > 200, "{first}");
    assert_eq!(kept, numbers(first).trim_end());
    let files = std::fs::read_dir(world.container_dir("last")).expect("its folder").flatten();
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("log"));
    let sizes: Vec<_> = logs.map(|file| file.metadata().expect("a file").len()).collect();
    assert_eq!(sizes.len(), 2, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size < 2200), "{sizes:?}");
    world.run(&["run", "--log-opt", "max-size=none", "base"]).fails_with(125, "max-size");
}

/// The most memory that a process has taken so far, in KiB.
fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn what_a_container_prints_does_not_stay_in_its_shim() {
    let world = World::new("memory of a shim", Vms::One);
    let script = "echo before; until [ -e /go ]; do sleep 0.1; done; \
                  head -c 50331648 /dev/zero | tr '\\0' x; echo; echo after; sleep 1000";
    let log = ["--log-opt", "max-size=1m", "--log-opt", "max-file=2"];
    let words = ["run", "-d", "--name", "loud"];
    world.ok(&[&words[..], &log, &["base", "sh", "-c", script]].concat());
    world.ok(&["wait", "--for", "log=before", "loud"]);
    let shim = world.process("shim");
    let quiet = most_memory(shim);
    world.ok(&["exec", "loud", "touch", "/go"]);
    world.ok(&["wait", "--for", "log=after", "loud"]);
    let grown = most_memory(shim) - quiet;
    assert!(grown < 16 << 10, "{grown} KiB more for 48 MiB of output");
}
