//! What containers use, as docker's client shows it.

use ireko_e2e::World;
use ireko_e2e::docker;
use ireko_e2e::slots::Vms;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// The JSON body of a `GET`.
#[track_caller]
fn get(world: &World, path: &str) -> serde_json::Value {
    let mut socket = UnixStream::connect(world.root().join("ireko.sock")).expect("the socket");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).expect("ask");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[test]
fn what_a_container_uses_is_what_its_processes_use() {
    let world = World::new("stats", Vms::One);
    let client = docker::client();
    let work = "head -c 20m /dev/urandom > /dev/shm/x; head -c 1m /dev/urandom > /y; sync; \
                wget -qO /dev/null http://192.0.2.1:9 & while :; do :; done";
    world.ok(&["run", "-d", "--name", "busy", "-m", "256m", "base", "sh", "-c", work]);
    let shown = |name: &str| {
        let format = "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}} {{.NetIO}}";
        docker::ok(&client, &world, &["stats", "--no-stream", "--format", format, name])
    };
    let seen = shown("busy");
    let words: Vec<_> = seen.split_whitespace().collect();
    let percent: f64 = words[1].trim_end_matches('%').parse().expect("a percentage");
    assert!(percent > 10.0 && percent <= 110.0, "{seen}");
    assert!(words[0] == "busy" && seen.contains("/ 256MiB"), "{seen}");
    assert!(words[5].parse::<u32>().is_ok_and(|tasks| tasks >= 1), "{seen}");
    let told = get(&world, "/v1.50/containers/busy/stats?stream=0&one-shot=1");
    let number = |pointer: &str| told.pointer(pointer).and_then(|it| it.as_u64()).unwrap_or(0);
    assert!(number("/memory_stats/usage") > 0, "{told}");
    assert!(number("/cpu_stats/system_cpu_usage") > number("/cpu_stats/cpu_usage/total_usage"));
    assert!(told.pointer("/networks/eth0/tx_bytes").is_some(), "{told}");
    assert_eq!(told["preread"], "0001-01-01T00:00:00Z");
    world.ok(&["kill", "busy"]);
    world.ok(&["wait", "busy"]);
    assert!(shown("busy").starts_with("busy 0.00% 0B / 0B 0"), "{}", shown("busy"));
}
