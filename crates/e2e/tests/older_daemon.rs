//! A shim beside daemons of other releases than its own: each wire message as it is, without our code for it.

use ireko_e2e::World;
use ireko_e2e::slots::Vms;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// What the first release's daemon asks, a message a line.
const FIRST: &str = include_str!("../../protocol/tests/golden/shim-v1.jsonl");

/// The first answer to one message on a connection of its own.
#[track_caller]
fn ask(world: &World, container: &str, message: &str) -> Value {
    let record = fs::read_to_string(world.container_dir(container).join("shim.json"));
    let record: Value = serde_json::from_str(&record.expect("shim.json")).expect("JSON");
    let socket = record["socket"].as_str().expect("the shim's socket");
    let mut line = UnixStream::connect(socket).expect("the shim");
    line.set_read_timeout(Some(Duration::from_secs(300))).expect("a deadline");
    let length = u32::try_from(message.len()).expect("a short message");
    let head = [length.to_le_bytes(), [0; 4], [1, 0, 0, 0]].concat();
    line.write_all(&[&head, message.as_bytes()].concat()).expect("ask");
    let mut head = [0; 12];
    line.read_exact(&mut head).unwrap_or_else(|error| panic!("no answer to {message}: {error}"));
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let mut answer = vec![0; length as usize];
    line.read_exact(&mut answer).expect("the whole answer");
    serde_json::from_slice(&answer).expect("JSON")
}

/// The message of the first release that asks for this.
fn first(request: &str) -> &'static str {
    let word = format!(r#""do":"{request}""#);
    FIRST.lines().find(|line| line.contains(&word)).expect("a message of the first release")
}

#[test]
fn a_shim_answers_the_first_releases_daemon_and_tells_later_ones_what_it_does_not_know() {
    let world = World::new("daemons of other releases", Vms::One);
    world.ok(&["run", "-d", "--name", "old", "base", "sleep", "1000"]);
    let answer = |message: &str| ask(&world, "old", message);

    let status = answer(first("status"));
    assert_eq!((&status["answer"], &status["phase"]), (&json!("status"), &json!("running")));
    assert_eq!(status["vm_pid"], world.inspect("old", "/State/Pid"));
    assert_eq!(answer(first("start"))["answer"], "started");
    assert_eq!(answer(first("attach")), json!({ "answer": "attached" }));
    assert_eq!(answer(first("exec"))["answer"], "exec_started");
    let processes = answer(first("list_processes"));
    assert_eq!(processes["processes"][0]["command"], "sleep 1000");
    for request in ["pause", "unpause"] {
        assert_eq!(answer(first(request)), json!({ "answer": "done" }));
    }

    let later = answer(r#"{"version":1,"of_later":1,"request":{"do":"status","of_later":[true]}}"#);
    assert_eq!(later["phase"], "running");
    let refused = |message: &str, said: &str| {
        let answer = answer(message);
        assert_eq!(answer["answer"], "failed", "{answer}");
        let message = answer["message"].as_str().expect("a message");
        assert!(message.contains(said) && message.contains("restart the container"), "{message}");
    };
    refused(r#"{"version":1,"request":{"do":"fly","where":"south"}}"#, "does not know");
    refused(r#"{"version":9,"request":{"do":"status"}}"#, "version 1, the daemon 9");
    refused(r#"{"version":9,"request":"of another shape"}"#, "version 1, the daemon 9");

    assert_eq!(answer(first("power_off")), json!({ "answer": "done" }));
    world.run(&["wait", "old"]);
    assert_eq!(world.inspect("old", "/State/Status"), "exited");
}
