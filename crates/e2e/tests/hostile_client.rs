//! What a client of the daemon may do to it on purpose: it goes on answering, with bounded memory and
//! few open files, and is as before when the client is gone.

use ireko_e2e::http::{answer, say, status};
use ireko_e2e::slots::Vms;
use ireko_e2e::victim::{Victim, await_true, count_entries};
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Instant;

/// A head that is not finished.
const UNFINISHED: &[u8] = b"GET /_ping HTTP/1.1\r\nHost: x\r\nX-Slow: ";
/// How many connections may wait for a request. See `seats.rs` of the daemon.
const MOST_WAITING: usize = 512;

fn slow_loris(victim: &Victim) {
    let mut slow = victim.crowd(2000, UNFINISHED);
    victim.works();
    victim.is_bounded("2000 unfinished heads", MOST_WAITING + 16, 64);
    // The last of them are still waited for.
    let last = slow.last_mut().expect("some");
    say(last, b"done\r\nConnection: close\r\n\r\n");
    assert_eq!(answer(last).0, 200);
}

fn large_heads(victim: &Victim) {
    let head = [UNFINISHED, &[b'x'; 120 << 10]].concat();
    let _slow = victim.crowd(600, &head);
    victim.works();
    victim.is_bounded("600 large heads", MOST_WAITING + 16, 160);
    let line = b"X-Header: value\r\n".repeat(20_000);
    let status = victim.ask(&[b"GET /_ping HTTP/1.1\r\n", &line[..], b"\r\n"].concat()).0;
    assert!([0, 431].contains(&status), "{status}");
    let status = victim.request("GET", &format!("/_ping?{}", "x".repeat(90_000)), b"").0;
    assert!([0, 400, 414, 431].contains(&status), "{status}");
}

fn lengths_that_are_none(victim: &Victim) {
    let create = "POST /containers/create HTTP/1.1\r\nHost: x\r\n";
    for (headers, expected) in [
        ("Content-Length: -1\r\n", [400, 400]),
        ("Content-Length: +5\r\n", [400, 400]),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", [400, 400]),
        ("Content-Length: 99999999999999999999999\r\n", [400, 400]),
        ("Content-Length: 18446744073709551615\r\n", [431, 413]),
        ("Content-Length: 9223372036854775807\r\n", [413, 413]),
        ("Transfer-Encoding: gzip\r\n", [400, 501]),
    ] {
        let (status, _) = victim.ask(format!("{create}{headers}\r\n").as_bytes());
        assert!(expected.contains(&status), "{headers:?}: {status}");
    }
}

fn broken_chunks(victim: &Victim) {
    let head = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extension = format!("1;{}\r\n", "x".repeat(1 << 20));
    let trailers = format!("0\r\n{}", "X: y\r\n".repeat(100_000));
    for path in ["/containers/create", "/images/load", "/images/create?fromSrc=-"] {
        let before = count_entries(&victim.world.root().join("spool"));
        for chunks in [
            "zz\r\n",
            "ffffffffffffffff\r\n",
            "fffffffffffffffff\r\n",
            "5\r\nabc",
            &extension,
            &trailers,
        ] {
            let mut stream = victim.connect();
            say(&mut stream, format!("POST {path} {head}{chunks}").as_bytes());
            // Who hung up first is not reached any more.
            let _ = stream.shutdown(Shutdown::Write);
            let (status, body) = answer(&mut stream);
            let shown = &chunks[..chunks.len().min(20)];
            let is_refused =
                status == 0 || (400..500).contains(&status) || body.contains("\"error\"");
            assert!(is_refused, "{path} {shown:?}: {status} {body}");
        }
        let spool = victim.world.root().join("spool");
        await_true("nothing is left of what came", || count_entries(&spool) <= before);
    }
}

