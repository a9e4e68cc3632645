//! The stock docker client's verbs and options, one row a check: words, what goes in, what comes out on
//! each of both streams, and the exit code.
//!
//! The rows of a table share what the rows before have made. In words, `DIR` is a folder of the test's,
//! `'…'` keeps spaces; in what is expected, `…` stands for any text, for what clients of two ages word each in
//! its own way, too.

use ireko_e2e::docker::{client, docker, ok};
use ireko_e2e::programs::run_with_input;
use ireko_e2e::slots::Vms;
use ireko_e2e::terminal::Terminal;
use ireko_e2e::{Ran, World, run};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A check: words, standard input, exit code, standard output, standard error.
type Row = (&'static str, &'static str, i32, &'static str, &'static str);

struct Cli {
    world: World,
    client: PathBuf,
    checks: usize,
}

impl Cli {
    fn new(name: &str) -> Self {
        let world = World::new(name, Vms::One);
        // The daemon is ours to start: docker knows nothing of it.
        world.ok(&["version"]);
        fs::write(world.root().join("env"), "A=of a file\n# no variable\nB=2\n").expect("a file");
        fs::write(world.root().join("note"), "noted\n").expect("a file");
        Self { world, client: client(), checks: 0 }
    }

    fn command(&self, words: &str) -> Command {
        let words = words.replace("DIR", self.world.root().to_str().expect("a path"));
        let words: Vec<String> = split(&words);
        docker(&self.client, &self.world, &words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    #[track_caller]
    fn check_all(&mut self, rows: &[Row]) {
        let wrong: Vec<_> = rows.iter().filter_map(|row| self.check(*row)).collect();
        assert!(wrong.is_empty(), "{} checks failed:\n{}", wrong.len(), wrong.join("\n"));
    }

    fn check(&mut self, (words, input, code, out, err): Row) -> Option<String> {
        self.checks += 1;
        let Ran { code: exit, stdout, stderr, .. } =
            run_with_input(&mut self.command(words), input.as_bytes());
        let is_right = exit == code && matches(out, &stdout) && matches(err, &stderr);
        (!is_right).then(|| {
            format!(
                "docker {words}\n  is    {exit} {stdout:?} {stderr:?}\n  not   {code} {out:?} {err:?}"
            )
        })
    }

    fn has(&mut self, what: &str, is_so: bool) {
        self.checks += 1;
        assert!(is_so, "{what}");
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        eprintln!("      {} checks of docker's verbs and options", self.checks);
    }
}

/// Words as a shell would have them, but for everything other than blanks and `'`.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in text.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// Compares with a pattern in which `…` is any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

const ID: &str = "…\n";

const RUN: &[Row] = &[
    ("ps", "", 0, "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\n", ""),
    ("run --rm base echo hi", "", 0, "hi\n", ""),
    ("run --rm base sh -c 'echo out; echo err >&2; exit 42'", "", 42, "out\n", "err\n"),
    ("run --rm base nonesuch", "", 127, "", "docker: …executable file not found in $PATH…"),
    ("run --rm base /etc/passwd", "", 126, "", "docker: …permission denied…"),
    ("run --pull never nonesuch", "", 125, "", "docker: …No such image: nonesuch:latest…"),
    ("run nonesuch", "", 125, "", "Unable to find image 'nonesuch:latest' locally\n…"),
    ("run --nonesuch base", "", 125, "", "unknown flag: --nonesuch\n…"),
    (
        "run --rm --restart always base true",
        "",
        125,
        "",
        "…onflicting options: …--restart and --rm…",
    ),
    ("run --rm -i base cat", "typed\nin", 0, "typed\nin", ""),
    ("run --rm -i base wc -c", "", 0, "0\n", ""),
    ("run --rm base cat", "nobody reads it", 0, "", ""),
    ("run --rm -it base cat", "", 1, "", "…the input device is not a TTY…"),
    (
        "run --rm --pull always --env-file DIR/env -e C=d -e A2=3 -w /tmp/deep -u 1000:100 -h nest \
         --cidfile DIR/cid base sh -c 'echo $A $B $C $A2; pwd; id -u; id -g; hostname; cat'",
        "not read",
        0,
        "of a file 2 d 3\n/tmp/deep\n1000\n100\nnest\n",
        "…",
    ),
    (
        "run --rm --read-only --tmpfs /scratch --add-host db:10.9.8.7 --dns 192.0.2.1 --dns-search lan \
         --init base sh -c 'touch /f; touch /scratch/f && echo kept; grep -w db /etc/hosts; \
         cat /etc/resolv.conf; test $$ = 1 || echo a child'",
        "",
        0,
        "kept\n10.9.8.7\tdb\n…nameserver …a child\n",
        "touch: /f: Read-only file system\n",
    ),
    ("run --rm --cpus 2 -m 200m --entrypoint nproc base --all", "", 0, "2\n", ""),
    ("run --rm --name twice --network none base ls /sys/class/net", "", 0, "lo\n", ""),
    (
        "run --rm --user nobody-here base true",
        "",
        125,
        "",
        "docker: …unable to find user nobody-here…",
    ),
    ("run --name left base sh -c 'exit 3'", "", 3, "", ""),
    (
        "run --name left base true",
        "",
        125,
        "",
        "docker: …The container name \"/left\" is already in use…",
    ),
    ("ps -q", "", 0, "", ""),
    ("ps -a --format '{{.Names}} {{.Image}} {{.Status}}'", "", 0, "left base Exited (3) …\n", ""),
    ("ps -aq --filter exited=3 --filter name=lef --filter status=exited", "", 0, ID, ""),
    ("ps -aq --filter exited=4", "", 0, "", ""),
    ("ps -a --filter nonesuch=1", "", 1, "", "…invalid filter 'nonesuch'…"),
    ("ps -l --format {{.Names}}", "", 0, "left\n", ""),
    ("wait left", "", 0, "3\n", ""),
    ("start -a left", "", 3, "", ""),
    ("logs left", "", 0, "", ""),
    ("rm left", "", 0, "left\n", ""),
    ("rm left", "", 1, "", "…No such container: left…"),
];

/// Options that are kept, and those that are refused: no VM is needed to see that.
const CREATE: &[Row] = &[
    (
        "create --name full -it --label tier=front --label bare -e A=b --restart on-failure:3 --stop-signal \
         INT --stop-timeout 7 --health-cmd 'test -e /x' --health-interval 5s --health-timeout 3s \
         --health-retries 2 --health-start-period 1s -m 256m --cpus 1.5 --isolation hyperv --expose 81 \
         --read-only --init --tmpfs /t --add-host h:10.0.0.1 --dns 192.0.2.1 --hostname nest -w /w base echo a",
        "",
        0,
        ID,
        "",
    ),
    (
        "inspect -f '{{.Name}} {{.State.Status}} {{.Path}} {{.Args}}' full",
        "",
        0,
        "/full created echo [a]\n",
        "",
    ),
    (
        "inspect -f '{{json .Config.Labels}}' full",
        "",
        0,
        "{\"bare\":\"\",\"tier\":\"front\"}\n",
        "",
    ),
    (
        "inspect -f '{{.Config.Tty}} {{.Config.OpenStdin}} {{.Config.StdinOnce}}' full",
        "",
        0,
        "true true true\n",
        "",
    ),
    (
        "inspect -f '{{.Config.Hostname}} {{.Config.WorkingDir}} {{.Config.StopSignal}}' full",
        "",
        0,
        "nest /w INT\n",
        "",
    ),
    ("inspect -f '{{.Config.StopTimeout}}' full", "", 0, "7\n", ""),
    (
        "inspect -f '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}' full",
        "",
        0,
        "268435456 1500000000\n",
        "",
    ),
    (
        "inspect -f '{{json .HostConfig.RestartPolicy}}' full",
        "",
        0,
        "{\"Name\":\"on-failure\",\"MaximumRetryCount\":3}\n",
        "",
    ),
    (
        "inspect -f '{{json .Config.Healthcheck.Test}} {{.Config.Healthcheck.Retries}}' full",
        "",
        0,
        "[\"CMD-SHELL\",\"test -e /x\"] 2\n",
        "",
    ),
    (
        "inspect -f '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Init}} {{.HostConfig.Tmpfs}}' full",
        "",
        0,
        "true true map[/t:]\n",
        "",
    ),
    (
        "inspect -f '{{.HostConfig.ExtraHosts}} {{.HostConfig.Dns}}' full",
        "",
        0,
        "[h:10.0.0.1] [192.0.2.1]\n",
        "",
    ),
    ("inspect -f '{{json .Config.ExposedPorts}}' full", "", 0, "{\"81/tcp\":{}}\n", ""),
    ("inspect --type image full", "", 1, "[]\n", "…o such image: full…"),
    ("inspect nonesuch", "", 1, "[]\n", "…o such object: nonesuch…"),
    ("ps -a --filter label=tier=front --format {{.Names}}", "", 0, "full\n", ""),
    ("ps -a --filter label=tier=back --format {{.Names}}", "", 0, "", ""),
    ("ps -aq --no-trunc --filter ancestor=base --filter status=created", "", 0, ID, ""),
    ("create --isolation process base", "", 1, "", "…process…"),
    ("create --isolation default --name plain base true", "", 0, ID, ""),
    ("create --privileged base", "", 0, ID, ""),
    ("create --cap-add NET_ADMIN base", "", 0, ID, ""),
    ("create --cap-drop ALL base", "", 0, ID, ""),
    ("create --ulimit nofile=10 base", "", 0, ID, ""),
    ("create --security-opt no-new-privileges base", "", 0, ID, ""),
    ("create -v /tmp:/mnt base", "", 1, "", "…volumes…"),
    ("create --device /dev/null base", "", 1, "", "…evice…"),
    ("create --pid host base", "", 0, ID, "WARNING: …"),
    ("create --network host base", "", 1, "", "…network…"),
    ("create --memory-swappiness 5 base", "", 0, ID, "WARNING: …"),
    ("create --shm-size 1g base", "", 0, ID, ""),
    ("rename plain simple", "", 0, "", ""),
    ("rename simple full", "", 1, "", "…already in use…"),
    ("rename nonesuch other", "", 1, "", "…No such container: nonesuch…"),
    ("update --restart unless-stopped --cpus 2 -m 300m simple", "", 0, "simple\n", ""),
    (
        "inspect -f '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}' simple",
        "",
        0,
        "314572800 2000000000\n",
        "",
    ),
    ("update --cpu-shares 5 simple", "", 0, "simple\n…CpuShares has no effect…", ""),
    ("exec simple true", "", 1, "", "…is not running…"),
    ("kill simple", "", 1, "", "…is not running…"),
    ("top simple", "", 1, "", "…is not running…"),
    ("pause simple", "", 1, "", "…is not running…"),
    ("stop simple", "", 0, "simple\n", ""),
    ("attach simple", "", 1, "", "…ou cannot attach to a stopped container, start it first…"),
    ("container prune -f", "", 0, "Deleted Containers:\n…Total reclaimed space: …B\n", ""),
    ("ps -aq", "", 0, "", ""),
];

/// One that runs, with three lines in its log.
const LIVE: &[Row] = &[
    ("ps --format '{{.Names}} {{.Ports}}'", "", 0, "web 127.0.0.1:…->80/tcp\n", ""),
    ("ps --format '{{.Status}} {{.Command}}' --filter name=web", "", 0, "Up …\n", ""),
    ("inspect -f '{{.State.Running}} {{.State.Status}}' web", "", 0, "true running\n", ""),
    ("exec web echo hi", "", 0, "hi\n", ""),
    ("exec web sh -c 'echo o; echo e >&2; exit 5'", "", 5, "o\n", "e\n"),
    ("exec -i web cat", "to it", 0, "to it", ""),
    ("exec web cat", "not to it", 0, "", ""),
    ("exec -e X=y --env-file DIR/env web sh -c 'echo $X $B $GREETING'", "", 0, "y 2 hello\n", ""),
    ("exec -u 65534:1 web sh -c 'id -u; id -g'", "", 0, "65534\n1\n", ""),
    ("exec -w /tmp web pwd", "", 0, "/tmp\n", ""),
    ("exec -w /nonesuch web pwd", "", 127, "…", "…"),
    ("exec web nonesuch", "", 127, "…", "…"),
    ("exec web /etc/passwd", "", 126, "…", "…"),
    ("exec -u nobody-here web true", "", 126, "…", "…"),
    ("exec -d web touch /made", "", 0, "", ""),
    ("exec --privileged web true", "", 0, "", ""),
    ("exec -it web true", "", 1, "", "…the input device is not a TTY…"),
    ("exec nonesuch true", "", 1, "", "…No such container: nonesuch…"),
    ("logs web", "", 0, "one\ntwo\nthree\n", ""),
    ("logs --tail 2 web", "", 0, "two\nthree\n", ""),
    ("logs -n 0 web", "", 0, "", ""),
    ("logs --tail all --since 1h web", "", 0, "one\ntwo\nthree\n", ""),
    ("logs --since 2100-01-01T00:00:00Z web", "", 0, "", ""),
    ("logs --until 2000-01-01T00:00:00Z web", "", 0, "", ""),
    ("logs -t --tail 1 web", "", 0, "20…Z three\n", ""),
    ("logs nonesuch", "", 1, "", "…No such container: nonesuch…"),
    ("top web", "", 0, "UID…PID…CMD\n…sh -c…", ""),
    ("stats --no-stream --format '{{.Name}} {{.PIDs}}' web", "", 0, "web …\n", ""),
    ("port web", "", 0, "80/tcp -> 127.0.0.1:…\n", ""),
    ("port web 80", "", 0, "127.0.0.1:…\n", ""),
    ("port web 81", "", 1, "", "…o public port '81…' published for web…"),
    ("diff web", "", 0, "…A /made\n…", ""),
    ("cp DIR/note web:/tmp/note", "", 0, "", "…"),
    ("exec web cat /tmp/note", "", 0, "noted\n", ""),
    ("cp web:/tmp/note DIR/back", "", 0, "", "…"),
    ("cp web:/tmp/note -", "", 0, "note…noted\n…", ""),
    ("cp web:/nonesuch DIR", "", 1, "", "…/nonesuch…"),
    ("cp DIR/nonesuch web:/", "", 1, "", "…no such file or directory…"),
    ("pause web", "", 0, "web\n", ""),
    ("ps --filter status=paused --format {{.Status}}", "", 0, "Up …(Paused)\n", ""),
    ("exec web true", "", 1, "", "…is paused…"),
    ("pause web", "", 1, "", "…already paused…"),
    ("unpause web", "", 0, "web\n", ""),
    ("unpause web", "", 1, "", "…is not paused…"),
    ("update -m 4g web", "", 1, "", "…"),
    ("update --restart no web", "", 0, "web\n", ""),
    (
        "commit -m 'a note' -a me --change 'CMD [\"cat\",\"/tmp/note\"]' --change 'ENV X=y' web made:1",
        "",
        0,
        "sha256:…\n",
        "",
    ),
    (
        "inspect -f '{{.Comment}} {{.Author}} {{.Config.Cmd}}' made:1",
        "",
        0,
        "a note me [cat /tmp/note]\n",
        "",
    ),
    ("history --format '{{.Comment}}' made:1", "", 0, "a note\n…", ""),
    ("commit --change 'NONE x' web made:2", "", 1, "", "…"),
    ("commit nonesuch made:2", "", 1, "", "…No such container: nonesuch…"),
    ("tag made:1 other/made:2", "", 0, "", ""),
    ("tag nonesuch x", "", 1, "", "…No such image: nonesuch:latest…"),
    ("images --format '{{.Repository}}:{{.Tag}}' other/made", "", 0, "other/made:2\n", ""),
    ("images --filter reference=made --format '{{.Repository}}:{{.Tag}}'", "", 0, "made:1\n", ""),
    ("images -q --filter dangling=true", "", 0, "", ""),
    ("rmi other/made:2", "", 0, "Untagged: other/made:2\n", ""),
    ("rmi nonesuch", "", 1, "", "…No such image: nonesuch…"),
    ("rmi base", "", 1, "", "…conflict: unable to …"),
    ("kill -s NONESUCH web", "", 1, "", "…nvalid signal: NONESUCH…"),
    ("rm web", "", 1, "", "…cannot remove container …"),
    (
        "events --since 1 --until 0s --filter container=web --filter event=pause --format '{{.Action}} {{.Actor.Attributes.name}}'",
        "",
        0,
        "pause web\n",
        "",
    ),
    ("stop web", "", 0, "web\n", ""),
    ("inspect -f '{{.State.ExitCode}}' web", "", 0, "3\n", ""),
    ("logs -f --tail 1 web", "", 0, "bye\n", ""),
    ("stop web", "", 0, "web\n", ""),
    ("start web", "", 0, "web\n", ""),
    ("start web", "", 0, "web\n", ""),
    ("restart -t 0 web", "", 0, "web\n", ""),
    ("kill web", "", 0, "web\n", ""),
    ("wait web", "", 0, "137\n", ""),
    ("cp web:/tmp/note -", "", 0, "note…noted\n…", ""),
    ("rm -f web", "", 0, "web\n", ""),
    ("run --rm made:1", "", 0, "noted\n", ""),
];

/// Images as files, what there is of them, and what there is not.
const REST: &[Row] = &[
    ("create --name gone -i made:1 cat", "", 0, ID, ""),
    ("start -ai gone", "in and out\n", 0, "in and out\n", ""),
    ("export -o DIR/tree gone", "", 0, "", ""),
    ("import --change 'CMD [\"cat\",\"/made\"]' -m why DIR/tree flat:1", "", 0, "…sha256:…\n", ""),
    ("run --rm flat:1 cat /tmp/note", "", 0, "noted\n", ""),
    ("rm gone", "", 0, "gone\n", ""),
    ("save -o DIR/saved made:1", "", 0, "", ""),
    ("save nonesuch -o DIR/none", "", 1, "", "…No such image: nonesuch…"),
    ("rmi made:1 flat:1", "", 0, "Untagged: made:1\nDeleted: sha256:…\nUntagged: flat:1\n…", ""),
    ("load -i DIR/saved", "", 0, "Loaded image: made:1\n", ""),
    ("load -i DIR/note", "", 1, "…", "…"),
    ("version --format '{{.Server.Os}} {{.Server.Arch}}'", "", 0, "linux amd64\n", ""),
    ("info --format '{{.OSType}} {{.Containers}} {{.Driver}}'", "", 0, "linux 0 …\n", ""),
    ("image inspect -f {{.Os}} base", "", 0, "linux\n", ""),
    ("image prune -f", "", 0, "Total reclaimed space: 0B\n", ""),
    (
        "system df",
        "",
        0,
        "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE\nImages …Containers …Local Volumes …Build Cache …",
        "",
    ),
    ("system prune -f", "", 0, "Total reclaimed space: 0B\n", ""),
    ("volume ls -q", "", 0, "", ""),
    ("volume create x", "", 1, "", "…does not support volumes yet…"),
    ("volume prune -f", "", 0, "Total reclaimed space: 0B\n", ""),
    ("network create --subnet 10.77.0.0/24 shop", "", 0, ID, ""),
    (
        "network ls --filter type=custom --format '{{.Name}} {{.Driver}}'",
        "",
        0,
        "shop bridge\n",
        "",
    ),
    ("network inspect -f '{{(index .IPAM.Config 0).Subnet}}' shop", "", 0, "10.77.0.0/24\n", ""),
    ("network prune -f", "", 0, "Deleted Networks:\nshop\n\n", ""),
    ("network rm shop", "", 1, "", "…shop…"),
    ("pull nonesuch", "", 1, "…", "…registries…"),
    ("push made:1", "", 1, "…", "…registries…"),
    ("search nonesuch", "", 1, "", "…registries…"),
    ("login -u me --password-stdin localhost:1", "secret", 1, "", "…"),
    ("build -q DIR/none", "", 1, "", "…"),
    ("swarm init", "", 1, "", "…swarm…"),
    ("plugin ls -q", "", 0, "", ""),
    ("rmi -f made:1", "", 0, "Untagged: made:1\nDeleted: sha256:…\n", ""),
];

#[test]
fn every_verb_and_option_of_the_docker_client_does_what_it_says() {
    let mut cli = Cli::new("docker's verbs and options");
    cli.check_all(RUN);
    let cid = fs::read_to_string(cli.world.root().join("cid")).unwrap_or_default();
    cli.has("--cidfile has an id in it", cid.len() == 64);
    cli.check_all(CREATE);

    let script = "trap 'echo bye; exit 3' TERM; echo one; echo two; echo three; \
                  while :; do sleep 1 & wait; done";
    let words = ["run", "-d", "--name", "web", "-e", "GREETING=hello", "-p", "127.0.0.1:0:80"];
    let id = ok(&cli.client, &cli.world, &[&words[..], &["base", "sh", "-c", script]].concat());
    cli.has("run -d prints an id", id.len() == 64);
    cli.world.ok(&["wait", "--for", "log=three", "--timeout", "600", "web"]);
    cli.check_all(LIVE);
    let back = fs::read_to_string(cli.world.root().join("back")).unwrap_or_default();
    cli.has("cp brings a file back", back == "noted\n");
    cli.check_all(REST);

    signals_reach_the_process(&mut cli);
    terminals_are_left_and_joined(&mut cli);
    cli.has("there are many", cli.checks >= 120);
}

/// The client hands on what it is sent, and ends as its process does.
fn signals_reach_the_process(cli: &mut Cli) {
    let script = "trap 'exit 9' TERM; trap 'echo interrupted; exit 8' INT; echo up; \
                  while :; do sleep 1 & wait; done";
    for (signal, code, said) in [(Signal::TERM, 9, ""), (Signal::INT, 8, "interrupted\n")] {
        let mut child =
            docker(&cli.client, &cli.world, &["run", "--rm", "base", "sh", "-c", script])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .expect("run docker");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let mut up = String::new();
        output.read_line(&mut up).expect("a line");
        assert_eq!(up, "up\n");
        kill_process(Pid::from_child(&child), signal).expect("send a signal");
        let mut rest = String::new();
        output.read_to_string(&mut rest).expect("its last words");
        let status = child.wait().expect("wait for docker");
        cli.has("a signal is handed on", status.code() == Some(code) && rest == said);
    }
}

fn terminals_are_left_and_joined(cli: &mut Cli) {
    let leave_by_x = "run -it --name shell --detach-keys ctrl-x,x base sh";
    let mut terminal = Terminal::open(&cli.command(leave_by_x));
    terminal.expect("# ");
    terminal.type_keys("kept=here\r");
    terminal.expect("# ");
    terminal.type_keys("\u{18}x");
    cli.has("detach keys leave it with docker's code", terminal.exit_code() == 0);
    cli.check_all(&[(
        "inspect -f '{{.State.Running}} {{.Config.Tty}}' shell",
        "",
        0,
        "true true\n",
        "",
    )]);
    let mut terminal = Terminal::open(&cli.command("attach shell"));
    terminal.type_keys("\recho $kept; stty size\r");
    terminal.expect("here\r\n");
    terminal.expect("24 80");
    terminal.type_keys("exit 4\r");
    cli.has("attach ends with the process's code", terminal.exit_code() == 4);
    let ran = run(&mut cli.command("rm shell"));
    assert_eq!(ran.code, 0, "{ran:?}");
}
