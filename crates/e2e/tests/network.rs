//! Networks with real guests, by the real docker clients and by `ireko`.

use ireko_e2e::docker::{self, client, docker};
use ireko_e2e::outside::{HOST, OUTSIDE, Outside};
use ireko_e2e::programs::{await_death, kill};
use ireko_e2e::slots::Vms;
use ireko_e2e::talk::{ask, host_server, read_from, read_soon, resolve, serve};
use ireko_e2e::{World, run};
use std::thread;

#[test]
fn docker_clients_make_networks_in_which_containers_find_each_other() {
    for (client, version) in docker::clients() {
        let world = World::new(&format!("networks by {version}"), Vms::Two);
        world.ok(&["version"]);
        let ok = |args: &[&str]| docker::ok(&client, &world, args);
        let fails = |args: &[&str], said: &str| {
            let ran = run(&mut docker(&client, &world, args));
            assert!(ran.code != 0 && ran.stderr.contains(said), "{ran:#?}");
        };
        assert_eq!(ok(&["network", "create", "--subnet", "10.77.0.0/24", "mesh"]).len(), 64);
        fails(&["network", "create", "mesh"], "network with name mesh already exists");
        fails(&["network", "create", "--subnet", "10.77.0.0/16", "wide"], "Pool overlaps");
        fails(&["network", "create", "bridge"], "predefined");
        fails(&["network", "rm", "bridge"], "pre-defined");
        assert!(ok(&["network", "ls"]).contains("mesh"));

        let run_db = ["run", "-d", "--name", "db", "--network", "mesh", "--ip", "10.77.0.9"];
        let more = ["--network-alias", "store", "--mac-address", "02:42:0a:4d:00:09", "base"];
        ok(&[&run_db[..], &more, &["sh", "-c", &serve("rows")]].concat());
        let address = ok(&[
            "inspect",
            "-f",
            "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}}{{end}}",
            "db",
        ]);
        assert_eq!(address, "10.77.0.9 02:42:0a:4d:00:09");
        assert!(ok(&["network", "inspect", "mesh"]).contains("10.77.0.9/24"));
        fails(&["network", "rm", "mesh"], "has active endpoints");
        let taken = ["create", "--network", "mesh", "--ip", "10.77.0.9", "base", "true"];
        fails(&taken, "Address already in use");
        let is_old = version.contains(" 20.10.");
        // That one does not even send it.
        if !is_old {
            fails(&["create", "--ip", "172.17.0.9", "base", "true"], "user configured subnets");
        }

        let asks =
            ["db", "store", "db.mesh", "10.77.0.9"].map(|name| ask(&format!("{name} 80"), true));
        let script = asks.join(";")
            + "; cat /sys/class/net/eth0/address; hostname -i; ping -c 1 -W 20 db | tail -1";
        let said =
            ok(&["run", "--rm", "--network", "mesh", "-h", "asker", "base", "sh", "-c", &script]);
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(&lines[..4], ["rows"; 4], "{said}");
        assert!(lines[4].starts_with("02:42:") && lines[5] == "10.77.0.2", "{said}");
        assert!(lines[6].contains("min/avg/max"), "{said}");

        ok(&["stop", "-t", "0", "db"]);
        ok(&["network", "disconnect", "mesh", "db"]);
        ok(&["network", "create", "--internal", "quiet"]);
        ok(&["network", "connect", "quiet", "db"]);
        fails(&["network", "connect", "quiet", "db"], "already exists in network quiet");
        ok(&["network", "rm", "mesh"]);
        ok(&["rm", "db"]);
        assert!(ok(&["network", "prune", "-f"]).contains("quiet"));
        fails(&["run", "--network", "host", "base", "true"], "host.docker.internal");
        fails(&["run", "--network", "container:db", "base", "true"], "each is a virtual");
        let gone = if is_old { "No such network: mesh" } else { "network mesh not found" };
        fails(&["network", "inspect", "mesh"], gone);
    }
}

#[test]
fn a_published_port_leads_to_the_guest_until_it_stops() {
    let world = World::new("published ports", Vms::One);
    let client = client();
    world.ok(&["version"]);
    let ok = |args: &[&str]| docker::ok(&client, &world, args);
    let published = ["run", "-d", "--name", "web", "-p", "127.0.0.1::80", "-p", "127.0.0.1::9/udp"];
    ok(&[&published[..], &["base", "sh", "-c", &serve("hello")]].concat());
    assert_eq!(world.ok(&["wait", "--for", "port=80", "web"]), "web");
    let late = world.run(&["wait", "--for", "port=81", "--timeout", "2", "web"]);
    late.fails_with(1, "nothing takes connections to its port 81");
    let at = ok(&["port", "web", "80"]);
    assert_eq!(read_soon(&at), "hello\n");
    assert_eq!(world.ok(&["port", "web", "80"]), at);
    assert!(ok(&["ps"]).contains(&format!("{at}->80/tcp")));
    assert!(ok(&["port", "web"]).contains("9/udp -> 127.0.0.1:"));

    let port = at.rsplit(':').next().expect("a port").to_owned();
    let twice = ["run", "--rm", "-p", &format!("127.0.0.1:{port}:80"), "base", "true"];
    let ran = run(&mut docker(&client, &world, &twice));
    ran.fails_with(125, "port is already allocated");

    ok(&["stop", "-t", "0", "web"]);
    assert!(read_from(&at).is_err(), "nobody listens for a guest that is gone");
    assert_eq!(world.ok(&["port", "web"]), "");
    world.run(&["wait", "--for", "port=80", "web"]).fails_with(1, "is not running");
}