fn malformed_json(victim: &Victim) {
    let deep = "[".repeat(1 << 20);
    let objects = "{\"a\":".repeat(200_000);
    let long = format!("{{\"Image\":\"base\",\"Env\":[{}\"\"]}}", "\"\",".repeat(600_000));
    let unknown = format!("{{\"Unknown\":[{}0]}}", "0,".repeat(900_000));
    let large = format!("{{\"Image\":\"{}\"}}", "x".repeat(3 << 20));
    let bodies = [
        deep.as_bytes(),
        objects.as_bytes(),
        unknown.as_bytes(),
        large.as_bytes(),
        b"\xff\xfe",
        b"\0",
        b"{\"Image\":\"\\u0000\"}",
        b"{\"Image\":1e999}",
        b"[]",
        b"\"\"",
        b"17",
    ];
    for path in [
        "/containers/create",
        "/containers/still/exec",
        "/containers/still/update",
        "/exec/nonesuch/start",
        "/commit?container=nonesuch",
        "/networks/create",
        "/networks/bridge/connect",
        "/networks/bridge/disconnect",
        "/ireko/images/import",
        "/ireko/images/base/export",
        "/ireko/containers/still/keys",
        "/ireko/containers/still/address",
        "/ireko/warm",
    ] {
        for body in bodies {
            let (status, said) = victim.request("POST", path, body);
            assert!(
                (200..500).contains(&status) || status == 501,
                "{path} {:?}: {status} {said}",
                &body[..2.min(body.len())]
            );
        }
    }
    // More variables than any system takes, but a body that is read: refused or kept, and answered.
    let (status, _) = victim.request("POST", "/containers/create?name=stuffed", long.as_bytes());
    assert!([201, 400, 413].contains(&status), "{status}");
    victim.request("DELETE", "/containers/stuffed", b"");
    victim.is_bounded("malformed JSON", 16, 256);
}

fn bodies_that_never_end(victim: &Victim) {
    let head = "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n";
    let _part = victim.crowd(150, &[head.as_bytes(), b"{\"Image\":\""].concat());
    victim.works();
    let mut fat = Vec::new();
    for mut stream in victim.crowd(100, head.as_bytes()) {
        stream.set_nonblocking(true).expect("not to wait");
        // As much as it takes.
        let mut left = 1_900_000;
        while left > 0 {
            match stream.write(&[b'x'; 65536][..left.min(65536)]) {
                Ok(count) => left -= count,
                Err(_) => break,
            }
        }
        fat.push(stream);
    }
    victim.works();
    victim.is_bounded("250 bodies without an end", 270, 128);
}

