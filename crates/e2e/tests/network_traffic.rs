//! Traffic in bulk and in small, between guests, their host, and clients of published ports.
//!
//! `IREKO_NET_MIB`, `IREKO_NET_SHORT` and `IREKO_NET_MANY` set how much: `make soak` has 1024 MiB,
//! 1,000 connections one after the other and 200 at once.

use ireko_e2e::guest_program::give_talker;
use ireko_e2e::programs::{await_death, kill};
use ireko_e2e::slots::Vms;
use ireko_e2e::{World, run, talker};
use std::process::Command;
use std::time::Instant;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Runs the talker on the host; says how long it took.
#[track_caller]
fn on_host(what: &str, words: &[&str]) {
    let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
    let took = talker::talk(&words).unwrap_or_else(|error| panic!("{what}: {words:?}: {error}"));
    eprintln!("      {what}: {:.2} s", took.as_secs_f64());
}

#[test]
fn what_is_sent_arrives_whole_in_all_directions_in_bulk_and_in_small() {
    let world = World::new("traffic", Vms::Two);
    let length = (setting("IREKO_NET_MIB", 24) << 20).to_string();
    let short = setting("IREKO_NET_SHORT", 100).to_string();
    let many = setting("IREKO_NET_MANY", 64).to_string();
    world.ok(&["network", "create", "--subnet", "10.85.0.0/24", "net"]);
    let ports = ["-p", "127.0.0.1::7000", "-p", "127.0.0.1::7000/udp"];
    let start = ["run", "-d", "--name", "server", "--network", "net", "--ip", "10.85.0.9"];
    let serve = "while [ ! -x /bin/talker ]; do sleep 0.1; done; exec /bin/talker serve 7000";
    world.ok(&[&start[..], &ports, &["base", "sh", "-c", serve]].concat());
    world.ok(&["run", "-d", "--name", "client", "--network", "net", "base", "sleep", "36000"]);
    give_talker(&world, "server");
    give_talker(&world, "client");
    world.ok(&["wait", "--for", "port=7000", "server"]);
    let host = format!("10.85.0.1:{}", talker::serve("0.0.0.0:0").expect("serve"));
    let at = world.ok(&["port", "server", "7000/tcp"]);
    let at_udp = world.ok(&["port", "server", "7000/udp"]);
    let in_guest = |what: &str, words: &[&str]| {
        let took = world.ok(&[&["exec", "client", "/bin/talker"][..], words].concat());
        eprintln!("      {what}: {took} s");
    };

    in_guest("guest to host", &["up", &host, &length]);
    in_guest("host to guest", &["down", &host, &length]);
    in_guest("guest to guest", &["up", "10.85.0.9:7000", &length]);
    in_guest("guest from guest", &["down", "10.85.0.9:7000", &length]);
    on_host("published port, in", &["up", &at, &length]);
    on_host("published port, out", &["down", &at, &length]);
    in_guest("short to host", &["short", &host, &short]);
    on_host("short to published port", &["short", &at, &short]);
    in_guest("many to host", &["many", &host, &many]);
    in_guest("many to guest", &["many", "10.85.0.9:7000", &many]);
    on_host("many to published port", &["many", &at, &many]);
    in_guest("host's reset", &["reset", &host]);
    in_guest("guest's reset", &["reset", "10.85.0.9:7000"]);
    on_host("reset by published port", &["reset", &at]);
    for size in ["1", "1400"] {
        in_guest("datagram to host", &["datagram", &host, size]);
        in_guest("datagram to guest", &["datagram", "10.85.0.9:7000", size]);
        on_host("datagram to published port", &["datagram", &at_udp, size]);
    }

    // Another switch carries on with the same address, name and ports.
    let switch = world.process("switch");
    kill(switch);
    await_death(switch);
    let again = Instant::now();
    while talker::short(&at, 1).is_err() || talker::datagram(&at_udp, 9).is_err() {
        assert!(again.elapsed().as_secs() < 120, "no switch took its place");
    }
    in_guest("guest to host, by another switch", &["up", &host, "1000000"]);
    in_guest("guest to guest, by another switch", &["up", "server:7000", "1000000"]);
}

#[test]
fn nothing_answers_that_was_not_asked_for() {
    let world = World::new("probing", Vms::One);
    let loopback = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let private = loopback.local_addr().expect("an address").port();
    let everywhere = std::net::TcpListener::bind("0.0.0.0:0").expect("listen");
    let public = everywhere.local_addr().expect("an address").port();
    for driver in ["nat", "natnet", "hostonly", "internal"] {
        world.ok(&["network", "create", "-d", driver, "--subnet", "10.86.0.0/24", "net"]);
        let ports: &[&str] = if driver == "internal" { &[] } else { &["-p", "127.0.0.1::80"] };
        let start = ["run", "-d", "--name", "box", "--network", "net"];
        world.ok(&[&start[..], ports, &["base", "sleep", "3600"]].concat());
        give_talker(&world, "box");
        let scan = |hosts: &str, first: u16, last: u16| {
            let (first, last) = (first.to_string(), last.to_string());
            world.ok(&["exec", "box", "/bin/talker", "scan", hosts, &first, &last])
        };
        // The gateway is the host where there is one to reach, but not its loopback address.
        let own = match driver {
            "internal" => "[]".to_owned(),
            _ => format!("[\"10.86.0.1:{public}\"]"),
        };
        assert_eq!(scan("10.86.0.1,10.86.0.77", public, public), own, "{driver}");
        let nowhere = "10.86.0.1,10.86.0.77,169.254.169.254,240.0.0.1";
        assert_eq!(scan(nowhere, private, private), "[]", "{driver}: the host's loopback");
        if driver == "internal" {
            assert_eq!(scan("10.86.0.1", 1, 1024), "[]", "an internal gateway has no port");
        }
        if !driver.starts_with("nat") {
            assert_eq!(scan("172.17.0.1,192.0.2.1", public, public), "[]", "{driver}: outside");
        }

        // On the host, the switch listens for what was published and for nothing else.
        let pid = world.process("switch").to_string();
        let sockets = run(Command::new("ss").args(["-Hlntup"])).ok();
        let ours: Vec<_> =
            sockets.lines().filter(|line| line.contains(&format!("pid={pid},"))).collect();
        assert_eq!(ours.len(), ports.len() / 2, "{driver}: {ours:?}");
        if let [line] = ours[..] {
            let at = world.ok(&["port", "box", "80"]);
            assert!(line.contains(&at), "{line} is not {at}");
        }
        world.ok(&["rm", "-f", "box"]);
        world.ok(&["network", "rm", "net"]);
    }
}