#[test]
fn guests_carry_on_when_the_switch_and_the_daemon_are_killed() {
    let world = World::new("killed switch", Vms::One);
    world.ok(&["network", "create", "--subnet", "10.78.0.0/24", "net"]);
    let script = serve("alive");
    world.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "net",
        "-p",
        "127.0.0.1::80",
        "base",
        "sh",
        "-c",
        &script,
    ]);
    world.ok(&["wait", "--for", "ip", "web"]);
    let at = world.ok(&["port", "web", "80"]);
    assert_eq!(read_soon(&at), "alive\n");

    let first = switch_of(&world, None);
    kill(first);
    await_death(first);
    let switch = switch_of(&world, Some(first));
    assert_eq!(read_soon(&at), "alive\n", "another switch took its place, with the same port");

    world.ok(&["daemon", "stop"]);
    assert_eq!(read_soon(&at), "alive\n", "the network needs no daemon");
    assert_eq!(world.ok(&["port", "web", "80"]), at, "the next daemon knows it");
    assert_eq!(switch_of(&world, None), switch, "and took the switch over");
    assert_eq!(world.ok(&["ip", "web"]), "10.78.0.2");
    world.ok(&["stop", "-t", "0", "web"]);
    await_death(switch);
    world.ok(&["start", "web"]);
    assert_eq!(world.ok(&["ip", "web"]), "10.78.0.2", "it has the address that it had");
}

/// The process id of the switch, which may be on its way to be replaced.
fn switch_of(world: &World, other_than: Option<u32>) -> u32 {
    for _ in 0..600 {
        match world.processes("switch")[..] {
            [pid] if Some(pid) != other_than => return pid,
            _ => thread::sleep(std::time::Duration::from_millis(100)),
        }
    }
    panic!("there is no switch: {:?}", world.processes("switch"));
}

/// A guest's command that prints what a DHCP client is told.
const ASK_DHCP: &str = "echo '#!/bin/sh' >/bin/told; echo 'test $1 = bound || exit 0' >>/bin/told; \
     echo 'echo $ip/$mask router $router dns $dns mtu $mtu name $hostname' >>/bin/told; \
     chmod +x /bin/told; udhcpc -i eth0 -n -q -t 20 -s /bin/told 2>/dev/null";

#[test]
fn each_mode_leads_where_its_row_of_the_table_says() {
    let world = World::new("modes", Vms::Two);
    world.ok(&["version"]);
    let Some(outside) = Outside::routed() else { return };
    outside.speak(7000);
    let host = host_server("host");

    // guest→host, host→guest, guest→outside, outside→guest, guest↔guest
    let table = [
        ("nat", [true, true, true, true, false]),
        ("natnet", [true, true, true, true, true]),
        ("hostonly", [true, true, false, false, true]),
        ("internal", [false, false, false, false, true]),
    ];
    for (driver, expected) in table {
        let subnet = ["--subnet", "10.79.0.0/24", "--driver", driver, "n"];
        world.ok(&[&["network", "create"][..], &subnet].concat());
        let script = serve("guest");
        let options = ["run", "-d", "--name", "one", "--network", "n", "--ip", "10.79.0.8"];
        let ports: &[&str] = if driver == "internal" { &[] } else { &["-p", "80"] };
        world.ok(&[&options[..], ports, &["base", "sh", "-c", &script]].concat());
        let script = [
            ASK_DHCP.to_owned(),
            format!("echo $({})", resolve("one")),
            ask(&format!("10.79.0.1 {host}"), expected[0]),
            ask(&format!("{OUTSIDE} 7000"), expected[2]),
            ask("10.79.0.8 80", expected[4]),
        ]
        .join(";");
        let asker = ["run", "--rm", "-h", "asker", "--network", "n", "base", "sh", "-c", &script];
        let said = world.ok(&asker);
        let mut heard = said.split('\n').map(str::trim);
        let router = if expected[2] { "10.79.0.1" } else { "" };
        let lease = format!("10.79.0.2/24 router {router} dns 10.79.0.1 mtu 9000 name asker");
        assert_eq!(heard.next(), Some(&*lease.replace("  ", " ")), "{driver}: DHCP");
        // Of those whom it cannot reach a guest hears no names either.
        let known = if expected[4] { "10.79.0.8" } else { "" };
        assert_eq!(heard.next(), Some(known), "{driver}: names");
        let mut next = |word: &str| heard.next().unwrap_or_default() == word;
        let (to_host, to_outside, to_guest) = (next("host"), next("outside"), next("guest"));

        let ports = world.ok(&["port", "one"]);
        let port = ports.lines().next().and_then(|line| line.rsplit(':').next()).unwrap_or("1");
        let at = format!("127.0.0.1:{port}");
        let from_host = match expected[1] {
            true => read_soon(&at) == "guest\n",
            false => read_from(&at).is_ok(),
        };
        let from_outside = [HOST, "10.79.0.8"].iter().any(|address| {
            let port = if *address == HOST { port } else { "80" };
            let tries = if expected[3] && *address == HOST { 20 } else { 1 };
            (0..tries).any(|_| outside.ask(address, port) == "guest")
        });
        let found = [to_host, from_host, to_outside, from_outside, to_guest];
        assert_eq!(found, expected, "{driver}: {said:?}, ports {ports:?}");
        world.ok(&["rm", "-f", "one"]);
        world.ok(&["network", "rm", "n"]);
    }

    let nothing = world.ok(&["run", "--rm", "--network", "none", "base", "ls", "/sys/class/net"]);
    assert_eq!(nothing, "lo");
}