fn strange_names(victim: &Victim) {
    let long = "x".repeat(50_000);
    let names = [
        "%00",
        "a%00b",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        "%ff",
        "%zz",
        "%",
        "-",
        "%0d%0aX:y",
        "*",
        "%F0%9F%92%A9",
        &long,
    ];
    let paths = [
        ("GET", "/containers/{}/json"),
        ("POST", "/containers/{}/start"),
        ("POST", "/containers/{}/attach?stream=1&stdout=1"),
        ("DELETE", "/containers/{}"),
        ("GET", "/containers/{}/archive?path=/"),
        ("POST", "/containers/still/rename?name={}"),
        ("POST", "/containers/still/kill?signal={}"),
        ("POST", "/containers/still/resize?h={}&w={}"),
        ("POST", "/containers/create?name={}"),
        ("POST", "/exec/{}/start"),
        ("GET", "/exec/{}/json"),
        ("GET", "/images/{}/json"),
        ("DELETE", "/images/{}"),
        ("GET", "/images/{}/get"),
        ("GET", "/images/get?names={}"),
        ("POST", "/images/{}/tag?repo=x"),
        ("GET", "/images/json?filters={}"),
        ("POST", "/commit?container={}"),
        ("GET", "/networks/{}"),
        ("DELETE", "/networks/{}"),
        ("GET", "/volumes/{}"),
        ("GET", "/events?since={}"),
        ("GET", "/ireko/tree?node={}"),
        ("DELETE", "/ireko/images/{}"),
        ("GET", "/ireko/images/{}/export"),
        ("POST", "/ireko/images/base/merge?to={}"),
        ("POST", "/ireko/images/{}/rename?name=x"),
        ("POST", "/ireko/containers/{}/wait?for=agent"),
        ("POST", "/ireko/containers/still/wait?for={}"),
        ("POST", "/ireko/containers/still/wait?for=log={}"),
        ("POST", "/ireko/containers/still/connect?port={}"),
        ("GET", "/{}"),
        ("{}", "/_ping"),
    ];
    for (method, path) in paths {
        for name in names {
            let (method, path) = (method.replace("{}", "P%"), path.replace("{}", name));
            let (status, said) = victim.request(&method, &path, br#"{"Image": "base"}"#);
            let shown = &path[..path.len().min(80)];
            assert!(
                (400..500).contains(&status),
                "{method} {shown}: {status} {}",
                &said[..said.len().min(200)]
            );
        }
    }
    let patterns =
        ["(a{1000}){1000}", "((((((((((a{9}){9}){9}){9}){9}){9}){9}){9}){9}){9})", "[", "(?"];
    for pattern in patterns.map(|text| text.replace('{', "%7b").replace('}', "%7d")) {
        let path = format!("/ireko/containers/still/wait?for=log={pattern}");
        assert_eq!(victim.request("POST", &path, b"").0, 400, "{pattern}");
    }
}

fn events_that_nobody_reads(victim: &Victim) {
    let words = b"GET /events?since=1 HTTP/1.1\r\nHost: x\r\n\r\n";
    let _deaf = victim.crowd(1000, words);
    let label = "x".repeat(20_000);
    for _ in 0..20 {
        let body = format!("{{\"Image\":\"base\",\"Labels\":{{\"l\":\"{label}\"}}}}");
        let (status, said) =
            victim.request("POST", "/containers/create?name=loud", body.as_bytes());
        assert_eq!(status, 201, "{said}");
        assert_eq!(victim.request("DELETE", "/containers/loud", b"").0, 204);
    }
    victim.works();
    victim.is_bounded("1000 deaf readers of events", 1016, 384);
}

fn half_closed_uploads(victim: &Victim) {
    for path in ["/images/load", "/images/create?fromSrc=-"] {
        for length in ["10", "1000000000000000"] {
            let mut stream = victim.connect();
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
            );
            say(&mut stream, head.as_bytes());
            stream.shutdown(Shutdown::Write).expect("half a close");
            let (status, said) = answer(&mut stream);
            let is_told = status == 0 || status >= 400 || said.contains("\"error\"");
            assert!(is_told, "{path} {length}: {status} {said}");
        }
    }
    // Each takes a thread while it is waited for, and there are only so many.
    let head = b"POST /images/load HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n";
    let _stalled = victim.crowd(700, head);
    let spool = victim.world.root().join("spool");
    await_true("uploads begin", || count_entries(&spool) > 8);
    victim.works();
    assert!(count_entries(&spool) <= 64, "uploads at a time");
    victim.is_bounded("700 stalled uploads", 700 + 64 + 16, 96);
}

fn clients_that_vanish(victim: &Victim) {
    let began = br#"{"Image": "base", "OpenStdin": true}"#;
    assert_eq!(victim.request("POST", "/containers/create?name=awaited", began).0, 201);
    for path in ["wait?condition=next-exit", "attach?stream=1&stdin=1&stdout=1&stderr=1"] {
        let upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
        let words = format!("POST /containers/awaited/{path} HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n");
        let mut crowd = victim.crowd(200, words.as_bytes());
        for stream in &mut crowd {
            assert!([101, 200].contains(&status(stream)));
        }
        drop(crowd);
        victim.recovers();
    }
}

/// As many requests as may be under way: all others are told, but for the most urgent.
fn a_full_house(victim: &Victim) {
    let limits = fs::read_to_string(format!("/proc/{}/limits", victim.pid)).expect("its limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("files");
    let files = line.split_whitespace().next().and_then(|word| word.parse().ok());
    let seats = (files.unwrap_or(u64::MAX).saturating_sub(256) / 3).clamp(64, 4096) as usize;
    let own = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if own < seats as u64 + 256 {
        eprintln!("skipped: {own} open files are too few to fill {seats} seats");
        return;
    }
    let mut crowd = victim.crowd(seats, b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n");
    victim.lives();
    let served = crowd.iter_mut().map(status).filter(|status| *status == 200).count();
    // All that waited at a time but some may have been shown out before they were heard.
    assert!((seats / 2..=seats / 4 * 3).contains(&served), "{served} of {seats}");
    let (status, said) = victim.request("GET", "/containers/json", b"");
    assert!(status == 503 && said.contains("too many requests"), "{status} {said}");
    victim.lives();
    victim.is_bounded("as many requests as there may be", seats + 16, 384);
}

/// What is done, in a word, and how.
type Attack = (&'static str, fn(&Victim));

/// One attack after the other; after each the daemon is well.
fn run_all(victim: &mut Victim, attacks: &[Attack]) {
    for (name, attack) in attacks {
        let began = Instant::now();
        attack(victim);
        victim.recovers();
        eprintln!("      {name}: {:.1} s", began.elapsed().as_secs_f32());
        victim.rest();
    }
}

/// A request for a connection of its own.
const UPGRADE: &str = "HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n";

fn attaches_that_nobody_reads(victim: &Victim) {
    let words = format!("POST /containers/web/attach?stream=1&stdout=1&stdin=1 {UPGRADE}\r\n");
    let mut crowd = victim.crowd(600, words.as_bytes());
    let statuses: Vec<_> = crowd.iter_mut().map(status).collect();
    let count = |wanted| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!((count(101), count(409)), (256, 600 - 256));
    victim.works();
    victim.is_bounded("600 attaches, half of them half closed", 600 + 256 + 16, 256);
    for stream in crowd.iter().step_by(2) {
        // Those that were refused are closed already.
        let _ = stream.shutdown(Shutdown::Write);
    }
    victim.works();
    drop(crowd);
    // Whoever did not read held its output up.
    let mut reader = victim.connect();
    await_true("there is room for others", || {
        reader = victim.connect();
        say(&mut reader, words.as_bytes());
        status(&mut reader) == 101
    });
    let mut output = vec![0; 1 << 20];
    reader.read_exact(&mut output).expect("its output");
}

fn logs_and_stats_that_nobody_reads(victim: &Victim) {
    let of = |what: &str| format!("GET /containers/web/{what} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut logs = victim.crowd(500, of("logs?follow=1&stdout=1").as_bytes());
    // More than a user has inotify descriptors.
    assert!(logs.iter_mut().all(|stream| status(stream) == 200));
    let mut stats = victim.crowd(100, of("stats").as_bytes());
    assert!(stats.iter_mut().all(|stream| status(stream) == 200));
    victim.works();
    victim.is_bounded("500 deaf readers of a log, 100 of stats", 600 + 500 + 64, 384);
}

fn execs_without_end(victim: &Victim) {
    let create = |victim: &Victim, body: &str| {
        let (status, said) = victim.request("POST", "/containers/web/exec", body.as_bytes());
        let id = said.split('"').nth(3).unwrap_or_default().to_owned();
        (status, id)
    };
    let large = format!("{{\"Cmd\":[\"{}\"]}}", "x".repeat(1 << 20));
    let made: Vec<_> = (0..200).map(|_| create(victim, &large)).collect();
    assert!(made.iter().all(|(status, _)| *status == 201), "{made:?}");
    let find = |index: usize| {
        let (_, id) = &made[index];
        victim.request("GET", &format!("/exec/{id}/json"), b"").0
    };
    assert_eq!((find(0), find(199)), (404, 200), "the oldest make room");
    victim.is_bounded("200 large execs", 16, 160);
}

fn execs_that_nobody_reads(victim: &Victim) {
    let body = br#"{"Cmd":["dd","if=/dev/zero","bs=64k","count=64"],"AttachStdout":true,"AttachStdin":true}"#;
    let start = b"{}";
    let begin = || {
        let (made, said) = victim.request("POST", "/containers/web/exec", body);
        assert_eq!(made, 201, "{said}");
        let id = said.split('"').nth(3).expect("an id");
        let length = start.len();
        let head = format!("POST /exec/{id}/start {UPGRADE}Content-Length: {length}\r\n\r\n");
        let mut stream = victim.connect();
        say(&mut stream, &[head.as_bytes(), start].concat());
        assert_eq!(status(&mut stream), 101);
        stream
    };
    let _deaf: Vec<_> = (0..30).map(|_| begin()).collect();
    victim.works();
    victim.is_bounded("30 deaf readers of execs", 60 + 16, 128);
}

fn strange_paths_in_a_guest(victim: &Victim) {
    let long = format!("/{}", "x/".repeat(20_000));
    let paths = ["%00", "/etc%00/passwd", "/%ff", &long, "/nonesuch", "/etc/passwd/x"];
    for path in paths {
        for (method, query) in [("GET", ""), ("HEAD", ""), ("PUT", "&noOverwriteDirNonDir=1")] {
            let archive = vec![0; 1024];
            let target = format!("/containers/web/archive?path={path}{query}");
            let (status, said) = victim.request(method, &target, &archive);
            let shown = &path[..path.len().min(40)];
            assert!(
                (400..500).contains(&status),
                "{method} {shown}: {status} {}",
                &said[..said.len().min(200)]
            );
        }
    }
    for path in ["resize?h=99999999&w=1", "resize?h=-1&w=1", "kill?signal=999", "kill?signal=%00"] {
        let (status, said) = victim.request("POST", &format!("/containers/web/{path}"), b"");
        assert_eq!(status, 400, "{path}: {said}");
    }
    for exec in [
        r#"{"Cmd":["a\u0000b"]}"#,
        r#"{"Cmd":["true"],"WorkingDir":"/\u0000"}"#,
        r#"{"Cmd":["true"],"User":"\u0000"}"#,
        r#"{"Cmd":["true"],"Env":["A=\u0000"]}"#,
        r#"{"Cmd":[""]}"#,
    ] {
        let (status, said) = victim.request("POST", "/containers/web/exec", exec.as_bytes());
        if status == 201 {
            let id = said.split('"').nth(3).expect("an id");
            let start = victim.request("POST", &format!("/exec/{id}/start"), br#"{"Detach":true}"#);
            assert!((400..500).contains(&start.0), "{exec}: {start:?}");
        }
    }
}

#[test]
fn clients_that_do_not_read_harm_neither_the_daemon_nor_others() {
    let mut victim = Victim::new("hostile client of a container", Vms::One);
    let script = "while :; do echo a line of output that somebody should read; done";
    victim.world.ok(&["run", "-di", "--name", "web", "base", "sh", "-c", script]);
    victim.rest();
    let attacks: [Attack; 5] = [
        ("attaches", attaches_that_nobody_reads),
        ("logs and stats", logs_and_stats_that_nobody_reads),
        ("large execs", execs_without_end),
        ("deaf execs", execs_that_nobody_reads),
        ("strange paths", strange_paths_in_a_guest),
    ];
    run_all(&mut victim, &attacks);
    assert_eq!(victim.world.ok(&["exec", "web", "echo", "well"]), "well");
    victim.world.ok(&["rm", "-f", "web"]);
}

#[test]
fn a_hostile_client_neither_stops_the_daemon_nor_makes_it_grow() {
    let mut victim = Victim::new("hostile client", Vms::None);
    let attacks: [Attack; 11] = [
        ("slow heads", slow_loris),
        ("large heads", large_heads),
        ("lengths", lengths_that_are_none),
        ("broken chunks", broken_chunks),
        ("malformed JSON", malformed_json),
        ("bodies without an end", bodies_that_never_end),
        ("strange names", strange_names),
        ("deaf readers of events", events_that_nobody_reads),
        ("half-closed uploads", half_closed_uploads),
        ("clients that vanish", clients_that_vanish),
        ("a full house", a_full_house),
    ];
    let before = victim.memory();
    run_all(&mut victim, &attacks);
    // The second time it has the memory already.
    for (_, attack) in attacks.into_iter().filter(|(name, _)| name.contains("heads")) {
        attack(&victim);
    }
    let after = victim.memory();
    eprintln!("      {before} MiB before, {after} MiB after");
    assert!(after <= before + 512, "{before} MiB before, {after} MiB after");
}
